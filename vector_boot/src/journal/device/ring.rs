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
    window: Mutex<Window>,
}

/// A piece of the ring that was read.
#[derive(Default)]
struct Window {
    at: u64,
    bytes: Vec<u8>,
}

impl Ring {
    /// The ring in this part of a device.
    pub fn new(device: Box<dyn BlockDevice>, offset: u64, bytes: u64) -> Self {
        Ring { device, offset, bytes, window: Mutex::default() }
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
        let mut window = self.window.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        while !buffer.is_empty() {
            let end = window.at + window.bytes.len() as u64;
            if at < window.at || at >= end {
                let block = at - at % BLOCK;
                let ahead = if block == end { PIECE as u64 } else { FIRST_PIECE };
                let len = ahead.min(limit.saturating_sub(block)).max(BLOCK) as usize;
                let mut bytes = std::mem::take(&mut window.bytes);
                bytes.resize(len, 0);
                self.read_blocks(block, &mut bytes)?;
                *window = Window { at: block, bytes };
            }
            let known = &window.bytes[(at - window.at) as usize..];
            let count = known.len().min(buffer.len());
            let (now, later) = buffer.split_at_mut(count);
            now.copy_from_slice(&known[..count]);
            (at, buffer) = (at + count as u64, later);
        }
        Ok(())
    }

    /// Forgets what was read ahead.
    pub fn forget(&self) {
        *self.window.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Window::default();
    }
}
