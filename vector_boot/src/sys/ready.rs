//! Waiting for descriptors, with a time limit.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

/// What to wait for on one descriptor, and what happened.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Interest(libc::pollfd);

impl Interest {
    /// Wait until `fd` can be read.
    pub fn read(fd: RawFd) -> Self {
        Interest(libc::pollfd { fd, events: libc::POLLIN, revents: 0 })
    }

    /// Wait until `fd` can be read, or written if `write`.
    pub fn read_write(fd: RawFd, read: bool, write: bool) -> Self {
        let events = if read { libc::POLLIN } else { 0 } | if write { libc::POLLOUT } else { 0 };
        Interest(libc::pollfd { fd, events, revents: 0 })
    }

    /// Whether the descriptor is ready for what was asked.
    pub fn is_ready(&self) -> bool {
        self.0.revents & self.0.events != 0
    }

    /// Whether anything happened, asked for or not.
    pub fn happened(&self) -> bool {
        self.0.revents != 0
    }

    /// Whether the other end is closed, or was never open.
    pub fn hung_up(&self) -> bool {
        self.0.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
    }
}

/// Waits until one of the descriptors is ready or the time is over. A signal ends the wait early.
///
/// # Errors
/// Whatever ppoll(2) says, Interrupted excepted.
pub fn wait(interests: &mut [Interest], timeout: Duration) -> io::Result<()> {
    let time = libc::timespec {
        tv_sec: timeout.as_secs().min(1 << 30) as libc::time_t,
        tv_nsec: libc::c_long::from(timeout.subsec_nanos()),
    };
    // SAFETY: `Interest` is a transparent pollfd, and the slice is live.
    let result =
        unsafe { libc::ppoll(interests.as_mut_ptr().cast(), interests.len() as libc::nfds_t, &time, std::ptr::null()) };
    if result < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(())
}
