//! A worker that runs: its process, and the socket to it.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::metabolism;
use super::worker_process::LOAD_DEADLINE;
use crate::standalone::control::Control;
use crate::sys::process;

/// A worker that makes no progress for this long is killed.
const STUCK_AFTER: Duration = Duration::from_secs(5);
/// Lines that one worker may put on the console.
const NOTICES_LIMIT: u32 = 8;

/// A running worker.
pub struct RunningWorker {
    pid: u32,
    /// This end of the control socket; `None` once the worker has closed the other.
    control: Option<OwnedFd>,
    /// Whether it has reported on its model; until then its deadline is [`LOAD_DEADLINE`].
    reported: bool,
    /// Whether it serves requests, the journal having been replayed.
    serves: bool,
    since: Instant,
    /// Processes killed for want of memory before it started.
    memory_kills: u32,
    progress: u32,
    progress_at: Instant,
    /// Lines for the console that it has sent.
    notices: u32,
}

impl RunningWorker {
    /// A worker that has just been started; `control` is this end of its socket.
    pub fn new(pid: u32, control: OwnedFd) -> Self {
        let now = Instant::now();
        RunningWorker {
            pid,
            control: Some(control),
            reported: false,
            serves: false,
            since: now,
            memory_kills: metabolism::out_of_memory_kills(),
            progress: 0,
            progress_at: now,
            notices: 0,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// This end of the control socket.
    pub fn control(&self) -> Option<&OwnedFd> {
        self.control.as_ref()
    }

    /// How long it has been running.
    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Whether it replays the journal: it has reported on its model, and does not serve yet.
    pub fn replays(&self) -> bool {
        self.reported && !self.serves
    }

    /// Whether memory ran out since it started.
    pub fn memory_ran_out(&self) -> bool {
        metabolism::out_of_memory_kills() != self.memory_kills
    }

    /// It serves from now on, in the place of another one.
    pub fn begin_to_serve(&mut self) {
        (self.reported, self.serves, self.progress_at) = (true, true, Instant::now());
    }

    /// Whether it has made no progress for too long; the time then begins again.
    pub fn is_stuck(&mut self, progress: u32) -> bool {
        let limit = if self.reported { STUCK_AFTER } else { LOAD_DEADLINE };
        let stuck = self.progress == progress && self.progress_at.elapsed() > limit;
        if stuck || self.progress != progress {
            (self.progress, self.progress_at) = (progress, Instant::now());
        }
        stuck
    }

    /// Sends a message; one that cannot be delivered is dropped.
    pub fn send(&self, control: &Control) {
        if let Some(socket) = &self.control {
            let _ = control.send(socket);
        }
    }

    /// Sends a message with a descriptor; one that cannot be delivered is dropped.
    pub fn send_with(&self, control: &Control, fd: BorrowedFd<'_>) {
        if let Some(socket) = &self.control {
            let _ = control.send_with(socket, fd);
        }
    }

    /// Its next message, and the descriptor that came with it.
    ///
    /// # Errors
    /// WouldBlock if there is none. A worker that closed its end of the socket is killed: it cannot be controlled.
    pub fn receive(&mut self) -> io::Result<Option<(Control, Option<OwnedFd>)>> {
        let received = Control::receive_with(self.control.as_ref().ok_or(io::ErrorKind::NotConnected)?);
        match &received {
            Ok(Some((Control::TensorsReady { .. } | Control::Failed { .. }, _))) => self.reported = true,
            Ok(Some((Control::Serving, _))) => self.serves = true,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                self.control = None;
                self.kill();
            }
            _ => (),
        }
        received
    }

    /// Counts a line that it wants on the console, and says whether it may have so many.
    pub fn may_notify(&mut self) -> bool {
        self.notices = self.notices.saturating_add(1);
        self.notices <= NOTICES_LIMIT
    }

    /// Kills it.
    pub fn kill(&self) {
        process::kill(self.pid, libc::SIGKILL);
    }
}
