//! Reads journals on state devices: `journal_read [--least BYTES]`. Each line of stdin is the path of a device or file;
//! stdout gets a line of JSON for each: why it is refused or null, and what its log holds. The contents of entries are
//! not replayed, and the model is taken to be that of the device. `--least` is the smallest device that is accepted.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

use serde_json::{json, Value};
use vector_boot::journal::device::superblock::Superblocks;
use vector_boot::journal::device::{DeviceLog, Limits, Opening};
use vector_boot::journal::storage::BlockDevice;
use vector_boot::journal::{EntryHead, Journal, JournalError};
use vector_boot::rts::hex;

/// A file that is only read.
struct ReadOnly(File, u64);

impl BlockDevice for ReadOnly {
    fn size(&self) -> u64 {
        self.1
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let least = match words[..] {
        [] => Some(Limits::SPECIFIED.device_least),
        ["--least", bytes] => bytes.parse().ok(),
        _ => None,
    };
    let Some(device_least) = least else {
        eprintln!("usage: journal_read [--least BYTES]");
        return ExitCode::FAILURE;
    };
    for path in io::stdin().lines().map_while(Result::ok) {
        let shown = File::open(&path).and_then(|file| {
            let size = file.metadata()?.len();
            let log = read(ReadOnly(file, size), Limits { device_least, ..Limits::SPECIFIED });
            writeln!(io::stdout(), "{log}")
        });
        if let Err(error) = shown {
            eprintln!("journal_read: {path}: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn read(device: ReadOnly, limits: Limits) -> Value {
    match log(device, limits) {
        Ok(log) => log,
        Err(JournalError { reason, text }) => json!({"reason": reason.name(), "text": text}),
    }
}

fn log(device: ReadOnly, limits: Limits) -> Result<Value, JournalError> {
    let current = match device.size() >= limits.device_least {
        true => Superblocks::read(&device)?.current,
        false => None,
    };
    let (file, model) = current.map_or(([0; 32], [0; 32]), |current| (current.file, current.model));
    let opening = Opening { file, model: &|| model, random: [0; 64], boot: 0, writable: false, beside: false };
    let mut log = DeviceLog::open_limited(Box::new(device), &opening, limits)?;
    let (mut entries, mut last) = (0, None);
    log.read_on(&mut |_, head: &EntryHead| {
        (entries, last) = (entries + 1, Some(*head));
        Ok(())
    })?;
    let of_last = |field: fn(&EntryHead) -> u64| last.as_ref().map_or(0, field);
    Ok(json!({
        "reason": null,
        "entries": entries,
        "next_sequence": log.next_sequence(),
        "start": log.start(),
        "tail": log.end(),
        "torn": log.torn().is_some(),
        "generation": of_last(|head| head.generation),
        "promoted": of_last(|head| head.promoted),
        "lease_until_us": of_last(|head| head.lease_until_us),
        "last_digest": hex(log.chain()),
    }))
}
