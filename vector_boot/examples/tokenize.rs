//! Prints token ids: `tokenize MODEL.gguf [LIMIT]`.
//!
//! The model is checked first, as a machine does it. Then each line of stdin is a text as a JSON string, and the answer to
//! it is one line: its ids as a JSON array, at most LIMIT of them (default 512). Tests compare them with other tokenizers.

use std::io::{self, Write};
use std::process::ExitCode;

use vector_boot::gguf::Gguf;
use vector_boot::neural::architecture;
use vector_boot::neural::tokenizer::Tokenizer;

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or_else(|| io::Error::other("usage: tokenize MODEL.gguf [LIMIT]"))?;
    let limit = arguments.next().map_or(Ok(512), |limit| limit.parse()).map_err(io::Error::other)?;
    let file = std::fs::read(&path)?;
    let refused = |why: String| io::Error::other(format!("{path} is refused: {why}"));
    let gguf = Gguf::parse(&file).map_err(|error| refused(error.to_string()))?;
    architecture::check(&gguf).map_err(|error| refused(error.to_string()))?;
    let tokenizer = Tokenizer::from_gguf(&gguf).map_err(|error| refused(error.to_string()))?;
    let mut answers = io::stdout().lock();
    for line in io::stdin().lines() {
        let text: String = serde_json::from_str(&line?).map_err(io::Error::other)?;
        writeln!(answers, "{:?}", tokenizer.encode(&text, limit).ids)?;
    }
    Ok(())
}
