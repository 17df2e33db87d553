//! The log area: a ring of blocks, addressed by offsets that only grow.

use std::io;
use std::sync::Mutex;

use crate::journal::format::BLOCK;
use crate::journal::storage::BlockDevice;

/// Bytes that are read and written at once at most.
pub const PIECE: usize = 1 << 20;
/// Bytes that are read at a place where reading begins.
const FIRST_PIECE: u64 = 64 << 10;

/// The ring on its device.
pub struct Ring {
    device: Box<dyn BlockDevice>,
    /// Where it is on the device, and its length.
    offset: u64,
    bytes: u64,
    windows: Mutex<Windows>,
}

/// Two pieces of the ring that were read. A frame is read twice: its sum, then its entries. With one piece, the second time
/// would begin at an end of what was read ahead in the first, and read all of it again.
#[derive(Default)]
struct Windows {
    newest: Window,
    older: Window,
}

/// A piece of the ring.
#[derive(Default)]
struct Window {
    at: u64,
    bytes: Vec<u8>,
}

impl Window {
    fn end(&self) -> u64 {
        self.at + self.bytes.len() as u64
    }

    /// What it has from this offset on.
    fn from(&self, at: u64) -> Option<&[u8]> {
        self.bytes.get(usize::try_from(at.checked_sub(self.at)?).ok()?..).filter(|rest| !rest.is_empty())
    }
}

impl Ring {
    /// The ring in this part of a device.
    pub fn new(device: Box<dyn BlockDevice>, offset: u64, bytes: u64) -> Self {
        Ring { device, offset, bytes, windows: Mutex::default() }
    }

    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The device, to read it.
    pub fn device(&self) -> &dyn BlockDevice {
        &*self.device
    }

    /// The device, to write and flush it.
    pub fn device_mut(&mut self) -> &mut dyn BlockDevice {
        &mut *self.device
    }

    /// Length of the piece of `len` bytes at a logical offset that lies together on the device.
    fn together(&self, at: u64, len: usize) -> usize {
        usize::try_from(self.bytes - at % self.bytes).map_or(len, |rest| rest.min(len))
    }

    /// Reads whole blocks at a logical offset, past the window.
    ///
    /// # Errors
    /// If the device cannot be read.
    pub fn read_blocks(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let (first, second) = buffer.split_at_mut(self.together(at, buffer.len()));
        self.device.read(self.offset + at % self.bytes, first)?;
        if second.is_empty() {
            return Ok(());
        }
        self.device.read(self.offset, second)
    }

    /// Writes whole blocks at a logical offset.
    ///
    /// # Errors
    /// If the device cannot be written.
    pub fn write_blocks(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.forget();
        let (first, second) = bytes.split_at(self.together(at, bytes.len()));
        self.device.write(self.offset + at % self.bytes, first)?;
        if second.is_empty() {
            return Ok(());
        }
        self.device.write(self.offset, second)
    }

    /// Reads any bytes at a logical offset. Those behind them, up to `limit`, are read ahead.
    ///
    /// # Errors
    /// If the device cannot be read.
    pub fn read(&self, mut at: u64, mut buffer: &mut [u8], limit: u64) -> io::Result<()> {
        let mut windows = self.windows.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        while !buffer.is_empty() {
            let Some(known) = windows.newest.from(at).or_else(|| windows.older.from(at)) else {
                self.read_ahead(at, &mut windows, limit)?;
                continue;
            };
            let count = known.len().min(buffer.len());
            let (now, later) = buffer.split_at_mut(count);
            now.copy_from_slice(&known[..count]);
            (at, buffer) = (at + count as u64, later);
        }
        Ok(())
    }

    /// Reads a piece with the byte at a logical offset; the older of the two is dropped.
    fn read_ahead(&self, at: u64, windows: &mut Windows, limit: u64) -> io::Result<()> {
        let block = at - at % BLOCK;
        let goes_on = block == windows.newest.end();
        let ahead = if goes_on { PIECE as u64 } else { FIRST_PIECE };
        let mut bytes = std::mem::take(&mut windows.older.bytes);
        bytes.resize(ahead.min(limit.saturating_sub(block)).max(BLOCK) as usize, 0);
        self.read_blocks(block, &mut bytes)?;
        windows.older = std::mem::replace(&mut windows.newest, Window { at: block, bytes });
        Ok(())
    }

    /// Forgets what was read ahead.
    pub fn forget(&self) {
        *self.windows.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Windows::default();
    }
}
