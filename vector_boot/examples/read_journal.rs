//! Reads state devices and prints what is on them, so that tests can compare it with the reader in Python.
//!
//! Each line of stdin is the path of a device; the answer to it is one line of JSON: `reason` (why it is refused, or
//! null), and if it is not, `end` (logical offset of the tail), `next` (sequence number) and `entries` (each: logical offset,
//! sequence number, kind, generation, fingerprint, bytes of the payload). Nothing is written.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

use vector_boot::journal::device::superblock::Superblocks;
use vector_boot::journal::device::{DeviceLog, Opening};
use vector_boot::journal::storage::BlockDevice;
use vector_boot::journal::{Journal, JournalError};

/// A file whose end is as far away as the reader likes: what is behind it is zero.
struct ReadOnly {
    file: File,
    size: u64,
}

impl BlockDevice for ReadOnly {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match self.file.read_at(&mut buffer[done..], offset + done as u64)? {
                0 => break,
                count => done += count,
            }
        }
        buffer[done..].fill(0);
        Ok(())
    }

    fn write(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

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
        let answer = match read(&path?)? {
            Ok(found) => found,
            Err(refused) => format!(r#"{{"reason":"{}"}}"#, refused.reason.name()),
        };
        writeln!(answers, "{answer}")?;
        answers.flush()?;
    }
    Ok(())
}

fn read(path: &str) -> io::Result<Result<String, JournalError>> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let own = Superblocks::read(&ReadOnly { file: file.try_clone()?, size });
    let file_digest = own.ok().and_then(|found| found.current).map_or([0; 32], |current| current.file);
    let opening = Opening { file: file_digest, model: &|| [0; 32], random: [0; 64], boot: 0, writable: false };
    Ok(DeviceLog::open(Box::new(ReadOnly { file, size }), &opening).and_then(entries))
}

fn entries(mut log: DeviceLog) -> Result<String, JournalError> {
    let mut found = Vec::new();
    log.read_on(&mut |offset, head| {
        found.push(format!(
            "[{offset},{},{},{},{},{}]",
            head.sequence, head.kind as u8, head.generation, head.fingerprint, head.payload_bytes
        ));
        Ok(())
    })?;
    let entries = found.join(",");
    Ok(format!(r#"{{"reason":null,"end":{},"next":{},"entries":[{entries}]}}"#, log.end(), log.next_sequence()))
}
