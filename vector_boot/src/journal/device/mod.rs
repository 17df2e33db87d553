//! The journal on a state device, as `spec/journal.md` defines it: two superblocks, and a ring of frames.

mod batch;
pub mod frame;
mod open;
pub mod planted;
mod recovery;
mod ring;
#[cfg(any(test, feature = "planted"))]
pub mod simulated;
pub mod superblock;
mod write;

use std::io;
use std::sync::OnceLock;

use super::entry::sum_of;
use super::format::{BLOCK, NOTES_BYTES};
use super::storage::BlockDevice;
use super::{EntryHead, Journal, JournalError, JournalReason, LogEntry, Payload, Visit, HEAD_BYTES};
use batch::Batch;
use frame::{entry_bytes, frame_bytes, seed, FrameHead, HEAD};
pub use open::{Limits, Opening};
use planted::Bug;
use recovery::{Reader, Tail};
use ring::Ring;
use superblock::{Place, Superblock, Superblocks};

/// A log on a block device.
pub struct DeviceLog {
    ring: Ring,
    superblock: Superblock,
    /// Whether the other superblock leads to the same frames, so that the space before the start is free.
    mended: bool,
    /// Where the next frame begins.
    tail: Place,
    batch: Batch,
    nonce: [u8; 16],
    /// The number of this boot; 0 as long as it is not known.
    boot: u64,
    /// Where the last frame begins, and the number of the boot that wrote the last one that was read.
    last: Option<u64>,
    last_boot: u64,
    writable: bool,
    /// Whether another process writes the device.
    beside: bool,
    reach_step: u64,
    zeros_ahead: u64,
    /// Logical offset up to which this opening has written blocks in the first turn of the ring.
    written_to: u64,
    torn: Option<u64>,
    /// Why nothing is written any more.
    failed: OnceLock<JournalError>,
}

impl DeviceLog {
    /// Opens the log on this device, or formats the device if it is blank. Its entries are read by
    /// [`Journal::read_on`], which must come first.
    ///
    /// # Errors
    /// Why the device is refused; it was not written then.
    pub fn open(device: Box<dyn BlockDevice>, opening: &Opening<'_>) -> Result<Self, JournalError> {
        Self::open_limited(device, opening, Limits::SPECIFIED)
    }

    /// The same with other limits than those of the specification, for tests.
    ///
    /// # Errors
    /// Why the device is refused.
    pub fn open_limited(
        mut device: Box<dyn BlockDevice>,
        opening: &Opening<'_>,
        limits: Limits,
    ) -> Result<Self, JournalError> {
        let superblock = open::superblock(&mut *device, opening, limits).map_err(described)?;
        let stale = planted::is(Bug::StaleEpoch);
        Ok(DeviceLog {
            ring: Ring::new(device, superblock.area_offset, superblock.area_bytes),
            mended: false,
            tail: superblock.start,
            batch: Batch::new(seed(&superblock.salt)),
            nonce: if stale { [0; 16] } else { opening.nonce() },
            boot: if stale { 1 } else { opening.boot },
            last: None,
            last_boot: 0,
            writable: opening.writable && !superblock.is_newer(),
            beside: opening.beside,
            reach_step: limits.reach_step,
            zeros_ahead: limits.zeros_ahead,
            written_to: 0,
            torn: None,
            failed: OnceLock::new(),
            superblock,
        })
    }

    /// The digest of the last frame.
    pub fn chain(&self) -> &[u8; 32] {
        &self.tail.chain
    }

    /// First logical offset that the log cannot use before its start is moved.
    fn limit(&self) -> u64 {
        self.superblock.start.offset + self.ring.bytes()
    }

    /// Keeps the first failure of the device: nothing is written after it.
    fn fail(&self, error: JournalError) -> JournalError {
        let error = described(error);
        if error.is_for_good() {
            self.failed.get_or_init(|| error.clone());
        }
        error
    }

    fn checked<T>(&self, result: Result<T, impl Into<JournalError>>) -> Result<T, JournalError> {
        result.map_err(|error| self.fail(error.into()))
    }

    /// Reads the superblocks again: another process may have moved the start.
    fn read_superblocks(&mut self) -> Result<bool, JournalError> {
        let found = Superblocks::read(self.ring.device())?;
        let current = found.current.ok_or_else(|| damaged("both superblocks are damaged".into()))?;
        let same = current.salt == self.superblock.salt && current.area_bytes == self.superblock.area_bytes;
        if !same || !current.is_sound() {
            return Err(damaged("its superblock has changed".into()));
        }
        self.mended = found.other.is_some_and(|other| other.start == current.start);
        self.superblock = current;
        if self.tail.offset < current.start.offset {
            self.tail = current.start; // entries that were not read yet were removed
        }
        Ok(found.other.is_none() && current.turn > 0)
    }

    /// Takes the frames from the tail on.
    fn walk(&mut self, beyond_reach: bool, visit: &mut Visit<'_>) -> Result<(), JournalError> {
        loop {
            let reader = Reader { ring: &self.ring, superblock: &self.superblock, beyond_reach };
            while let Some(frame) = reader.frame(&self.tail)? {
                for (offset, head) in reader.entries(&frame)? {
                    visit(offset, &head)?;
                }
                (self.last, self.last_boot) = (Some(frame.place.offset), frame.boot);
                self.tail = frame.next();
            }
            self.torn = match reader.tail(&self.tail) {
                Ok(Tail::Clean) => None,
                Ok(Tail::Torn) => Some(self.tail.offset),
                Err(error) => {
                    // Another process may have written both since this one was looked for.
                    self.ring.forget();
                    if reader.frame(&self.tail)?.is_some() {
                        continue;
                    }
                    return Err(error);
                }
            };
            return Ok(());
        }
    }

    /// Bytes at a logical offset, of the log or of the open batch.
    fn read(&self, mut at: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            let inside = at.checked_sub(self.tail.offset).filter(|_| self.batch.entries > 0);
            let copied = inside.map_or(0, |inside| self.batch.copy(inside, buffer));
            let end = match inside {
                Some(_) => self.tail.offset + self.batch.on_device_until(),
                None if self.batch.entries > 0 => self.tail.offset,
                None => self.limit(),
            };
            let count = match copied {
                0 => usize::try_from(end - at).map_or(buffer.len(), |rest| rest.min(buffer.len())),
                _ => copied,
            };
            let (now, later) = buffer.split_at_mut(count);
            if copied == 0 {
                self.ring.read(at, now, end)?;
            }
            (at, buffer) = (at + count as u64, later);
        }
        Ok(())
    }

    /// Whether the device still has a superblock of this log and its last frame.
    fn is_there(&self) -> Result<bool, JournalError> {
        let found = Superblocks::read(self.ring.device())?;
        if found.current.is_none_or(|current| current.salt != self.superblock.salt) {
            return Ok(false);
        }
        let Some(at) = self.last else { return Ok(true) };
        let mut block = [0; BLOCK as usize];
        self.ring.read_blocks(at, &mut block)?;
        let head = FrameHead::decode(&block, &self.superblock.salt, at);
        Ok(head.is_some_and(|head| head.digest == self.tail.chain))
    }

    /// Whether `len` bytes at a logical offset are part of the log or of the open batch.
    fn holds(&self, at: u64, len: u64) -> bool {
        at >= self.superblock.start.offset && at.checked_add(len).is_some_and(|end| end <= self.end())
    }
}

impl Journal for DeviceLog {
    fn read_on(&mut self, visit: &mut Visit<'_>) -> Result<(), JournalError> {
        if let Some(error) = self.failed.get() {
            return Err(error.clone());
        }
        self.ring.forget();
        let known = self.tail.offset;
        let read = self.read_superblocks().and_then(|beyond_reach| self.walk(beyond_reach, visit));
        self.checked(read)?;
        let first_in_boot = self.boot == 0;
        if first_in_boot {
            self.boot = self.last_boot + 1;
        }
        if self.writable && !self.beside && (first_in_boot || self.tail.offset != known) {
            // What was read may still be in a cache.
            let settled = self.settle(first_in_boot);
            self.checked(settled)?;
        }
        Ok(())
    }

    fn take_over(&mut self) -> Result<(), JournalError> {
        if !std::mem::take(&mut self.beside) || !self.writable {
            return Ok(());
        }
        let settled = self.settle(false);
        self.checked(settled)
    }

    fn entry(&self, offset: u64) -> Result<LogEntry, JournalError> {
        let unknown = || damaged(format!("it has no valid entry at offset {offset} of its log"));
        if !self.holds(offset, HEAD_BYTES as u64) {
            return Err(unknown());
        }
        let mut bytes = [0; HEAD_BYTES];
        self.checked(self.read(offset, &mut bytes))?;
        let head = EntryHead::decode(&bytes).ok_or_else(unknown)?;
        if !self.holds(offset + HEAD_BYTES as u64, head.payload_bytes) {
            return Err(unknown());
        }
        let mut payload = vec![0; usize::try_from(head.payload_bytes).map_err(|_| unknown())?];
        self.checked(self.read(offset + HEAD_BYTES as u64, &mut payload))?;
        match sum_of(&[&payload]) == head.payload_sum {
            true => Ok(LogEntry { head, payload: Payload::Read(payload) }),
            false => Err(unknown()),
        }
    }

    fn append(&mut self, head: EntryHead, payload: &[&[u8]]) -> Result<u64, JournalError> {
        if let Some(error) = self.refusal() {
            return Err(error);
        }
        self.add(head, payload).map_err(|error| self.fail(error))
    }

    fn commit(&mut self) -> Result<(), JournalError> {
        if self.batch.entries == 0 {
            return Ok(());
        }
        if let Some(error) = self.refusal() {
            return Err(error);
        }
        self.write_frame().map_err(|error| self.fail(error))
    }

    fn abort(&mut self) {
        self.batch = Batch::new(seed(&self.superblock.salt));
    }

    fn remove_before(&mut self, offset: u64, sequence: u64) -> Result<(), JournalError> {
        if let Some(error) = self.refusal() {
            return Err(error);
        }
        self.move_start(offset, sequence).map_err(|error| self.fail(error))
    }

    fn start(&self) -> u64 {
        self.superblock.start.offset
    }

    fn end(&self) -> u64 {
        self.tail.offset + self.batch.frame_bytes()
    }

    fn next_sequence(&self) -> u64 {
        self.tail.sequence + u64::from(self.batch.entries)
    }

    fn capacity(&self) -> Option<u64> {
        Some(self.ring.bytes())
    }

    fn free(&self) -> u64 {
        self.limit().saturating_sub(self.end())
    }

    fn room(&self, image_bytes: u64) -> u64 {
        let image = frame_bytes(entry_bytes(image_bytes));
        let free = self.free().saturating_sub(image).saturating_sub(NOTES_BYTES);
        (free / BLOCK * BLOCK).saturating_sub((HEAD + HEAD_BYTES) as u64)
    }

    fn durable(&self) -> bool {
        true
    }

    fn device_id(&self) -> Option<[u8; 16]> {
        Some(self.superblock.device_id)
    }

    fn boot(&self) -> u64 {
        self.boot
    }

    fn torn(&self) -> Option<u64> {
        self.torn
    }

    fn require_kept(&self) -> Result<(), JournalError> {
        let device = self.ring.device();
        let loss = match device.loss() {
            None if !device.has_shrunk() || self.checked(self.is_there())? => return Ok(()),
            None => "was cut short and made as long again".into(),
            Some(loss) => loss,
        };
        Err(self.fail(JournalError::new(JournalReason::Gone, gone(&format!("{loss} while the machine ran")))))
    }

    fn refusal(&self) -> Option<JournalError> {
        let read_only = || match self.superblock.is_newer() {
            true => {
                let text = "the state device has a newer format, which is read but not written: boot the version that wrote it";
                JournalError::new(JournalReason::Newer, text)
            }
            false => {
                let text = "the state device can only be read: make it writable to change the weights";
                JournalError::new(JournalReason::ReadOnly, text)
            }
        };
        self.failed.get().cloned().or_else(|| (!self.writable).then(read_only))
    }
}

fn damaged(why: String) -> JournalError {
    let text = format!(
        "the journal on the state device is damaged ({why}): examine it with `vboot journal verify`, then restore a copy of \
         it, or use another device"
    );
    JournalError::new(JournalReason::Damaged, text)
}

/// The error of a call to the device, as a sentence; any other error as it is.
pub fn described(error: JournalError) -> JournalError {
    match error.reason {
        JournalReason::Io => JournalError { text: failed(&error.text), ..error },
        _ => error,
    }
}

/// That a device has failed, in this way.
pub fn failed(how: &str) -> String {
    format!(
        "the state device failed ({how}) and is not used again before the next boot: check the disk and its free space, then \
         start the machine again"
    )
}

/// That a state file is gone, and its journal cannot be read any more.
pub const UNREADABLE: &str =
    "the state file was replaced or cut short while the machine ran, and its journal can no longer be read, so the weights are those \
     of the model's file: start the machine with another state file";

/// That a state file is gone, in this way.
pub fn gone(how: &str) -> String {
    format!(
        "the state file {how}, and what was acknowledged is lost at the next start: save the weights with `vboot save`, then start \
         the machine with another state file"
    )
}

#[cfg(test)]
mod tests;
