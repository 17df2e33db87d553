//! Opens and validates GGUF files on demand and tells how long each took: our side of `python -m tests.bench`.
//!
//! Each line of stdin is the path of a file; the answer to it is one line, `NANOSECONDS TENSORS`. What is timed is
//! what the machine does before it maps a model: open the file, read its head in growing windows, judge it by the
//! rules R1 to R24, and give everything back.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::time::Instant;

use vector_boot::gguf::{Gguf, Stop, METADATA_LIMIT};

/// The first window of `standalone::container_file`, whose loop this is.
const FIRST_WINDOW: u64 = 256 << 10;

fn main() -> io::Result<()> {
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
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut window = FIRST_WINDOW;
    loop {
        let mut head = vec![0; window.min(len) as usize];
        file.read_exact_at(&mut head, 0)?;
        match Gguf::parse_head(&head, len) {
            Ok(gguf) => return Ok(gguf.tensors.len()),
            Err(Stop::HeadTooShort) if window < METADATA_LIMIT => window = (window * 4).min(METADATA_LIMIT),
            Err(Stop::HeadTooShort) => return Err(io::Error::other(format!("{path}: the metadata does not end"))),
            Err(Stop::Invalid(error)) => return Err(io::Error::other(format!("{path}: {error}"))),
        }
    }
}
