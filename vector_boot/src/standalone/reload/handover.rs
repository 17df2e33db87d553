//! The state that a worker hands over: bytes in a sealed memory file, and descriptors.
//!
//! Over a socket between the two workers come messages of eight bytes: the first says how many descriptors follow and
//! carries the memory file, the others carry the descriptors. The bytes begin with the version of the state.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use crate::protocol::packing::Packed;
use crate::sys::memory::{file_len, is_sealed, sealed_file};
use crate::sys::message::{receive_with, send_with, FDS_LIMIT};

/// Version of the state. A worker takes over only what has its own.
pub const VERSION: u64 = 2;
/// More descriptors than a worker can have.
const MOST_FDS: u64 = 1024;

/// State to be handed over.
pub struct Outgoing<'a> {
    /// The packed values.
    pub bytes: Vec<u8>,
    /// The descriptors, in the order in which they are taken out again.
    pub fds: Vec<BorrowedFd<'a>>,
}

impl Default for Outgoing<'_> {
    fn default() -> Self {
        let mut bytes = Vec::new();
        VERSION.pack(&mut bytes);
        Outgoing { bytes, fds: Vec::new() }
    }
}

impl Outgoing<'_> {
    /// Sends everything to the other worker.
    ///
    /// # Errors
    /// If the other worker has ended, or there is no memory.
    pub fn send(&self, link: &OwnedFd) -> io::Result<()> {
        let file = sealed_file(c"handover", &[&self.bytes])?;
        send_with(link, &(self.fds.len() as u64).to_le_bytes(), &[file.as_fd()])?;
        self.fds.chunks(FDS_LIMIT).try_for_each(|fds| send_with(link, &[0; 8], fds))
    }
}

/// State that arrives.
#[derive(Default)]
pub struct Incoming {
    file: Option<File>,
    missing: usize,
    fds: VecDeque<OwnedFd>,
}

impl Incoming {
    /// Receives what has arrived. Returns whether it is complete.
    ///
    /// # Errors
    /// If the other worker has ended before that, or sends something else.
    pub fn receive(&mut self, link: &OwnedFd) -> io::Result<bool> {
        while self.file.is_none() || self.missing > 0 {
            let mut message = [0; 8];
            let (len, mut fds) = match receive_with(link, &mut message) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                received => received?,
            };
            let count = u64::from_le_bytes(message);
            if len != message.len() || fds.is_empty() || count > MOST_FDS {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            if self.file.is_none() {
                self.file = fds.pop().filter(|file| is_sealed(file.as_fd())).map(File::from);
                self.missing = count as usize;
                self.file.as_ref().ok_or(ErrorKind::InvalidData)?;
            } else {
                self.missing = self.missing.checked_sub(fds.len()).ok_or(ErrorKind::InvalidData)?;
                self.fds.extend(fds);
            }
        }
        Ok(true)
    }

    /// The bytes behind the version, once everything is there.
    ///
    /// # Errors
    /// If they cannot be read, or have another version.
    pub fn bytes(&self) -> io::Result<Vec<u8>> {
        let file = self.file.as_ref().ok_or(ErrorKind::NotConnected)?;
        let len = usize::try_from(file_len(file.as_fd())?).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, 0)?;
        let mut rest = &bytes[..];
        if u64::unpack(&mut rest) != Some(VERSION) {
            return Err(io::Error::new(ErrorKind::InvalidData, format!("expected state of version {VERSION}")));
        }
        Ok(rest.to_vec())
    }

    /// The next descriptor.
    pub fn next_fd(&mut self) -> Option<OwnedFd> {
        self.fds.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::memory::memory_file;
    use crate::sys::message::pair;

    #[test]
    fn bytes_and_descriptors_arrive_in_order() {
        let (old, new) = pair().unwrap();
        let files: Vec<File> = (0..150).map(|_| File::from(memory_file(c"one").unwrap())).collect();
        for (number, file) in files.iter().enumerate() {
            file.write_all_at(&[number as u8], 0).unwrap();
        }
        let mut outgoing = Outgoing { fds: files.iter().map(AsFd::as_fd).collect(), ..Outgoing::default() };
        7u64.pack(&mut outgoing.bytes);
        let mut incoming = Incoming::default();
        assert!(!incoming.receive(&new).unwrap());
        outgoing.send(&old).unwrap();
        assert!(incoming.receive(&new).unwrap());
        assert_eq!(incoming.bytes().unwrap(), 7u64.to_le_bytes());
        for number in 0..150 {
            let mut byte = [0];
            File::from(incoming.next_fd().unwrap()).read_exact_at(&mut byte, 0).unwrap();
            assert_eq!(byte, [number]);
        }
        assert!(incoming.next_fd().is_none());
    }

    #[test]
    fn a_part_of_the_state_is_refused() {
        let (old, new) = pair().unwrap();
        let file = sealed_file(c"state", &[&(VERSION + 1).to_le_bytes()]).unwrap();
        send_with(&old, &70u64.to_le_bytes(), &[file.as_fd()]).unwrap();
        send_with(&old, &[0; 8], &[file.as_fd(); 64]).unwrap();
        let mut incoming = Incoming::default();
        assert!(!incoming.receive(&new).unwrap());
        assert!(incoming.bytes().unwrap_err().to_string().contains(&format!("version {VERSION}")));
        send_with(&old, &[0; 8], &[file.as_fd(); 7]).unwrap(); // one too many
        assert!(incoming.receive(&new).is_err());
        send_with(&old, &0u64.to_le_bytes(), &[memory_file(c"open").unwrap().as_fd()]).unwrap();
        assert!(Incoming::default().receive(&new).is_err());
    }
}
