//! An update of a disk that no machine uses: the same steps as on a running machine, in one process.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::device::PartitionDevice;
use super::judge::{judge, Order};
use super::writer::Update;
use super::Refusal;
use crate::container_file::ContainerFile;
use crate::protocol::UpdateReason;
use crate::standalone::parse_part;
use crate::standalone::supervisor::state_file;
use crate::sys::memory::sealed_file;

/// Bytes that are taken from standard input at a time.
const PIECE: usize = 1 << 20;

/// Runs `--update-disk DISK ESP SLOT_PLACE KEPT_PLACE BUNDLE SLOT SLOT_BYTES SHA256 [KEY]`, places being START:BYTES. The
/// contents of the partition come on standard input; "begun" and "committed" are lines on standard output.
///
/// # Errors
/// One sentence, with the word for its reason in front.
pub fn main(words: &[&str]) -> Result<(), String> {
    run(words).map_err(|(reason, text)| format!("{}: {text}", reason.name()))
}

fn run(words: &[&str]) -> Result<(), Refusal> {
    let usage = || (UpdateReason::Order, "expected a disk, three places, a bundle and an order".to_string());
    let ([disk, esp, partition, kept, bundle], order) = words.split_first_chunk().ok_or_else(usage)?;
    let (order, slot) = Order::parse(order).ok_or_else(usage)?;
    let of_disk = |error: io::Error| (UpdateReason::Disk, format!("the disk cannot be used: {error}"));
    let file = open(Path::new(disk))?;
    let place = |word: &str| {
        let (start, bytes) = parse_part(word).ok_or_else(usage)?;
        PartitionDevice::part(file.try_clone().map_err(of_disk)?, start, bytes).map_err(of_disk)
    };
    let brought = ContainerFile::open(Path::new(bundle))
        .map_err(|error| (UpdateReason::Format, format!("the boot file cannot be read: {error}")))?;
    judge(&brought, &place(kept)?.container(), &order, slot)?;
    let mut update = Update::begin(place(esp)?, brought, place(partition)?.container(), order, slot)?;
    say("begun");
    let mut input = io::stdin().lock();
    let mut written = 0;
    let mut piece = vec![0; PIECE];
    while written < order.slot_bytes {
        let count = read_piece(&mut input, &mut piece).map_err(of_disk)?;
        let sealed = sealed_file(c"piece", &[&piece[..count]]).map_err(of_disk)?;
        update.write(written, File::from(sealed))?;
        written += count as u64;
    }
    update.commit()?;
    say("committed");
    Ok(())
}

/// Opens the disk for this process alone.
fn open(path: &Path) -> Result<File, Refusal> {
    let refuse = |text: String| (UpdateReason::Disk, format!("the disk {text}"));
    let is_device = std::fs::metadata(path).is_ok_and(|status| status.file_type().is_block_device());
    let flags = if is_device { libc::O_EXCL } else { 0 }; // refused by the kernel while it is mounted
    let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
    let file = opened.map_err(|error| refuse(format!("cannot be opened for writing: {error}")))?;
    let locked = state_file::StateFile { file, writable: true };
    state_file::lock(&locked).map_err(|why| refuse(format!("is in use: {why}")))?;
    Ok(locked.file)
}

fn read_piece(input: &mut impl Read, piece: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < piece.len() {
        match input.read(&mut piece[count..])? {
            0 if count == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            0 => break,
            more => count += more,
        }
    }
    Ok(count)
}

fn say(line: &str) {
    let mut out = io::stdout();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
