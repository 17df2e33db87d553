//! Signals as messages: all that can be blocked are, and arrive through a descriptor.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::check;

/// Descriptor on which blocked signals arrive.
pub struct Signals(OwnedFd);

/// Faults of the process itself, which must keep their meaning.
const SYNCHRONOUS: [i32; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP];

impl Signals {
    /// Blocks every signal but the synchronous faults, whatever was set before: masks survive exec.
    ///
    /// # Errors
    /// Whatever sigprocmask(2) or signalfd(2) say.
    pub fn take() -> io::Result<Self> {
        // SAFETY: the set is initialised by sigfillset before anything reads it.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigfillset(&mut set);
            for signal in SYNCHRONOUS {
                libc::sigdelset(&mut set, signal);
                libc::signal(signal, libc::SIG_DFL);
            }
            libc::signal(libc::SIGCHLD, libc::SIG_DFL); // ignored, it would reap behind our back
            check(libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut()))?;
            let fd = check(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
            Ok(Signals(OwnedFd::from_raw_fd(fd)))
        }
    }

    /// The next signal that has arrived, if any.
    pub fn next(&self) -> Option<i32> {
        // SAFETY: signalfd_siginfo is plain integers, and exactly its size is read into it.
        unsafe {
            let mut info: libc::signalfd_siginfo = std::mem::zeroed();
            let size = size_of::<libc::signalfd_siginfo>();
            let got = libc::read(self.0.as_raw_fd(), (&raw mut info).cast(), size);
            (got == size as isize).then_some(info.ssi_signo as i32)
        }
    }

    /// To wait on.
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Faults end the process at once again: std's handler, meant to name stack overflows, survives one sent by kill(2).
pub fn die_of_faults() {
    for signal in SYNCHRONOUS {
        // SAFETY: plain call.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Unblocks every signal and restores each disposition: what a fresh process expects. For use in a new child.
pub fn reset() {
    // SAFETY: async-signal-safe calls on a local set.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
        for signal in 1..32 {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
}
