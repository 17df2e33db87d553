//! The supervisor: it beats, starts and reaps processes, and ends the machine in order. As PID 1 it never exits.
//!
//! It parses no data from outside: the worker examines image and requests, a short-lived child hashes the executable, and
//! both answer in messages of fixed size.

pub mod appliance;
mod cmdline;
mod console;
mod devices;
pub mod disks;
mod heartbeat;
pub mod listen;
mod metabolism;
mod ports;
pub mod probe;
mod reload;
mod running_worker;
pub mod setup;
mod shared_files;
mod socket_file;
pub mod state_file;
mod trial;
mod update;
mod worker_process;

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::hw_mmio::{word, Page, State};
use crate::rts::hex;
use crate::standalone::boot::entries::Task;
use crate::standalone::control::Control;
use crate::sys::memory::SharedWords;
use crate::sys::ready::{wait, Interest};
use crate::sys::signal::Signals;
use crate::sys::{self, process};
use crate::vitals::{Vitals, PHASES};
use heartbeat::{Beat, Heartbeat};
use probe::Probe;
use trial::Trial;
use worker_process::WorkerProcess;

/// How the machine is to be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Switch the power off.
    PowerOff,
    /// Boot again.
    Reboot,
}

/// What a supervisor needs to run.
pub struct SupervisorParts {
    signals: Signals,
    period: Duration,
    shared: SharedWords,
    worker: WorkerProcess,
    /// The child that hashes the executable.
    executable: Probe,
    /// Probation of a worker after a reload.
    probation: Duration,
    /// The trial of the slot that runs, on a disk that has slots.
    trial: Option<Trial>,
    appliance: bool,
}

/// Why the machine could not be started as it should.
pub enum StartError {
    /// The worker runs and has reported that the model cannot be served.
    Model(String),
    /// The worker died, or did not become ready in time.
    Worker(String),
}

impl StartError {
    /// The reason, as a sentence.
    pub fn why(&self) -> &str {
        match self {
            StartError::Model(why) | StartError::Worker(why) => why,
        }
    }
}

/// The running supervisor.
pub struct Supervisor {
    signals: Signals,
    period: Duration,
    shared: SharedWords,
    worker: WorkerProcess,
    appliance: bool,
    /// The child that hashes the executable, until its answer is needed.
    probe: Option<Probe>,
    /// SHA-256 of the executable; zeros until it is known.
    executable: [u8; 32],
    /// Why the machine is in emergency mode, if it is.
    emergency: Option<String>,
    /// The child that loads the late modules, while it runs.
    late_setup: Option<u32>,
    power_button: Option<devices::PowerButton>,
    watchdog: Option<devices::Watchdog>,
    reload: reload::Stage,
    probation: Duration,
    trial: Option<Trial>,
    update: update::Stage,
    end: Option<End>,
    entered: usize,
}

/// Messages of the worker handled in one turn, so that a flood of them does not delay a beat.
const CONTROL_LIMIT: usize = 64;

impl Supervisor {
    /// A supervisor that does not beat yet.
    pub fn new(parts: SupervisorParts) -> Self {
        let SupervisorParts { signals, period, shared, worker, executable, probation, trial, appliance } = parts;
        Supervisor {
            signals,
            period,
            shared,
            worker,
            appliance,
            probe: Some(executable),
            executable: [0; 32],
            emergency: None,
            late_setup: None,
            power_button: None,
            watchdog: None,
            reload: reload::Stage::Idle,
            probation,
            trial,
            update: update::Stage::Idle,
            end: None,
            entered: 1,
        }
    }

    fn page(&self) -> Page<'_> {
        Page::new(self.shared.words())
    }

    fn vitals(&self) -> Vitals<'_> {
        Vitals::new(self.shared.words())
    }

    /// Starts the worker and waits until it serves its model.
    ///
    /// # Errors
    /// Why it does not serve it.
    pub fn bring_up(&mut self) -> Result<(), StartError> {
        self.worker.start().map_err(StartError::Worker)?;
        self.note_worker();
        let deadline = Instant::now() + worker_process::LOAD_DEADLINE;
        while self.entered < 3 && self.emergency.is_none() && self.end.is_none() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return Err(StartError::Worker("the worker did not load the model within 30 s".into()));
            };
            self.wait_and_handle(left.min(Duration::from_millis(100)));
            if let Some(how) = self.reap() {
                return Err(StartError::Worker(format!("the worker {how} while it loaded the model")));
            }
        }
        match self.emergency.clone() {
            Some(why) => Err(StartError::Model(why)),
            None => Ok(()),
        }
    }

    /// Lets a worker serve that has reported on its model. It serves in emergency mode if the model was refused, or if its
    /// image was built with another executable than this one.
    fn let_serve(&mut self, report: Result<Option<[u8; 32]>, String>) {
        self.check_model_file();
        let mut unhashed = None;
        match self.probe.take().map(Probe::finish) {
            Some(Ok(digest)) => self.executable = digest,
            Some(Err(why)) => unhashed = Some(why), // the build is reported as zeros
            None => (),
        }
        let reloaded = self.worker.reloaded_sha256();
        let own = reloaded.unwrap_or(self.executable);
        // Outside the appliance, and after a reload, any executable may serve any image.
        let judges = self.appliance && reloaded.is_none();
        let problem = match report {
            Err(why) => Some(why),
            Ok(recorded) => recorded.filter(|recorded| judges && *recorded != own).map(|recorded| {
                let (own, recorded) = (hex(&own[..6]), hex(&recorded[..6]));
                unhashed.clone().unwrap_or_else(|| {
                    format!("this executable ({own}...) is not the one in the RTS image ({recorded}...)")
                })
            }),
        };
        if let Some(why) = unhashed.filter(|why| problem.as_ref() != Some(why)) {
            console::say(&why);
        }
        if let Some(why) = problem {
            self.declare_emergency(why);
        }
        self.worker.send(&Control::Serve { executable: own, emergency: self.emergency.clone() });
    }

    /// Notes why the machine is in emergency mode, unless it is already.
    fn declare_emergency(&mut self, why: String) {
        if self.emergency.is_none() {
            console::say(&format!("EMERGENCY: {why}"));
            self.emergency = Some(why);
        }
    }

    /// Declares an emergency if the model's file has changed, or a block of its disk does not have its hash. Later workers get no
    /// model. The running one notices a change by itself, and is ended if its disk is damaged.
    fn check_model_file(&mut self) {
        if let Some(change) = self.worker.model_change() {
            self.declare_emergency(format!("the model's file {change}"));
            self.worker.withdraw_model();
        }
        if self.worker.model_is_damaged() {
            self.declare_emergency(
                "the image is damaged: a block of it does not have the hash of its hash tree".into(),
            );
            self.worker.withdraw_model();
            self.worker.end_at_once();
        }
    }

    /// Beats until the machine is to end.
    pub fn beat(&mut self) -> End {
        console::say("Entering Heartbeat Loop");
        self.enter_phase(4);
        let mut heartbeat = Heartbeat::start(self.period);
        loop {
            if let Some(end) = self.end {
                return end;
            }
            match heartbeat.due() {
                Err(left) => self.wait_and_handle(left),
                Ok(beat) => self.one_beat(&heartbeat, beat),
            }
        }
    }

    fn one_beat(&mut self, heartbeat: &Heartbeat, Beat { late_us, skipped }: Beat) {
        let page = self.page();
        page.set_wide(word::BEATS, heartbeat.beats());
        page.set(word::LATENESS_US, late_us);
        page.set(word::WORST_LATENESS_US, page.get(word::WORST_LATENESS_US).max(late_us));
        let uptime_us = sys::monotonic_us().saturating_sub(self.vitals().start_us());
        page.set(word::UPTIME_S, (uptime_us / 1_000_000) as u32);
        let state = if self.emergency.is_some() { State::Emergency } else { State::Beating };
        page.set(word::STATE, state as u32);
        self.vitals().count_beat(late_us);
        if skipped > 0 {
            let beats = if skipped == 1 { "beat" } else { "beats" };
            console::say(&format!("the heartbeat stalled for {} ms: {skipped} {beats} skipped", late_us / 1000));
        }
        if heartbeat.beats() == 1 {
            self.enter_phase(5);
            self.start_late_setup();
        }
        let message = Control::Beat { beats: heartbeat.beats(), late_us };
        self.worker.send(&message);
        self.reload_at_beat(&message);
        self.trial_at_beat(heartbeat.beats());
        self.update_at_beat();
        let pid = self.worker.pid();
        if metabolism::is_due(heartbeat.beats()) {
            metabolism::measure(self.page(), self.vitals(), pid);
        }
        self.keep_worker_alive();
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.kick();
        }
    }

    fn keep_worker_alive(&mut self) {
        self.check_model_file();
        let progress = self.vitals().progress();
        if let Some(how) = self.reap() {
            console::say(&format!("the worker {how}; it is started again"));
        }
        self.worker.end_if_stuck(progress);
        if self.worker.restart_if_due() {
            self.note_worker();
        }
    }

    /// Reaps every child that has ended, orphans included. Returns how the worker ended, if it was among them.
    fn reap(&mut self) -> Option<String> {
        let mut worker_end = None;
        while let Some(ended) = process::reap() {
            if self.late_setup == Some(ended.pid) {
                self.late_setup = None;
                self.power_button = devices::PowerButton::find();
                self.watchdog = devices::Watchdog::arm();
                self.start_entries(Task::Read);
            }
            let of_slots = self.note_end_in_trial(&ended) || self.note_end_in_update(&ended);
            if !of_slots && !self.note_end_in_reload(&ended) {
                worker_end = self.worker.note_end(&ended).or(worker_end);
            }
        }
        if worker_end.is_some() {
            self.check_model_file(); // a truncated file ends a worker with SIGBUS: the next one must not map it
        }
        worker_end
    }

    /// Starts a child that loads the modules which the first beat did not need.
    fn start_late_setup(&mut self) {
        if !self.appliance {
            return;
        }
        match process::spawn(worker_process::own_executable().arg("--late-setup"), &[], None) {
            Ok(child) => self.late_setup = Some(child.id()),
            Err(error) => console::say(&format!("the late modules are not loaded: {error}")),
        }
    }

    fn note_worker(&self) {
        let page = self.page();
        page.set(word::WORKER_PID, self.worker.pid());
        page.set(word::WORKER_RESTARTS, self.worker.restarts());
    }

    fn enter_phase(&mut self, phase: usize) {
        let us = sys::monotonic_us().saturating_sub(self.vitals().start_us());
        self.vitals().reach_phase(phase, us);
        console::say_phase(PHASES[phase], us);
    }

    /// Waits for signals, messages of the worker and the power button, and handles what arrives.
    fn wait_and_handle(&mut self, timeout: Duration) {
        let mut interests = vec![Interest::read(self.signals.fd())];
        interests.extend(self.worker.control().map(|socket: &OwnedFd| Interest::read(socket.as_raw_fd())));
        interests.extend(self.power_button.as_ref().map(|button| Interest::read(button.fd())));
        interests.extend(self.reload.fd().map(Interest::read));
        interests.extend(self.update.fd().map(Interest::read));
        interests.extend(self.trial.as_ref().and_then(Trial::fd).map(Interest::read));
        if wait(&mut interests, timeout).is_err() {
            std::thread::sleep(timeout.min(Duration::from_millis(10)));
        }
        while let Some(signal) = self.signals.next() {
            self.handle_signal(signal);
        }
        self.hear_worker();
        self.advance_reload();
        self.advance_trial();
        self.advance_update();
        if self.power_button.as_ref().is_some_and(devices::PowerButton::was_pressed) {
            console::say("the power button was pressed");
            self.end = Some(End::PowerOff);
        }
    }

    /// Handles the messages of the worker.
    fn hear_worker(&mut self) {
        for _ in 0..CONTROL_LIMIT {
            match self.worker.receive() {
                Ok(Some((control, fd))) => self.handle_message(control, fd),
                Ok(None) => (),
                Err(_) => break,
            }
        }
    }

    fn handle_signal(&mut self, signal: i32) {
        match signal {
            libc::SIGCHLD => {
                if let Some(how) = self.reap() {
                    console::say(&format!("the worker {how}; it is started again"));
                    if self.worker.restart_if_due() {
                        self.note_worker();
                    }
                }
            }
            libc::SIGINT if self.appliance => self.end = Some(End::Reboot), // Ctrl-Alt-Del
            libc::SIGHUP if !self.appliance => self.end = Some(End::PowerOff), // the terminal is gone
            libc::SIGINT | libc::SIGTERM | libc::SIGUSR2 | libc::SIGPWR => self.end = Some(End::PowerOff),
            _ => (),
        }
    }

    fn handle_message(&mut self, control: Control, fd: Option<OwnedFd>) {
        match control {
            Control::RuntimeReady if self.entered == 1 => {
                console::say("Neural Runtime initialized");
                self.enter_phase(2);
                self.entered = 2;
            }
            Control::TensorsReady { tensors, binary } => {
                self.let_serve(Ok(binary));
                if self.entered == 2 && self.emergency.is_none() {
                    console::say(&format!("GGUF tensors loaded: {tensors}"));
                    self.enter_phase(3);
                    self.entered = 3;
                }
            }
            Control::Failed { text } => self.let_serve(Err(text)),
            Control::Shutdown { reboot } => self.end = Some(if reboot { End::Reboot } else { End::PowerOff }),
            Control::Orphans { count } => self.worker.leave_orphans(count),
            Control::Reload { image, key } => self.begin_reload(image, key, fd),
            Control::Frozen => self.note_frozen(),
            Control::Update(order) => self.begin_update(order, fd),
            Control::Notice { text } if self.worker.may_notify() => console::say(&format!("journal: {text}")),
            _ => (),
        }
    }

    /// Goes on without a model.
    ///
    /// # Errors
    /// If even such a worker cannot be started.
    pub fn enter_emergency(&mut self, error: &StartError) -> Result<(), String> {
        if let StartError::Worker(why) = error {
            self.declare_emergency(why.clone());
            self.worker.withdraw_model();
            self.worker.end();
            self.worker.start()?;
            self.note_worker();
        }
        Ok(())
    }

    /// Ends the worker in order. Switching the power off is left to the caller.
    pub fn stop(&mut self) {
        self.page().set(word::STATE, State::Stopping as u32);
        self.stop_reload();
        self.worker.end();
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.disarm();
        }
    }
}
