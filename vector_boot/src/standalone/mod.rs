//! The executable's face: its command line.

mod check;
mod container_file;
mod report;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: vector_boot check [--json] [--key PUBLIC_KEY] FILE
       vector_boot --version

check FILE: judges a GGUF or RTS file by the rules R1 to R24 and RTS. Exit 0 and a summary, or exit 1 and one line
            FILE: RULE: FIELD: offset N: text
  --json    the summary or the refusal as one JSON object on stdout
  --key     also verify an RTS signature: a file with the Ed25519 public key, 32 raw bytes or 64 hex digits
";

/// The model that `VECTOR_BOOT_MODEL` named at build time; empty if none was embedded.
pub static EMBEDDED_MODEL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/embedded_model.gguf"));

/// Runs the command line (without the program's name). Exit codes: 0, 1 failure, 2 usage.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let words: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap_or_default()).collect();
    match words.as_slice() {
        ["--version"] => print(&format!("vector_boot {}\n", env!("CARGO_PKG_VERSION")), ExitCode::SUCCESS),
        ["--help" | "-h"] => print(USAGE, ExitCode::SUCCESS),
        ["check", rest @ ..] => run_check(rest, &args[1..]),
        _ => usage(),
    }
}

fn run_check(words: &[&str], args: &[OsString]) -> ExitCode {
    let (mut json, mut key, mut file) = (false, None, None);
    let mut rest = words.iter().zip(args).peekable();
    let mut options = true;
    while let Some((word, arg)) = rest.next() {
        match *word {
            "--" if options => options = false,
            "--json" if options => json = true,
            "--key" if options => match rest.next() {
                Some((_, path)) => key = Some(Path::new(path)),
                None => return usage(),
            },
            option if options && option.starts_with('-') => return usage(),
            _ if file.is_none() => file = Some(Path::new(arg)),
            _ => return usage(),
        }
    }
    let Some(file) = file else { return usage() };
    let outcome = check::check(file, key);
    let name = report::one_line(&file.to_string_lossy());
    if json {
        let object = match &outcome {
            Ok(summary) => report::summary_json(&name, summary),
            Err(refusal) => report::refusal_json(&name, refusal),
        };
        print(&object, ExitCode::SUCCESS);
    }
    match outcome {
        Ok(summary) if !json => print(&report::summary_text(&name, &summary), ExitCode::SUCCESS),
        Ok(_) => ExitCode::SUCCESS,
        Err(refusal) => {
            complain(&report::refusal_text(&name, &refusal));
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    complain(USAGE);
    ExitCode::from(2)
}

/// Writes to stdout; a reader that has gone away is not our failure.
fn print(text: &str, code: ExitCode) -> ExitCode {
    let _ = std::io::stdout().write_all(text.as_bytes());
    code
}

fn complain(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
