//! One byte stream to the host: a virtio-serial port, or a client of a listening socket.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use crate::sys::process::{self, set_nonblocking};

/// The result of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// This many bytes.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// The end: the host has closed its side for writing, but may still read.
    End,
}

/// The worker's end of a stream. It never blocks.
pub enum Link {
    /// The port's device node, which stays open while no host is connected.
    Port(File),
    /// A client of the listening socket.
    Socket(UnixStream),
}

impl Link {
    /// Takes ownership of an open port.
    ///
    /// # Errors
    /// If it cannot be made non-blocking.
    pub fn port(fd: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&fd)?;
        Ok(Link::Port(File::from(fd)))
    }

    /// The descriptor to wait for.
    pub fn fd(&self) -> RawFd {
        match self {
            Link::Port(file) => file.as_raw_fd(),
            Link::Socket(client) => client.as_raw_fd(),
        }
    }

    /// Whether this is a virtio-serial port.
    pub fn is_port(&self) -> bool {
        matches!(self, Link::Port(_))
    }

    /// The descriptor of a client; `None` for a port.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Link::Port(_) => None,
            Link::Socket(client) => Some(client.as_fd()),
        }
    }

    /// Reads without blocking, and appends at most `limit` bytes to `buffer`.
    ///
    /// # Errors
    /// If the connection has failed.
    pub fn read(&self, buffer: &mut Vec<u8>, limit: usize) -> io::Result<Received> {
        let at_end = if self.is_port() { Received::Nothing } else { Received::End }; // no host: waiting reports that
        let fd = match self {
            Link::Port(file) => file.as_fd(),
            Link::Socket(client) => client.as_fd(),
        };
        match process::read_more(fd, buffer, limit) {
            Ok(0) => Ok(at_end),
            Ok(count) => Ok(Received::Bytes(count)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                Ok(Received::Nothing)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes as much as the host accepts now, which may be 0 bytes.
    ///
    /// # Errors
    /// If the connection has failed.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = match self {
            Link::Port(file) => file.write(bytes),
            Link::Socket(client) => client.write(bytes),
        };
        match result {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
            other => other,
        }
    }
}
