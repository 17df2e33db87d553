//! The state device of a machine: a disk, a partition or a regular file, written around the page cache where that is possible.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::format::BLOCK;
use super::storage::BlockDevice;
use crate::sys::memory::Mapping;
use crate::sys::watch;

/// Bytes that are read or written at once. The memory for them is aligned to pages, as direct access wants it.
const PIECE_BYTES: usize = 1 << 20;

/// The open device.
pub struct StateDevice {
    file: File,
    size: u64,
    /// Where the file ends that was cut short since its size was found out.
    cut_at: u64,
    /// The bytes of it that were stored when that was asked last.
    stored: AtomicU64,
    piece: Mutex<Mapping>,
    progress: Box<dyn Fn() + Send + Sync>,
}

impl StateDevice {
    /// Takes the open device, which had `known` bytes when it was opened before. What was cut off since then reads as zeros, as in
    /// a copy that was cut short. `progress` is called between pieces: a slow one may take long for what is large.
    ///
    /// # Errors
    /// If its size cannot be found out, or there is no memory.
    pub fn new(mut file: File, known: Option<u64>, progress: Box<dyn Fn() + Send + Sync>) -> io::Result<Self> {
        let now = file.seek(SeekFrom::End(0))?; // a disk has no length in its status
        let size = known.unwrap_or(now);
        let cut_at = if now < size { now - now % BLOCK } else { u64::MAX };
        let (piece, stored) = (Mutex::new(Mapping::zeroed(PIECE_BYTES)?), AtomicU64::new(watch::stored(&file)?));
        Ok(StateDevice { file, size, cut_at, stored, piece, progress })
    }
}

impl BlockDevice for StateDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut piece = self.piece.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = offset;
        for part in buffer.chunks_mut(PIECE_BYTES) {
            let bytes = &mut piece.bytes_mut()[..part.len()];
            let there = self.cut_at.saturating_sub(at).min(bytes.len() as u64) as usize;
            self.file.read_exact_at(&mut bytes[..there], at)?;
            bytes[there..].fill(0);
            part.copy_from_slice(bytes);
            at += part.len() as u64;
            (self.progress)();
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let piece = self.piece.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut at = offset;
        for part in bytes.chunks(PIECE_BYTES) {
            let aligned = &mut piece.bytes_mut()[..part.len()];
            aligned.copy_from_slice(part);
            self.file.write_all_at(aligned, at)?;
            at += part.len() as u64;
            (self.progress)();
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn loss(&self) -> Option<String> {
        watch::loss(&self.file, self.size)
    }

    fn has_shrunk(&self) -> bool {
        watch::stored(&self.file).is_ok_and(|now| self.stored.swap(now, Ordering::Relaxed) > now)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::sync::atomic::AtomicUsize;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn pieces_come_back_in_order() {
        let path = std::env::temp_dir().join(format!("vector_boot-state-{}", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        file.set_len(8 << 20).unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let progress = move || {
            counted.fetch_add(1, Ordering::Relaxed);
        };
        let mut device = StateDevice::new(file, None, Box::new(progress)).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(device.size(), 8 << 20);
        let bytes: Vec<u8> = (0..(5u32 << 19)).flat_map(|number| (number as u16).to_le_bytes()).collect();
        device.write(4096, &bytes[..(5 << 19)]).unwrap();
        device.flush().unwrap();
        let mut read = vec![1; (5 << 19) + 4096];
        device.read(4096, &mut read).unwrap();
        assert!(read[..5 << 19] == bytes[..5 << 19] && read[5 << 19..].iter().all(|byte| *byte == 0));
        assert_eq!(calls.load(Ordering::Relaxed), 6, "after each of the pieces");
        assert!(device.read((8 << 20) - 4096, &mut [0; 8192]).is_err(), "there is an end");
    }

    #[test]
    fn what_was_cut_off_reads_as_zeros_and_is_noticed_also_if_the_file_is_as_long_again() {
        let path = std::env::temp_dir().join(format!("vector_boot-cut-{}", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        file.set_len(1 << 20).unwrap();
        let open = |known| StateDevice::new(file.try_clone().unwrap(), known, Box::new(|| ())).unwrap();
        let mut device = open(None);
        device.write(0, &[1; 64 << 10]).unwrap();
        device.flush().unwrap();
        assert!(!device.has_shrunk() && device.loss().is_none());
        file.set_len(8192 + 7).unwrap();
        let again = open(Some(1 << 20));
        let mut read = [2; 16 << 10];
        again.read(0, &mut read).unwrap();
        assert!(again.size() == 1 << 20 && read[..8192] == [1; 8192] && read[8192..] == [0; 8192]);
        assert!(again.loss().is_some() && device.read(0, &mut read).is_err());
        file.set_len(1 << 20).unwrap();
        assert!(device.loss().is_none() && device.has_shrunk());
        assert!(!device.has_shrunk(), "it is told once");
        std::fs::remove_file(&path).unwrap();
    }
}
