//! The worker's loop: one thread serves the connections, a second one runs long requests.

mod answers;
mod faults;
mod group;
mod reload;
mod requests;
mod update;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use serde_json::json;

use super::connection::Pending;
use super::connections::{Changes, Connections};
use super::runner::{Done, Job, Runner};
use super::turns::Running;
use crate::hw_mmio::{word, State};
use crate::machine::{Arrival, Machine};
use crate::protocol::{self, FaultKind, Reply, RequestError};
use crate::standalone::control::Control;
use crate::sys::ready::Interest;
use crate::sys::watch::Watch;
use reload::Reload;
use update::Update;

/// The longest wait of the loop.
const LONGEST_WAIT: Duration = Duration::from_millis(100);
/// Hosts that keep sending are served at most this long before the rest of the loop runs.
const LONGEST_TURN: Duration = Duration::from_millis(20);
/// Messages of the supervisor handled in one turn.
const CONTROL_LIMIT: usize = 64;

type Answer = Result<Reply, RequestError>;

/// The state of the loop.
pub struct Service {
    machine: Machine,
    connections: Connections,
    control: OwnedFd,
    settings: ServiceSettings,
    runner: Runner,
    /// Notices changes of the model's file, until it has changed.
    watch: Option<Watch>,
    /// Whether the model's file has changed: the machine is in emergency mode, and the runner's must not be used.
    model_lost: bool,
    /// Whether the last turn ended with requests left.
    has_more: bool,
    stopping: Option<Stopping>,
    /// A crash that was asked for.
    crash: Option<Crash>,
    reload: Reload,
    update: Update,
    /// Whether the supervisor has asked for a self-test that has not begun.
    test_asked: bool,
    /// The last beat that subscribers were told of.
    last_beat: u64,
    started: Instant,
}

/// What a worker may do.
#[derive(Debug, Clone, Copy)]
pub struct ServiceSettings {
    /// Whether `fault` requests are served.
    pub fault_allowed: bool,
    /// Whether this is the appliance.
    pub appliance: bool,
}

#[derive(Clone, Copy)]
struct Crash {
    what: FaultKind,
    count: u64,
    /// The connection that asked.
    connection: u64,
}

struct Stopping {
    reboot: bool,
    /// The connections that asked.
    connections: Vec<u64>,
    deadline_ms: u64,
    /// Whether the message to the supervisor has been sent.
    sent: bool,
}

impl Service {
    /// Starts the second thread; system calls may be restricted afterwards.
    ///
    /// # Errors
    /// If the thread or its wake-up socket cannot be made.
    pub fn start(
        machine: Machine,
        connections: Connections,
        control: OwnedFd,
        watch: Option<Watch>,
        settings: ServiceSettings,
    ) -> io::Result<Self> {
        let runner = Runner::start_thread(machine.clone())?;
        Ok(Service {
            machine,
            connections,
            control,
            settings,
            runner,
            watch,
            model_lost: false,
            has_more: false,
            stopping: None,
            crash: None,
            reload: Reload::default(),
            update: Update::default(),
            test_asked: false,
            last_beat: 0,
            started: Instant::now(),
        })
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Sends the supervisor a message; one that cannot be delivered is dropped.
    pub fn send_to_supervisor(&self, control: &Control) {
        let _ = control.send(&self.control);
    }

    /// Serves until the supervisor ends; then the process ends.
    pub fn run(self) -> ! {
        self.runner.threads().run(Some(Box::new(self)))
    }

    /// Serves until this thread is to run a job, which is returned with the service. `None` if the supervisor has ended.
    pub fn serve(mut self: Box<Self>) -> Option<(Box<Self>, Job)> {
        loop {
            if let Some(job) = self.runner.take_own() {
                return Some((self, job));
            }
            if self.collect_answer() {
                self.send();
                self.has_more = true; // what waited for the end of the job
            }
            let hung_up = self.wait();
            self.machine.vitals().make_progress();
            if !self.handle_supervisor() {
                return None;
            }
            self.collect_answer();
            self.hear_writer();
            self.send_notices();
            self.expire_lease();
            self.begin_self_test();
            self.handle_what_waits();
            self.end_closed(&hung_up);
            self.accept();
            self.machine.release_past(false);
            self.advance_stop();
            if !self.hand_over_if_due() {
                return None;
            }
        }
    }

    /// Waits for something to do. Returns the places of connections whose host has hung up.
    fn wait(&mut self) -> Vec<usize> {
        let now = self.now_ms();
        let until =
            |deadline: Option<u64>| deadline.map_or(LONGEST_WAIT, |ms| Duration::from_millis(ms.saturating_sub(now)));
        let stop = self.stopping.as_ref().map(|stopping| stopping.deadline_ms);
        let lease = self.machine.lease_left_us().filter(|_| self.runner.running().is_none()).map(Duration::from_micros);
        let timeout = LONGEST_WAIT.min(until(self.connections.deadline_ms())).min(until(stop));
        let timeout = if self.has_more { Duration::ZERO } else { timeout.min(lease.unwrap_or(LONGEST_WAIT)) };
        let mut interests = vec![Interest::read(self.control.as_raw_fd()), Interest::read(self.runner.fd())];
        interests.extend(self.update.fd().map(Interest::read));
        self.connections.wait(&interests, timeout)
    }

    /// Handles the supervisor's messages; false if it has ended.
    fn handle_supervisor(&mut self) -> bool {
        for _ in 0..CONTROL_LIMIT {
            match Control::receive_with(&self.control) {
                Ok(Some((Control::Beat { beats, late_us }, _))) => self.note_beat(beats, late_us),
                Ok(Some((Control::SelfTest, _))) => self.test_asked = true,
                Ok(Some((control @ (Control::UpdateLink { .. } | Control::UpdateFailed { .. }), fd))) => {
                    self.handle_update_message(control, fd);
                }
                Ok(Some((control, fd))) => self.handle_reload_message(control, fd),
                Ok(None) => (),
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }

    /// Tells subscribers of a beat, unless another worker has told of it.
    fn note_beat(&mut self, beats: u64, late_us: u32) {
        if beats <= self.last_beat {
            return;
        }
        self.last_beat = beats;
        let event = || protocol::event(&json!({"kind": "heartbeat", "beats": beats, "late_us": late_us}));
        self.connections.open().for_each(|connection| connection.send_event("heartbeat", event));
        self.check_model_file();
        self.check_journal();
    }

    /// Notices that the file of the journal was lost. What runs notices it itself if it changes anything.
    fn check_journal(&self) {
        if self.runner.running().is_none() {
            self.machine.check_journal();
        }
    }

    /// Queues the answers of the job that is done. Returns whether one is.
    fn collect_answer(&mut self) -> bool {
        let Some(answers) = self.runner.collect() else { return false };
        self.check_model_file();
        for Done { connection, id, answer } in answers {
            // An answer computed from a changed file is not sent.
            let lost = self.machine.require_model().err().filter(|_| self.model_lost);
            self.answer_with(connection, &id, lost.map_or(answer, Err));
        }
        self.send_events();
        true
    }

    /// Enters emergency mode if the model's file has changed: its pages may show the new contents from then on. Returns
    /// whether it has changed since the last check.
    fn check_model_file(&mut self) -> bool {
        let Some(change) = self.watch.as_ref().and_then(Watch::change) else { return false };
        let why = format!("the model's file {change}");
        self.send_to_supervisor(&Control::Failed { text: why.clone() });
        self.machine = self.machine.in_emergency(&why);
        self.machine.page().set(word::STATE, State::Emergency as u32);
        (self.watch, self.model_lost) = (None, true);
        true
    }

    /// Ends a trial whose time is over, once nothing else runs.
    fn expire_lease(&mut self) {
        let idle = self.runner.running().is_none() && !self.reload.hands_over();
        if !self.model_lost && idle && self.machine.lease_left_us() == Some(0) {
            self.runner.start(Job::ExpireLease);
        }
    }

    /// Begins the self-test that was asked for, once nothing else runs.
    fn begin_self_test(&mut self) {
        let idle = self.runner.running().is_none() && !self.reload.hands_over();
        if self.test_asked && idle && !self.model_lost {
            self.test_asked = false;
            self.runner.start(Job::SelfTest);
        }
    }

    /// Sends subscribers the events of mutations.
    fn send_events(&mut self) {
        for event in self.machine.take_events() {
            let kind = event["kind"].as_str().unwrap_or_default().to_string();
            self.connections.open().for_each(|connection| connection.send_event(&kind, || protocol::event(&event)));
        }
    }

    /// Reads, answers and writes until there is nothing left to do, this thread has a job to run, or it takes too long for the
    /// rest of the loop.
    fn handle_what_waits(&mut self) {
        let started = Instant::now();
        self.has_more = false;
        loop {
            let received = self.receive();
            let worked = self.work(started);
            self.send();
            self.crash_if_asked();
            if self.runner.has_own() || started.elapsed() > LONGEST_TURN {
                self.has_more = true;
                return;
            }
            if !received && !worked {
                return;
            }
        }
    }

    /// Reads what has arrived. Returns whether any message has.
    fn receive(&mut self) -> bool {
        let (now, mut moved) = (self.now_ms(), false);
        for place in 0..self.connections.places() {
            let memory = self.connections.has_memory(place);
            let Some((connection, link)) = self.connections.at(place) else { continue };
            if connection.read(link, now, memory).is_err() {
                self.end_connection(place);
                continue;
            }
            let split = connection.split(now, memory);
            moved |= split.moved;
            if split.resync {
                // On a port a host may have been replaced unnoticed.
                if link.is_port() {
                    connection.subscriptions.clear();
                }
                connection.send(&self.machine.greeting());
            }
        }
        moved
    }

    /// Sends what waits.
    fn send(&mut self) {
        for place in 0..self.connections.places() {
            if self.connections.at(place).is_some_and(|(connection, link)| connection.write(link).is_err()) {
                self.end_connection(place);
            }
        }
    }

    /// Ends the connections whose host has closed them and that need no more. A client that has closed both directions gets
    /// no answers; one that closed its own for writing is answered first.
    fn end_closed(&mut self, hung_up: &[usize]) {
        let running = self.runner.running().map_or(vec![], |run| run.connections.clone());
        for place in 0..self.connections.places() {
            let memory = self.connections.has_memory(place);
            let Some((connection, link)) = self.connections.at(place) else { continue };
            let unread = !connection.input_has_ended() && (self.has_more || connection.may_read(memory));
            let left = hung_up.contains(&place) && (link.is_port() || !unread);
            let answered = connection.is_drained() && !running.contains(&connection.number);
            if left || answered {
                self.end_connection(place);
            }
        }
    }

    fn end_connection(&mut self, place: usize) {
        if let Some(number) = self.connections.end(place) {
            self.note_end(number);
        }
    }

    fn note_end(&self, number: u64) {
        self.runner.abandon(number);
        self.machine.note_end_of_connection(number);
    }

    /// Greets hosts and clients that have connected.
    fn accept(&mut self) {
        let Changes { fresh, ended } = self.connections.accept();
        ended.into_iter().for_each(|number| self.note_end(number));
        for number in fresh {
            self.machine.note_connection(number);
            let greeting = self.machine.greeting();
            if let Some(connection) = self.connections.numbered(number) {
                connection.send(&greeting);
                self.has_more = true; // the greeting is sent in the next turn, which begins at once
            }
        }
        self.machine.expire_uploads();
    }

    /// What the second thread runs, and for whom.
    fn running(&self) -> Running {
        match self.runner.running() {
            None => Running::Nothing,
            Some(run) => {
                let mut places = run.connections.iter().filter_map(|connection| self.connections.place_of(*connection));
                match run.beside() {
                    true => Running::Beside(places.next()),
                    false => Running::Alone(places.fold(0, |all, place| all | 1 << place)),
                }
            }
        }
    }

    /// Handles what waits, one message of each connection in turn, until this thread has a job to run: others must not delay
    /// it. Returns whether anything was handled.
    fn work(&mut self, started: Instant) -> bool {
        let mut worked = false;
        while self.crash.is_none() && !self.runner.has_own() && started.elapsed() <= LONGEST_TURN {
            if self.reload.hands_over() && self.runner.running().is_none() {
                break; // what waits is handed over
            }
            let Some((place, pending)) = self.connections.next(self.running()) else { break };
            let Some(number) = self.connections.at(place).map(|(connection, _)| connection.number) else { break };
            worked = true;
            match pending {
                Pending::Refused(id, error) => self.answer_with(number, &id, Err(error)),
                Pending::Bye => self.handle_bye(number),
                Pending::Request(request, at) => {
                    let request = self.machine.unsealed(request);
                    self.handle_request(request, Arrival { at, connection: number });
                }
            }
        }
        worked
    }
}

#[cfg(test)]
mod tests;
