//! The executable: its command line.

pub mod boot;
mod capabilities;
mod check;
pub mod control;
pub mod reload;
mod report;
pub mod supervisor;
pub mod worker;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use crate::sys;
use boot::entries::Task;

const USAGE: &str = "usage: vector_boot check [--json] [--key PUBLIC_KEY] [--part START:BYTES] FILE
       vector_boot --listen SOCKET --tensors FILE [--state FILE] [--heartbeat-ms N] [--energy on|off] [--fault]
                   [--reload-probation-ms N]
       vector_boot --version

check FILE: validates a GGUF or RTS file by the rules R1 to R24 and RTS. Exit 0 and a summary, or exit 1 and one line
            FILE: RULE: FIELD: offset N: text
  --json    the summary or the error as one JSON object on stdout
  --key     also verify an RTS signature: a file with the Ed25519 public key, 32 raw bytes or 64 hex digits
  --part    the file is a disk, of which the BYTES from byte START on hold an RTS file and then anything

--listen SOCKET: runs the machine as an ordinary program that serves the GGUF or RTS file at a Unix socket, to up to 16
            clients at once. A socket that nobody listens on is replaced; any other file at that path is an error. The
            model's file must not change meanwhile. SIGTERM, SIGINT and SIGHUP end it in order.
  --state         a file or device that is there, 16 MiB to 64 GiB, on which changes survive; all zero, it is formatted. Without it a
            machine that ends loses its changes
  --heartbeat-ms  period of the heartbeat, 10 to 10000 (100)
  --energy        whether mutations cost energy, which comes back at 100 a second (on)
  --fault         allow requests that make the worker crash, for tests
  --reload-probation-ms  how long a new worker is on probation after a reload, 0 to 3600000 (10000)
";

const COMMANDS: [&str; 4] = ["check", "--listen", "--version", "--help"];

/// The model that `VECTOR_BOOT_MODEL` named at build time; empty if there is none.
pub static EMBEDDED_MODEL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/embedded_model.gguf"));

/// Runs the command line, without the program's name. Exit codes: 0 success, 1 failure, 2 wrong usage. As PID 1 it never
/// returns.
pub fn main(args: Vec<OsString>) -> ExitCode {
    // The kernel passes unknown words of its command line to /init; as PID 1 of a container the words are the caller's.
    let is_command = |arg: &OsString| COMMANDS.iter().any(|command| arg == command);
    if sys::process::own_pid() == 1 && !args.iter().any(is_command) {
        supervisor::appliance::main();
    }
    let words: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap_or_default()).collect();
    match words.as_slice() {
        ["--version"] => print(&format!("vector_boot {}\n", env!("CARGO_PKG_VERSION")), ExitCode::SUCCESS),
        ["--help" | "-h"] => print(USAGE, ExitCode::SUCCESS),
        ["check", rest @ ..] => run_check(rest, &args[1..]),
        ["--worker", rest @ ..] => worker::main(rest),
        ["--probe-worker"] => finish(reload::probe::main().map_err(|error| error.to_string())),
        ["--verify-reload", rest @ ..] => finish(reload::verify::main(rest).map_err(|error| error.to_string())),
        ["--read-entries", slot] => finish(boot::entries::main(Task::Read, slot).map_err(|error| error.to_string())),
        ["--judge-update", rest @ ..] => finish(boot::judge::main(rest).map_err(|error| error.to_string())),
        ["--write-update", rest @ ..] => finish(boot::writer::main(rest).map_err(|error| error.to_string())),
        ["--update-disk", rest @ ..] => finish(boot::offline::main(rest)),
        ["--bless", slot] => finish(boot::entries::main(Task::Bless, slot).map_err(|error| error.to_string())),
        ["--hash-executable"] => finish(supervisor::probe::main().map_err(|error| error.to_string())),
        ["--find-partitions"] => finish(supervisor::disks::examine_main().map_err(|error| error.to_string())),
        ["--late-setup"] => {
            supervisor::setup::late_main();
            ExitCode::SUCCESS
        }
        ["--leave-orphans", count] => finish(leave_orphans(count)),
        _ if words.contains(&"--listen") => match supervisor::listen::ListenSettings::parse(&args) {
            Some(settings) => finish(supervisor::listen::run(&settings)),
            None => usage(),
        },
        _ => usage(),
    }
}

/// Exit code 0, or one line on stderr and 1.
fn finish(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            print_error(&format!("vector_boot: {}\n", report::one_line(&why)));
            ExitCode::FAILURE
        }
    }
}

fn leave_orphans(count: &str) -> Result<(), String> {
    let count = count.parse().map_err(|_| format!("expected a number of orphans, got {count:?}"))?;
    sys::process::leave_orphans(count).map_err(|error| error.to_string())
}

fn run_check(words: &[&str], args: &[OsString]) -> ExitCode {
    let (mut json, mut key, mut part, mut file) = (false, None, None, None);
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
            "--part" if options => match rest.next().and_then(|(word, _)| parse_part(word)) {
                Some(found) => part = Some(found),
                None => return usage(),
            },
            option if options && option.starts_with('-') => return usage(),
            _ if file.is_none() => file = Some(Path::new(arg)),
            _ => return usage(),
        }
    }
    let Some(file) = file else { return usage() };
    let outcome = check::check(file, key, part);
    let name = report::one_line(&file.to_string_lossy());
    if json {
        let object = match &outcome {
            Ok(summary) => report::summary_json(&name, summary),
            Err(error) => report::error_json(&name, error),
        };
        print(&object, ExitCode::SUCCESS);
    }
    match outcome {
        Ok(summary) if !json => print(&report::summary_text(&name, &summary), ExitCode::SUCCESS),
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&report::error_text(&name, &error));
            ExitCode::FAILURE
        }
    }
}

/// The numbers of START:BYTES.
fn parse_part(word: &str) -> Option<(u64, u64)> {
    let (start, bytes) = word.split_once(':')?;
    Some((start.parse().ok()?, bytes.parse().ok()?))
}

fn usage() -> ExitCode {
    print_error(USAGE);
    ExitCode::from(2)
}

/// Writes to stdout; a closed or full stdout is not an error.
fn print(text: &str, code: ExitCode) -> ExitCode {
    let _ = std::io::stdout().write_all(text.as_bytes());
    code
}

fn print_error(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
