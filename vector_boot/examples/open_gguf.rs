//! Opens and validates GGUF files and prints how long each took, for `python -m tests.bench`.
//!
//! Each line of stdin is the path of a file; the answer to it is one line, `NANOSECONDS TENSORS`. What is timed is
//! what the machine does before it maps a model: open the file, read its head in growing windows, check it by the
//! rules R1 to R24, and give everything back.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use vector_boot::container_file::ContainerFile;

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
    let mut answers = io::stdout().lock();
    for path in io::stdin().lines() {
        let path = path?;
        let start = Instant::now();
        let tensors = open(&path)?;
        let nanoseconds = start.elapsed().as_nanos();
        writeln!(answers, "{nanoseconds} {tensors}")?;
    }
    Ok(())
}

/// The number of tensors in the file.
fn open(path: &str) -> io::Result<usize> {
    let file = ContainerFile::open(Path::new(path))?;
    let verdict = file.with_gguf(0, file.len, |gguf| gguf.tensors.len())?;
    verdict.map_err(|error| io::Error::other(format!("{path}: {error}")))
}
