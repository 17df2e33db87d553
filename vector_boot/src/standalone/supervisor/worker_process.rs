//! The worker as a child process: started, watched, started again.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::console;
use crate::standalone::control::Control;
use crate::standalone::worker::Options;
use crate::sys::message;
use crate::sys::process::{self, Ended};

/// The worker's uid and gid in the appliance.
pub const WORKER_USER: u32 = 1000;
/// A worker that makes no progress for this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(5);
/// A worker must have reported on its model within this time.
pub const LOAD_DEADLINE: Duration = Duration::from_secs(30);
/// Time between the request to end and the end by force.
const GRACE: Duration = Duration::from_secs(3);
/// So many workers in a row that died before they served are blamed on the journal.
const JOURNAL_BLAMED_AFTER: u32 = 5;
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
const MOST_ORPHANS: u64 = 10_000;

/// What every worker gets.
pub struct Endowment {
    /// What it is told on its command line.
    pub options: Options,
    /// The shared words.
    pub shared: OwnedFd,
    /// The evolution port, or the listening socket.
    pub port: OwnedFd,
    /// The memory file that the journal is kept in: it outlives every worker.
    pub journal: OwnedFd,
    /// The model's file or device.
    pub model: Option<File>,
}

/// The worker.
pub struct WorkerProcess {
    endowment: Endowment,
    running: Option<Running>,
    starts: u32,
    failures: u32,
    /// Workers in a row that had reported on the model and died before they served.
    died_of_journal: u32,
    next_start: Instant,
}

struct Running {
    pid: u32,
    /// Our end of the socket; `None` once the worker has closed its own.
    control: Option<OwnedFd>,
    /// Whether it has reported on its model; until then it may take long.
    reported: bool,
    /// Whether it serves: what the journal says is behind it.
    serves: bool,
    since: Instant,
    progress: u32,
    progress_at: Instant,
}

impl WorkerProcess {
    /// A worker not started yet.
    pub fn new(endowment: Endowment) -> Self {
        WorkerProcess {
            endowment,
            running: None,
            starts: 0,
            failures: 0,
            died_of_journal: 0,
            next_start: Instant::now(),
        }
    }

    /// Its process id, 0 while it does not run.
    pub fn pid(&self) -> u32 {
        self.running.as_ref().map_or(0, |running| running.pid)
    }

    /// How often it was started again.
    pub fn restarts(&self) -> u32 {
        self.starts.saturating_sub(1)
    }

    /// From the next start on it serves without a model.
    pub fn take_model_away(&mut self) {
        self.endowment.options.without_model = true;
        self.endowment.model = None;
    }

    /// The supervisor's end of the control socket.
    pub fn control(&self) -> Option<&OwnedFd> {
        self.running.as_ref()?.control.as_ref()
    }

    /// Starts it.
    ///
    /// # Errors
    /// One sentence if that is impossible.
    pub fn start(&mut self) -> Result<(), String> {
        self.spawn().map_err(|error| format!("the worker cannot be started: {error}"))
    }

    fn spawn(&mut self) -> io::Result<()> {
        let (ours, theirs) = message::pair()?;
        let Endowment { options, shared, port, journal, model } = &self.endowment;
        let mut fds: Vec<BorrowedFd<'_>> = vec![theirs.as_fd(), shared.as_fd(), port.as_fd(), journal.as_fd()];
        fds.extend(model.as_ref().map(|file| file.as_fd()));
        let user = options.appliance.then_some(WORKER_USER);
        let child = process::spawn(own_executable().args(options.words()), &fds, user)?;
        let now = Instant::now();
        self.starts += 1;
        self.running = Some(Running {
            pid: child.id(),
            control: Some(ours),
            reported: false,
            serves: false,
            since: now,
            progress: 0,
            progress_at: now,
        });
        Ok(())
    }

    /// Takes note of a child that was reaped. Tells how it died if it was the worker.
    pub fn note_end(&mut self, ended: &Ended) -> Option<String> {
        self.running.as_ref().filter(|running| running.pid == ended.pid)?;
        // One that was killed, for want of memory as like as not, says nothing about the journal.
        self.bury(ended.signal != Some(libc::SIGKILL));
        Some(match ended.signal {
            Some(signal) => format!("was killed by signal {signal}"),
            None => format!("exited with status {}", ended.status),
        })
    }

    fn reap_all(&mut self) {
        while let Some(ended) = process::reap() {
            self.note_end(&ended);
        }
    }

    /// Decides when to start the next one: at once after a good life, later and later after short ones.
    fn bury(&mut self, by_itself: bool) {
        let Some(running) = self.running.take() else { return };
        let lived = running.since.elapsed();
        self.failures = if lived > Duration::from_secs(1) { 0 } else { (self.failures + 1).min(6) };
        let of_journal = by_itself && running.reported && !running.serves;
        self.died_of_journal = if of_journal { self.died_of_journal + 1 } else { 0 };
        if self.died_of_journal == JOURNAL_BLAMED_AFTER {
            console::say("the worker keeps dying: from now on it serves the model as it was built, without mutations");
            self.endowment.options.without_journal = true;
        }
        let delay = match self.failures {
            0 => Duration::ZERO,
            failures => LONGEST_BACKOFF.min(Duration::from_millis(50 << failures)),
        };
        self.next_start = Instant::now() + delay;
    }

    /// Starts a dead worker again if its time has come.
    pub fn restart_if_due(&mut self) -> bool {
        if self.running.is_some() || Instant::now() < self.next_start {
            return false;
        }
        if let Err(why) = self.start() {
            console::say(&why);
            self.next_start = Instant::now() + LONGEST_BACKOFF;
            return false;
        }
        true
    }

    /// Kills a worker whose loop has stood still for too long.
    pub fn end_if_stuck(&mut self, progress: u32) {
        let Some(running) = &mut self.running else { return };
        if running.progress != progress {
            (running.progress, running.progress_at) = (progress, Instant::now());
        } else if running.progress_at.elapsed() > if running.reported { STUCK_AFTER } else { LOAD_DEADLINE } {
            console::say("the worker makes no progress and is killed");
            process::kill(running.pid, libc::SIGKILL);
            running.progress_at = Instant::now();
        }
    }

    /// Sends it a message; one that cannot be delivered is dropped.
    pub fn send(&self, control: &Control) {
        if let Some(socket) = self.control() {
            let _ = control.send(socket);
        }
    }

    /// Its next message, if any.
    ///
    /// # Errors
    /// When there is none now. A worker that closed its end is killed: nothing can be agreed with it any more.
    pub fn receive(&mut self) -> io::Result<Option<Control>> {
        let running = self.running.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let received = Control::receive(running.control.as_ref().ok_or(io::ErrorKind::NotConnected)?);
        match &received {
            Ok(Some(Control::TensorsReady { .. } | Control::Failed { .. })) => running.reported = true,
            Ok(Some(Control::Serving)) => running.serves = true,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                running.control = None;
                process::kill(running.pid, libc::SIGKILL);
            }
            _ => (),
        }
        received
    }

    /// Ends it: asked first, forced after three seconds.
    pub fn end(&mut self) {
        let deadline = Instant::now() + GRACE;
        process::kill(self.pid(), libc::SIGTERM);
        while self.running.is_some() && Instant::now() < deadline {
            self.reap_all();
            std::thread::sleep(Duration::from_millis(2));
        }
        process::kill(self.pid(), libc::SIGKILL);
        self.reap_all();
        self.running = None;
    }

    /// Makes a short-lived child leave orphans behind, if faults are allowed: the worker asks, it does not command.
    pub fn leave_orphans(&mut self, count: u64) {
        if !self.endowment.options.fault {
            return;
        }
        let mut command = own_executable();
        command.args(["--leave-orphans", &count.min(MOST_ORPHANS).to_string()]);
        if let Err(error) = process::spawn(&mut command, &[], None) {
            console::say(&format!("no orphans: {error}"));
        }
    }
}

/// This executable again, with nothing to read and errors on the console.
pub fn own_executable() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.stdin(Stdio::null()).stdout(Stdio::null()).env_clear();
    command
}
