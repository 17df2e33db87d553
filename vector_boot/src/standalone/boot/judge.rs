//! The child that judges what an update brings: the header of the RTS image and the boot file. It is the only process that
//! parses the boot file; the supervisor gets a message of fixed size.

use std::fs::File;
use std::io;

use super::{boot_file, Refusal, BUNDLE_HEADER};
use crate::container_file::{ContainerFile, ReadAt};
use crate::esp::Slot;
use crate::protocol::{parse_hex, ReloadReason, UpdateReason};
use crate::rts::{hex, Container, Header, HEADER_BYTES};
use crate::standalone::control::Control;
use crate::standalone::reload::verify::check_signature;
use crate::sys::{process, sandbox, signal};

/// The inherited descriptors: the socket for the answer, what was brought, the image that runs.
const ANSWER: i32 = process::FIRST_INHERITED;
const BROUGHT: i32 = ANSWER + 1;
const RUNNING: i32 = ANSWER + 2;
/// The tensors must begin on a page, or the machine could not map them.
const PAGE: u64 = 4096;

/// What an update is to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Bytes of the partition's contents.
    pub slot_bytes: u64,
    /// Their SHA-256.
    pub sha256: [u8; 32],
    /// The public key that signed the image, if the client gave one.
    pub key: Option<[u8; 32]>,
}

impl Order {
    /// The words of the command line of a child with this order.
    pub fn words(&self, child: &str, slot: Slot) -> Vec<String> {
        let mut words = vec![child.into(), slot.to_string(), self.slot_bytes.to_string(), hex(&self.sha256)];
        words.extend(self.key.map(|key| hex(&key)));
        words
    }

    /// Parses the words behind the first one.
    pub fn parse(words: &[&str]) -> Option<(Self, Slot)> {
        let ([slot, bytes, sha256], key) = words.split_first_chunk()?;
        let slot = Slot::of_letter(*slot.as_bytes().first()?)?;
        let key = match key {
            [] => None,
            [key] => Some(parse_hex(key)?),
            _ => return None,
        };
        Some((Order { slot_bytes: bytes.parse().ok()?, sha256: parse_hex(sha256)?, key }, slot))
    }
}

/// Runs the child.
///
/// # Errors
/// If it could not answer.
pub fn main(words: &[&str]) -> io::Result<()> {
    let (order, slot) = Order::parse(words).ok_or(io::ErrorKind::InvalidInput)?;
    signal::die_of_faults();
    sandbox::bind_to_parent()?;
    let answer = process::inherited(ANSWER)?;
    let opened = |fd| process::inherited(fd).and_then(|fd| ContainerFile::from_open(File::from(fd)));
    let (brought, running) = (opened(BROUGHT)?, opened(RUNNING)?);
    sandbox::restrict_syscalls()?;
    match judge(&brought, &running, &order, slot) {
        Ok(()) => Control::UpdateSound.send(&answer),
        Err((reason, text)) => Control::UpdateFailed { reason, text }.send(&answer),
    }
}

/// Judges the header of the image and the boot file of `slot` beside the image that runs, or is kept.
///
/// # Errors
/// Why they are refused.
pub fn judge<R: ReadAt>(
    brought: &ContainerFile,
    running: &ContainerFile<R>,
    order: &Order,
    slot: Slot,
) -> Result<(), Refusal> {
    let format = |text: String| (UpdateReason::Format, text);
    let unreadable = |error: io::Error| format(format!("what was sent cannot be read: {error}"));
    let head = brought.read(0, BUNDLE_HEADER).map_err(unreadable)?;
    // What is behind the sections is the hash tree.
    let header =
        Header::parse(&head, order.slot_bytes, Container::BlockDevice).map_err(|error| format(error.to_string()))?;
    if header.tensor_offset % PAGE != 0 {
        let text =
            format!("the tensors of the image begin at byte {}, expected a multiple of {PAGE}", header.tensor_offset);
        return Err(format(text));
    }
    let head =
        running.read(0, HEADER_BYTES).map_err(|error| (UpdateReason::Disk, format!("the image that runs: {error}")))?;
    let runs = Header::parse(&head, running.len, running.container).ok();
    if let Some(signed) = runs.filter(|header| header.key_id.is_some()) {
        check_signature(&signed, &header, order.key).map_err(|(reason, text)| match reason {
            ReloadReason::SecurityVersion => (UpdateReason::SecurityVersion, text),
            _ => (UpdateReason::Signature, text),
        })?;
    }
    boot_file::check(brought, BUNDLE_HEADER, slot, order.slot_bytes).map_err(format)
}
