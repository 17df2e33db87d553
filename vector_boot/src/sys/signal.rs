//! Signals as messages: every signal that can be blocked is, and arrives through a descriptor.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::check;

/// Descriptor on which blocked signals arrive.
pub struct Signals(OwnedFd);

/// Signals that a faulting instruction raises; they keep their default action.
const SYNCHRONOUS: [i32; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP];
/// Signals that a terminal sends to every process of its foreground group.
const OF_TERMINALS: [i32; 3] = [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP];

impl Signals {
    /// Blocks every signal but the synchronous ones, whatever was set before (signal masks survive exec). A SIGHUP that
    /// this process was started to ignore, as nohup(1) does, stays ignored.
    ///
    /// # Errors
    /// Whatever sigprocmask(2) or signalfd(2) say.
    pub fn take() -> io::Result<Self> {
        let keeps_hangup_ignored = is_ignored(libc::SIGHUP);
        // SAFETY: the set is initialised by sigfillset before anything reads it.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigfillset(&mut set);
            for signal in SYNCHRONOUS {
                libc::sigdelset(&mut set, signal);
                libc::signal(signal, libc::SIG_DFL);
            }
            if keeps_hangup_ignored {
                libc::sigdelset(&mut set, libc::SIGHUP); // a blocked signal is queued even if it is ignored
            }
            libc::signal(libc::SIGCHLD, libc::SIG_DFL); // if it were ignored, the kernel would reap the children
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

    /// The descriptor to wait on.
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Whether this process ignores a signal.
fn is_ignored(signal: i32) -> bool {
    // SAFETY: all zeros is a valid value; the call only fills it in.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Restores the default action of the synchronous signals: std's handler, which names stack overflows, would otherwise
/// swallow the first one that kill(2) sends.
pub fn die_of_faults() {
    for signal in SYNCHRONOUS {
        // SAFETY: no handler is installed.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Ignores the signals of a terminal: the supervisor gets them too, and ends this process in order.
pub fn leave_terminal_to_parent() {
    for signal in OF_TERMINALS {
        // SAFETY: no handler is installed.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Unblocks every signal and restores each default action, as a fresh process expects. For use in a new child.
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
