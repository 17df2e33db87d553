//! Opening a device: whose it is, and formatting of a blank one.

use super::superblock::{Place, Superblock, Superblocks};
use super::UNREADABLE;
use crate::journal::format::{
    AREA_START, BLOCK, DEVICE_LEAST, DEVICE_MOST, FORMAT_VERSION, REACH_STEP, SUPERBLOCK_MAGIC, ZEROS_AHEAD,
    ZERO_CHECK_EDGE, ZERO_CHECK_STEP, ZERO_CHECK_WHOLE,
};
use crate::journal::storage::BlockDevice;
use crate::journal::{JournalError, JournalReason};
use crate::rts::hex;

/// What opens a device.
pub struct Opening<'a> {
    /// SHA-256 of the file of the model.
    pub file: [u8; 32],
    /// The digest of the model at generation 0; called only when a device is formatted or refused.
    pub model: &'a dyn Fn() -> [u8; 32],
    /// Random bytes: the id and the salt of a device that is formatted, and the nonce of this opening.
    pub random: [u8; 64],
    /// The number of this boot, if the device was opened in it before; else 0.
    pub boot: u64,
    /// Whether the device may be written.
    pub writable: bool,
    /// Whether another process writes it, until [`Journal::take_over`](crate::journal::Journal::take_over).
    pub beside: bool,
}

/// Limits that tests set lower.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Smallest device.
    pub device_least: u64,
    /// By how much the reach of the log is moved on.
    pub reach_step: u64,
    /// How much space that was never written is filled with zeros behind a frame.
    pub zeros_ahead: u64,
}

impl Limits {
    /// Those of `spec/journal.md`.
    pub const SPECIFIED: Self = Limits { device_least: DEVICE_LEAST, reach_step: REACH_STEP, zeros_ahead: ZEROS_AHEAD };
}

impl Opening<'_> {
    /// The nonce of this opening.
    pub(super) fn nonce(&self) -> [u8; 16] {
        self.random.last_chunk().copied().unwrap_or_default()
    }
}

/// Finds the current superblock of a device, which is formatted if it is blank.
///
/// # Errors
/// Why the device is refused.
pub fn superblock(
    device: &mut dyn BlockDevice,
    opening: &Opening<'_>,
    limits: Limits,
) -> Result<Superblock, JournalError> {
    let size = device.size().min(DEVICE_MOST);
    if size < limits.device_least.max(AREA_START + BLOCK) {
        let text = format!(
            "the state device has {size} bytes, expected at least {}: make it larger, or use another one",
            limits.device_least
        );
        return Err(JournalError::new(JournalReason::TooSmall, text));
    }
    let superblocks = Superblocks::read(device)?;
    let Some(current) = superblocks.current else {
        if opening.boot != 0 {
            return Err(JournalError::new(JournalReason::Gone, UNREADABLE));
        }
        return match (is_blank(device, size)?, superblocks.magic) {
            (true, _) if opening.writable => format(device, size, opening, limits),
            (true, _) => Err(JournalError::new(
                JournalReason::ReadOnly,
                "the state device is blank and cannot be written: make it writable",
            )),
            (false, true) => Err(JournalError::new(
                JournalReason::Damaged,
                "both superblocks of the state device are damaged: restore a copy of it, or use another device",
            )),
            (false, false) => Err(JournalError::new(
                JournalReason::Foreign,
                "the state device holds something else than a journal, and is not zero: use another one, or zero it",
            )),
        };
    };
    check(&current, size, opening)?;
    Ok(current)
}

/// Checks that the device of this superblock may be used.
fn check(current: &Superblock, size: u64, opening: &Opening<'_>) -> Result<(), JournalError> {
    let refused = |reason, text| Err(JournalError::new(reason, text));
    if u64::from(current.least_reader) > FORMAT_VERSION {
        let text = format!(
            "the state device has a format for readers of version {} or newer, this one reads version {FORMAT_VERSION}: \
             boot the version that wrote it",
            current.least_reader
        );
        return refused(JournalReason::Newer, text);
    }
    if current.file != opening.file {
        let model = (opening.model)();
        let text = match model == current.model {
            true => format!(
                "the state device belongs to another file of this model, with SHA-256 {}, but the machine serves {}: boot \
                 that file, or use another state device",
                hex(&current.file),
                hex(&opening.file)
            ),
            false => format!(
                "the state device belongs to the model {}, but the machine serves {}: boot that model, or use another \
                 state device",
                hex(&current.model),
                hex(&model)
            ),
        };
        return refused(JournalReason::OtherModel, text);
    }
    if !current.is_sound() {
        return refused(
            JournalReason::Damaged,
            "the superblock of the state device contradicts itself: restore a copy of it, or use another device".into(),
        );
    }
    let needed = current.area_offset + current.area_bytes;
    if needed > size {
        let text = format!(
            "the state device has {size} bytes, expected the {needed} that its journal was made with: restore a whole copy of \
             it, or use another one"
        );
        return refused(JournalReason::TooSmall, text);
    }
    Ok(())
}

/// Whether a device is zero, but for the first block if its writing was interrupted.
fn is_blank(device: &dyn BlockDevice, size: u64) -> Result<bool, JournalError> {
    let mut first = vec![0; BLOCK as usize];
    device.read(0, &mut first)?;
    if !first.starts_with(&SUPERBLOCK_MAGIC) && first.iter().any(|byte| *byte != 0) {
        return Ok(false);
    }
    let size = size - size % BLOCK;
    let edges = match size > ZERO_CHECK_WHOLE {
        true => [(BLOCK, ZERO_CHECK_EDGE), (size - ZERO_CHECK_EDGE, size)],
        false => [(BLOCK, size), (size, size)],
    };
    let mut piece = vec![0; ZERO_CHECK_STEP as usize];
    for (mut at, end) in edges {
        while at < end {
            let piece = &mut piece[..(end - at).min(ZERO_CHECK_STEP) as usize];
            device.read(at, piece)?;
            if !is_zero(piece) {
                return Ok(false);
            }
            at += piece.len() as u64;
        }
    }
    let mut at = edges[0].1;
    while at < edges[1].0 {
        device.read(at, &mut first)?;
        if !is_zero(&first) {
            return Ok(false);
        }
        at += ZERO_CHECK_STEP;
    }
    Ok(true)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(64).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

fn format(
    device: &mut dyn BlockDevice,
    size: u64,
    opening: &Opening<'_>,
    limits: Limits,
) -> Result<Superblock, JournalError> {
    let area_bytes = (size - AREA_START) / BLOCK * BLOCK;
    let first = Superblock {
        version: FORMAT_VERSION as u32,
        least_reader: FORMAT_VERSION as u32,
        turn: 0,
        device_id: opening.random.first_chunk().copied().unwrap_or_default(),
        salt: opening.random[16..].first_chunk().copied().unwrap_or_default(),
        model: (opening.model)(),
        file: opening.file,
        area_offset: AREA_START,
        area_bytes,
        start: Place { offset: 0, frame: 0, sequence: 0, chain: [0; 32] },
        reach: limits.reach_step.min(area_bytes),
    };
    first.write(device)?;
    let second = Superblock { turn: 1, ..first };
    second.write(device)?;
    Ok(second)
}
