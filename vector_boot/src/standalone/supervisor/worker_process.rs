//! The worker as a child process: started, watched, and started again when it ends.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::console;
use super::metabolism;
use super::ports::Ports;
use crate::standalone::control::Control;
use crate::standalone::worker::Options;
use crate::sys::message;
use crate::sys::process::{self, Ended};
use crate::sys::watch::Watch;

/// The worker's uid and gid in the appliance.
pub const WORKER_USER: u32 = 1000;
/// A worker that makes no progress for this long is killed.
const STUCK_AFTER: Duration = Duration::from_secs(5);
/// Time that a worker has to report on its model.
pub const LOAD_DEADLINE: Duration = Duration::from_secs(30);
/// Time between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(3);
/// After this many workers in a row that died while they replayed the journal, the next one does not use it.
const REPLAY_DEATHS_LIMIT: u32 = 5;
/// The longest delay before a worker is started again.
const BACKOFF_LIMIT: Duration = Duration::from_secs(5);
const ORPHANS_LIMIT: u64 = 10_000;

/// What every worker is given.
pub struct Resources {
    /// The settings on its command line.
    pub options: Options,
    /// The shared words.
    pub shared: OwnedFd,
    /// The evolution ports, or the listening socket.
    pub ports: Ports,
    /// The memory file of the journal, which outlives every worker.
    pub journal: OwnedFd,
    /// The model's file or device; `None` for a model inside the executable.
    pub model: Option<File>,
    /// Notices changes of the model's file; `None` for a device.
    pub watch: Option<Watch>,
}

/// The worker.
pub struct WorkerProcess {
    resources: Resources,
    running: Option<RunningWorker>,
    starts: u32,
    failures: u32,
    /// Workers in a row that died while they replayed the journal: after the report on the model, before they served.
    replay_deaths: u32,
    next_start: Instant,
}

struct RunningWorker {
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
}

impl WorkerProcess {
    /// A worker that is not started yet.
    pub fn new(resources: Resources) -> Self {
        WorkerProcess { resources, running: None, starts: 0, failures: 0, replay_deaths: 0, next_start: Instant::now() }
    }

    /// Its process id, 0 while it does not run.
    pub fn pid(&self) -> u32 {
        self.running.as_ref().map_or(0, |running| running.pid)
    }

    /// How many times it was started again.
    pub fn restarts(&self) -> u32 {
        self.starts.saturating_sub(1)
    }

    /// What has happened to the model's file since it was opened, if anything.
    pub fn model_change(&self) -> Option<String> {
        self.resources.watch.as_ref()?.change()
    }

    /// From its next start on the worker serves without a model.
    pub fn withdraw_model(&mut self) {
        self.resources.options.without_model = true;
        self.resources.model = None;
        self.resources.watch = None;
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
        let resources = &mut self.resources;
        resources.options.ports = resources.ports.look_again();
        let Resources { options, shared, ports, journal, model, .. } = resources;
        let mut fds: Vec<BorrowedFd<'_>> = vec![theirs.as_fd(), shared.as_fd(), journal.as_fd()];
        fds.extend(ports.fds());
        fds.extend(model.as_ref().map(|file| file.as_fd()));
        let user = options.appliance.then_some(WORKER_USER);
        let child = process::spawn(own_executable().args(options.words()), &fds, user)?;
        let now = Instant::now();
        self.starts += 1;
        self.running = Some(RunningWorker {
            pid: child.id(),
            control: Some(ours),
            reported: false,
            serves: false,
            since: now,
            memory_kills: metabolism::out_of_memory_kills(),
            progress: 0,
            progress_at: now,
        });
        Ok(())
    }

    /// Notes the end of a child that was reaped. Returns how it ended if it was the worker.
    pub fn note_end(&mut self, ended: &Ended) -> Option<String> {
        let running = self.running.as_ref().filter(|running| running.pid == ended.pid)?;
        // SIGKILL comes from outside and says nothing about the journal, unless replaying it takes more memory than there
        // is. Outside the appliance the kernel's count is that of all programs of the host.
        let for_memory = self.resources.options.appliance && metabolism::out_of_memory_kills() != running.memory_kills;
        self.schedule_restart(for_memory || ended.signal != Some(libc::SIGKILL));
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

    /// Decides when to start the next worker: at once if this one ran for a second, else after a growing delay.
    fn schedule_restart(&mut self, by_itself: bool) {
        let Some(running) = self.running.take() else { return };
        let lived = running.since.elapsed();
        self.failures = if lived > Duration::from_secs(1) { 0 } else { (self.failures + 1).min(6) };
        let while_replaying = by_itself && running.reported && !running.serves;
        self.replay_deaths = if while_replaying { self.replay_deaths + 1 } else { 0 };
        if self.replay_deaths == REPLAY_DEATHS_LIMIT {
            console::say("workers keep dying while they replay the journal: the next one serves the model as built, without mutations");
            self.resources.options.without_journal = true;
        }
        let delay = match self.failures {
            0 => Duration::ZERO,
            failures => BACKOFF_LIMIT.min(Duration::from_millis(50 << failures)),
        };
        self.next_start = Instant::now() + delay;
    }

    /// Starts the worker again if it has ended and the delay is over. Returns whether it did.
    pub fn restart_if_due(&mut self) -> bool {
        if self.running.is_some() || Instant::now() < self.next_start {
            return false;
        }
        if let Err(why) = self.start() {
            console::say(&why);
            self.next_start = Instant::now() + BACKOFF_LIMIT;
            return false;
        }
        true
    }

    /// Kills a worker that has made no progress for too long.
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

    /// Sends a message; one that cannot be delivered is dropped.
    pub fn send(&self, control: &Control) {
        if let Some(socket) = self.control() {
            let _ = control.send(socket);
        }
    }

    /// The worker's next message.
    ///
    /// # Errors
    /// WouldBlock if there is none. A worker that closed its end of the socket is killed: it cannot be controlled.
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

    /// Ends the worker: SIGTERM, and SIGKILL after three seconds.
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

    /// Starts a child that leaves orphans behind, if faults are allowed; a worker's message alone does not decide.
    pub fn leave_orphans(&mut self, count: u64) {
        if !self.resources.options.fault {
            return;
        }
        let mut command = own_executable();
        command.args(["--leave-orphans", &count.min(ORPHANS_LIMIT).to_string()]);
        if let Err(error) = process::spawn(&mut command, &[], None) {
            console::say(&format!("no orphans can be started: {error}"));
        }
    }
}

/// A command that runs this executable again, with an empty environment and its errors on the console.
pub fn own_executable() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.stdin(Stdio::null()).stdout(Stdio::null()).env_clear();
    command
}
