//! The worker as a child process: started, watched, and started again when it ends.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::console;
use super::ports::Ports;
use super::running_worker::RunningWorker;
use super::state_file::StateFile;
use crate::standalone::control::Control;
use crate::standalone::worker::{Options, StateAccess};
use crate::sys::device_mapper::VerityDevice;
use crate::sys::message;
use crate::sys::process::{self, Ended};
use crate::sys::watch::Watch;

/// The worker's uid and gid in the appliance.
pub const WORKER_USER: u32 = 1000;
/// Uid and gid of the processes that judge a reload, and of its probe run, in the appliance: they cannot touch the worker.
const JUDGES_USER: u32 = 1001;
/// Time that a worker has to report on its model.
pub const LOAD_DEADLINE: Duration = Duration::from_secs(30);
/// Time between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(3);
/// After this many workers in a row that died while they replayed the journal, the next one does not use it.
const REPLAY_DEATHS_LIMIT: u32 = 5;
/// The longest delay before a worker is started again.
const BACKOFF_LIMIT: Duration = Duration::from_secs(5);
/// After this many workers of a reloaded executable in a row that died within a second, the next one is of our own.
const QUICK_DEATHS_LIMIT: u32 = 5;
const ORPHANS_LIMIT: u64 = 10_000;

/// The executable of a reload.
pub struct Executable {
    /// A sealed memory file.
    pub file: OwnedFd,
    /// Its SHA-256.
    pub sha256: [u8; 32],
}

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
    /// The device that checks the model's disk, if it has a hash tree.
    pub checked: Option<VerityDevice>,
    /// The state device, if there is one.
    pub state: Option<File>,
}

impl Resources {
    /// Resources without a model and a state device.
    pub fn new(options: Options, shared: OwnedFd, ports: Ports, journal: OwnedFd) -> Self {
        Resources { options, shared, ports, journal, model: None, watch: None, checked: None, state: None }
    }

    /// The same with this model.
    pub fn with_model(self, model: Option<File>, watch: Option<Watch>) -> Self {
        Resources { model, watch, ..self }
    }

    /// The same with this state device.
    pub fn with_state(mut self, state: Option<StateFile>) -> Self {
        self.options.state = match &state {
            None => StateAccess::None,
            Some(StateFile { writable: false, .. }) => StateAccess::Read,
            Some(StateFile { writable: true, .. }) => StateAccess::Write,
        };
        Resources { state: state.map(|state| state.file), ..self }
    }
}

/// The worker.
pub struct WorkerProcess {
    resources: Resources,
    /// The executable of the last reload that was kept; `None` for our own.
    executable: Option<Executable>,
    running: Option<RunningWorker>,
    starts: u32,
    failures: u32,
    /// Workers in a row that died while they replayed the journal: after the report on the model, before they served.
    replay_deaths: u32,
    next_start: Instant,
}

impl WorkerProcess {
    /// A worker that is not started yet.
    pub fn new(resources: Resources) -> Self {
        WorkerProcess {
            resources,
            executable: None,
            running: None,
            starts: 0,
            failures: 0,
            replay_deaths: 0,
            next_start: Instant::now(),
        }
    }

    /// Its process id, 0 while it does not run.
    pub fn pid(&self) -> u32 {
        self.running.as_ref().map_or(0, RunningWorker::pid)
    }

    /// How many times it was started again.
    pub fn restarts(&self) -> u32 {
        self.starts.saturating_sub(1)
    }

    /// What has happened to the model's file since it was opened, if anything.
    pub fn model_change(&self) -> Option<String> {
        self.resources.watch.as_ref()?.change()
    }

    /// Whether a block of the model's disk was read that does not have its hash.
    pub fn model_is_damaged(&self) -> bool {
        self.resources.checked.as_ref().is_some_and(|device| device.is_damaged().unwrap_or(false))
    }

    /// From its next start on the worker serves without a model.
    pub fn withdraw_model(&mut self) {
        self.resources.options.without_model = true;
        self.resources.watch = None;
        self.resources.checked = None;
    }

    /// Kills the worker that runs; another one is started as after any death.
    pub fn end_at_once(&self) {
        if let Some(running) = &self.running {
            process::kill(running.pid(), libc::SIGKILL);
        }
    }

    /// The supervisor's end of the control socket.
    pub fn control(&self) -> Option<&OwnedFd> {
        self.running.as_ref()?.control()
    }

    /// The model's file or device, whether the worker may use it or not.
    pub fn model(&self) -> Option<BorrowedFd<'_>> {
        self.resources.model.as_ref().map(File::as_fd)
    }

    /// The uid and gid for another process that this one must not be able to signal, in the appliance.
    pub fn judges_user(&self) -> Option<u32> {
        self.resources.options.appliance.then_some(JUDGES_USER)
    }

    /// SHA-256 of the executable of a reload that the workers are started from; `None` for our own.
    pub fn reloaded_sha256(&self) -> Option<[u8; 32]> {
        self.executable.as_ref().map(|executable| executable.sha256)
    }

    /// Starts the next workers from this executable, or from our own. Returns the one from before.
    pub fn use_executable(&mut self, executable: Option<Executable>) -> Option<Executable> {
        std::mem::replace(&mut self.executable, executable)
    }

    /// Puts another running worker in the place of this one, which is returned.
    pub fn replace(&mut self, other: RunningWorker) -> Option<RunningWorker> {
        let old = self.running.replace(other);
        if let Some(running) = &mut self.running {
            running.begin_to_serve();
        }
        old
    }

    /// Starts it.
    ///
    /// # Errors
    /// One sentence if that is impossible.
    pub fn start(&mut self) -> Result<(), String> {
        self.spawn().map_err(|error| format!("the worker cannot be started: {error}"))
    }

    fn spawn(&mut self) -> io::Result<()> {
        let executable = self.executable.as_ref().map(|executable| executable.file.as_fd());
        let running = spawn(&mut self.resources, executable, None)?;
        self.starts += 1;
        self.running = Some(running);
        Ok(())
    }

    /// Starts a worker of this executable beside the one that serves. It takes over what comes through `link`.
    ///
    /// # Errors
    /// Whatever starting a process says.
    pub fn start_beside(&mut self, executable: BorrowedFd<'_>, link: &OwnedFd) -> io::Result<RunningWorker> {
        spawn(&mut self.resources, Some(executable), Some(link.as_fd()))
    }

    /// Notes the end of a child that was reaped. Returns how it ended if it was the worker.
    pub fn note_end(&mut self, ended: &Ended) -> Option<String> {
        let running = self.running.as_ref().filter(|running| running.pid() == ended.pid)?;
        // SIGKILL comes from outside and says nothing about the journal, unless replaying it takes more memory than there
        // is. Outside the appliance the kernel's count is that of all programs of the host.
        let for_memory = self.resources.options.appliance && running.memory_ran_out();
        self.schedule_restart(for_memory || ended.signal != Some(libc::SIGKILL));
        Some(ended.how())
    }

    fn reap_all(&mut self) {
        while let Some(ended) = process::reap() {
            self.note_end(&ended);
        }
    }

    /// Decides when to start the next worker: at once if this one ran for a second, else after a growing delay.
    fn schedule_restart(&mut self, by_itself: bool) {
        let Some(running) = self.running.take() else { return };
        self.failures = if running.age() > Duration::from_secs(1) { 0 } else { (self.failures + 1).min(6) };
        let while_replaying = by_itself && running.replays();
        self.replay_deaths = if while_replaying { self.replay_deaths + 1 } else { 0 };
        if self.failures >= QUICK_DEATHS_LIMIT && self.executable.take().is_some() {
            console::say(
                "workers of the reloaded executable keep dying: the next one is of the executable that was booted",
            );
            (self.failures, self.replay_deaths) = (0, 0);
        }
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
        if running.is_stuck(progress) {
            console::say("the worker makes no progress and is killed");
            running.kill();
        }
    }

    /// Sends a message; one that cannot be delivered is dropped.
    pub fn send(&self, control: &Control) {
        if let Some(running) = &self.running {
            running.send(control);
        }
    }

    /// Sends a message with a descriptor; one that cannot be delivered is dropped.
    pub fn send_with(&self, control: &Control, fd: BorrowedFd<'_>) {
        if let Some(running) = &self.running {
            running.send_with(control, fd);
        }
    }

    /// The worker's next message, and the descriptor that came with it.
    ///
    /// # Errors
    /// WouldBlock if there is none. A worker that closed its end of the socket is killed: it cannot be controlled.
    pub fn receive(&mut self) -> io::Result<Option<(Control, Option<OwnedFd>)>> {
        self.running.as_mut().ok_or(io::ErrorKind::NotConnected)?.receive()
    }

    /// Counts a line that the worker wants on the console, and says whether it may have so many.
    pub fn may_notify(&mut self) -> bool {
        self.running.as_mut().is_some_and(RunningWorker::may_notify)
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

/// Starts a worker of an executable, or of our own. With `link` it takes over what comes through that socket.
fn spawn(
    resources: &mut Resources,
    executable: Option<BorrowedFd<'_>>,
    link: Option<BorrowedFd<'_>>,
) -> io::Result<RunningWorker> {
    let (ours, theirs) = message::pair()?;
    resources.options.ports = resources.ports.look_again();
    let Resources { options, shared, ports, journal, model, state, .. } = resources;
    let mut fds: Vec<BorrowedFd<'_>> = vec![theirs.as_fd(), shared.as_fd(), journal.as_fd()];
    fds.extend(link);
    fds.extend(ports.fds());
    fds.extend(state.as_ref().map(|file| file.as_fd()));
    fds.extend(model.as_ref().filter(|_| !options.without_model).map(|file| file.as_fd()));
    let user = options.appliance.then_some(WORKER_USER);
    let words = Options { standby: link.is_some(), ..options.clone() }.words();
    let mut command = executable.map_or_else(own_executable, executing);
    let child = process::spawn(command.args(words), &fds, user)?;
    Ok(RunningWorker::new(child.id(), ours))
}

/// A command that runs an executable, as [`own_executable`] does. The file must stay open until it was spawned.
pub fn executing(executable: BorrowedFd<'_>) -> Command {
    isolated(process::executing(executable))
}

/// A command that runs this executable again, with an empty environment and its errors on the console.
pub fn own_executable() -> Command {
    isolated(Command::new("/proc/self/exe"))
}

fn isolated(mut command: Command) -> Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).env_clear();
    command
}
