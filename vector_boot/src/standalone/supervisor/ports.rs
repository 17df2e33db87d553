//! The evolution ports of the machine, or the socket in their place. They stay open for every worker.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::devices;
use crate::protocol::CONNECTIONS_LIMIT;

/// The open ports.
pub struct Ports {
    /// Each with its number.
    open: Vec<(usize, OwnedFd)>,
    /// Whether there may be others, which come with the names 1 to 15.
    may_grow: bool,
}

impl Ports {
    /// Waits for port 0, then takes the others that are there; `None` on a machine without ports.
    pub fn find() -> Option<Self> {
        let first = devices::evolution_port()?;
        Some(Ports { open: vec![(0, first)], may_grow: true })
    }

    /// The one socket that takes the place of ports.
    pub fn only(socket: OwnedFd) -> Self {
        Ports { open: vec![(0, socket)], may_grow: false }
    }

    /// Takes the ports that have appeared. Returns how many there are.
    pub fn look_again(&mut self) -> usize {
        if self.may_grow && self.open.len() < CONNECTIONS_LIMIT {
            let known: Vec<usize> = self.open.iter().map(|(number, _)| *number).collect();
            self.open.extend(devices::further_ports(&known));
        }
        self.open.len()
    }

    /// Their descriptors.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.open.iter().map(|(_, fd)| fd.as_fd())
    }
}
