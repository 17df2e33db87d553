//! The byte stream to the host: the virtio-serial port, or the single client of a listening socket.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use serde_json::Value;

use crate::protocol::{code, RequestError};
use crate::sys::process::set_nonblocking;
use crate::sys::ready::{wait, Interest};

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

/// A change of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A host has connected.
    Connected,
    /// The host has disconnected.
    Disconnected,
}

enum Transport {
    /// The port's device node, which reports a hang-up while no host is connected.
    Port {
        file: File,
        connected: bool,
    },
    Socket {
        listener: UnixListener,
        client: Option<UnixStream>,
    },
}

/// The worker's end of the evolution port. It never blocks.
pub struct Link(Transport);

impl Link {
    /// Takes ownership of an open port, or of a listening socket.
    ///
    /// # Errors
    /// If it cannot be made non-blocking.
    pub fn new(fd: OwnedFd, listens: bool) -> io::Result<Self> {
        set_nonblocking(&fd)?;
        Ok(Link(match listens {
            true => Transport::Socket { listener: UnixListener::from(fd), client: None },
            false => Transport::Port { file: File::from(fd), connected: false },
        }))
    }

    /// Whether a host is connected.
    pub fn is_connected(&self) -> bool {
        match &self.0 {
            Transport::Port { connected, .. } => *connected,
            Transport::Socket { client, .. } => client.is_some(),
        }
    }

    /// What to wait for. A port without a host is always ready, so it is not waited for but polled on each beat.
    pub fn interests(&self, read: bool, write: bool) -> Vec<Interest> {
        let stream = |fd: RawFd| Interest::read_write(fd, read, write);
        match &self.0 {
            Transport::Port { file, connected: true } => vec![stream(file.as_raw_fd())],
            Transport::Port { .. } => vec![],
            Transport::Socket { listener, client: None } => vec![Interest::read(listener.as_raw_fd())],
            Transport::Socket { listener, client: Some(client) } => {
                vec![Interest::read(listener.as_raw_fd()), stream(client.as_raw_fd())]
            }
        }
    }

    /// Checks whether the host has connected or disconnected.
    pub fn poll_connection(&mut self) -> Option<Change> {
        match &mut self.0 {
            Transport::Port { file, connected } => {
                let now = !hung_up(file.as_raw_fd());
                let changed = now != *connected;
                *connected = now;
                changed.then_some(if now { Change::Connected } else { Change::Disconnected })
            }
            Transport::Socket { listener, client } => accept(listener, client),
        }
    }

    /// Reads without blocking.
    ///
    /// # Errors
    /// If the connection has failed.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        let (result, at_end) = match &mut self.0 {
            Transport::Port { file, .. } => (file.read(buffer), Received::Nothing), // 0: no host, which poll_connection reports
            Transport::Socket { client: Some(client), .. } => (client.read(buffer), Received::End),
            Transport::Socket { .. } => return Ok(Received::Nothing),
        };
        match result {
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
        let result = match &mut self.0 {
            Transport::Port { file, .. } => file.write(bytes),
            Transport::Socket { client: Some(client), .. } => client.write(bytes),
            Transport::Socket { .. } => return Ok(0),
        };
        match result {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
            other => other,
        }
    }

    /// Whether this is the virtio-serial port.
    pub fn is_port(&self) -> bool {
        matches!(self.0, Transport::Port { .. })
    }

    /// Whether the client has closed both its sides.
    pub fn has_hung_up(&self) -> bool {
        match &self.0 {
            Transport::Socket { client: Some(client), .. } => hung_up(client.as_raw_fd()),
            _ => false,
        }
    }

    /// Drops a connection that has failed.
    pub fn disconnect(&mut self) {
        match &mut self.0 {
            Transport::Port { connected, .. } => *connected = false,
            Transport::Socket { client, .. } => *client = None,
        }
    }
}

fn hung_up(fd: RawFd) -> bool {
    let mut interests = [Interest::read_write(fd, false, false)];
    wait(&mut interests, Duration::ZERO).is_ok() && interests[0].hung_up()
}

/// Accepts the first client; any other is told that the machine is busy.
fn accept(listener: &UnixListener, client: &mut Option<UnixStream>) -> Option<Change> {
    let mut change = None;
    while let Ok((mut stream, _)) = listener.accept() {
        if stream.set_nonblocking(true).is_err() {
            continue;
        }
        // A client that has closed its connection since the last check does not count.
        if client.as_ref().is_none_or(|client| hung_up(client.as_raw_fd())) {
            *client = Some(stream);
            change = Some(Change::Connected);
        } else {
            let busy = RequestError::new(code::BUSY, "another client is connected: one at a time");
            let busy = busy.with(serde_json::json!({"retry_ms": 1000}));
            let _ = stream.write(&busy.to_bytes(&Value::Null));
        }
    }
    change
}
