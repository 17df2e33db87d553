//! The worker's loop: one thread serves the port, a second one runs long requests.

mod faults;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use serde_json::json;

use super::connection::{Connection, Pending};
use super::link::{Change, Link};
use super::runner::{Job, Runner};
use crate::hw_mmio::{word, State};
use crate::machine::Machine;
use crate::protocol::{
    self, code, required, FaultKind, Method, Reply, Request, RequestError, BYE_WAIT_MS, EVENT_KINDS,
};
use crate::standalone::control::Control;
use crate::sys::ready::{wait, Interest};
use crate::sys::watch::Watch;

/// The longest wait of the loop.
const LONGEST_WAIT: Duration = Duration::from_millis(100);
/// A host that keeps sending is served at most this long before the rest of the loop runs.
const LONGEST_TURN: Duration = Duration::from_millis(20);
/// Messages of the supervisor handled in one turn.
const CONTROL_LIMIT: usize = 64;

type Answer = Result<Reply, RequestError>;

/// The state of the loop.
pub struct Service {
    machine: Machine,
    link: Link,
    control: OwnedFd,
    connection: Connection,
    settings: ServiceSettings,
    runner: Runner,
    /// Notices changes of the model's file, until it has changed.
    watch: Option<Watch>,
    /// Whether the model's file has changed: the machine is in emergency mode, and the runner's must not be used.
    model_lost: bool,
    /// Whether the last turn ended with requests left.
    has_more: bool,
    stopping: Option<Stopping>,
    crash: Option<FaultKind>,
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

struct Stopping {
    reboot: bool,
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
        link: Link,
        control: OwnedFd,
        watch: Option<Watch>,
        settings: ServiceSettings,
    ) -> io::Result<Self> {
        let runner = Runner::start_thread(machine.clone())?;
        Ok(Service {
            machine,
            link,
            control,
            connection: Connection::fresh(0),
            settings,
            runner,
            watch,
            model_lost: false,
            has_more: false,
            stopping: None,
            crash: None,
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

    /// Serves until the supervisor ends.
    pub fn run(mut self) {
        loop {
            self.wait();
            self.machine.vitals().make_progress();
            if !self.handle_supervisor() {
                return;
            }
            self.collect_answer();
            self.expire_lease();
            self.serve_connection();
            self.follow_connection();
            self.advance_stop();
        }
    }

    fn wait(&self) {
        let now = self.now_ms();
        let until =
            |deadline: Option<u64>| deadline.map_or(LONGEST_WAIT, |ms| Duration::from_millis(ms.saturating_sub(now)));
        let stop = self.stopping.as_ref().map(|stopping| stopping.deadline_ms);
        let lease = self.machine.lease_left_us().filter(|_| !self.runner.is_busy()).map(Duration::from_micros);
        let timeout = LONGEST_WAIT.min(until(self.connection.deadline_ms())).min(until(stop));
        let timeout = if self.has_more { Duration::ZERO } else { timeout.min(lease.unwrap_or(LONGEST_WAIT)) };
        let mut interests = vec![Interest::read(self.control.as_raw_fd()), Interest::read(self.runner.fd())];
        interests.extend(self.link.interests(self.connection.may_read(), self.connection.has_output()));
        let _ = wait(&mut interests, timeout);
    }

    /// Handles the supervisor's messages; false if it has ended.
    fn handle_supervisor(&mut self) -> bool {
        for _ in 0..CONTROL_LIMIT {
            match Control::receive(&self.control) {
                Ok(Some(Control::Beat { beats, late_us })) => {
                    let event = || protocol::event(&json!({"kind": "heartbeat", "beats": beats, "late_us": late_us}));
                    self.connection.send_event("heartbeat", event);
                    self.check_model_file();
                }
                Ok(_) => (),
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }

    fn collect_answer(&mut self) {
        let Some(done) = self.runner.collect() else { return };
        self.check_model_file();
        if done.connection == self.connection.number {
            if let Some((id, answer)) = done.answer {
                // An answer computed from a changed file is not sent.
                let lost = self.machine.require_model().err().filter(|_| self.model_lost);
                self.connection.answer(&id, lost.map_or(answer, Err));
            }
        }
        self.send_events();
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
        if !self.model_lost && !self.runner.is_busy() && self.machine.lease_left_us() == Some(0) {
            self.runner.start(Job::ExpireLease, self.connection.number);
        }
    }

    /// Sends subscribers the events of mutations.
    fn send_events(&mut self) {
        for event in self.machine.take_events() {
            let kind = event["kind"].as_str().unwrap_or_default().to_string();
            self.connection.send_event(&kind, || protocol::event(&event));
        }
    }

    /// Reads, answers and writes until there is nothing left to do.
    fn serve_connection(&mut self) {
        let started = Instant::now();
        let mut moves = true;
        self.has_more = false;
        while moves {
            if started.elapsed() > LONGEST_TURN {
                self.has_more = true; // after the rest of the loop has run, this continues
                return;
            }
            if self.connection.read(&mut self.link).is_err() {
                return self.drop_connection();
            }
            let split = self.connection.split(self.now_ms());
            if split.resync {
                self.resync();
            }
            moves = self.work() || split.moved;
            if self.connection.write(&mut self.link).is_err() {
                return self.drop_connection();
            }
            self.crash_if_asked();
        }
        // A host that has closed both directions gets no answers; one that closed its own for writing is answered first.
        let answered = self.connection.is_drained() && !self.runner.is_busy();
        if answered || (self.connection.input_has_ended() && self.link.has_hung_up()) {
            self.drop_connection();
        }
    }

    /// Sends the greeting again, as a byte 0xFF asks. On a port a host may have been replaced unnoticed, so subscriptions
    /// are dropped.
    fn resync(&mut self) {
        if self.link.is_port() {
            self.connection.subscriptions.clear();
        }
        self.connection.send(&self.machine.greeting());
    }

    fn drop_connection(&mut self) {
        self.runner.abandon();
        self.machine.follow_connection(Some(false));
        self.link.disconnect();
        self.connection = Connection::fresh(self.connection.number + 1);
    }

    fn follow_connection(&mut self) {
        match self.link.poll_connection() {
            Some(Change::Connected) => {
                self.machine.follow_connection(Some(true));
                self.connection = Connection::fresh(self.connection.number + 1);
                self.connection.send(&self.machine.greeting());
                let _ = self.connection.write(&mut self.link); // a failure shows again at the next read
            }
            Some(Change::Disconnected) => {
                self.runner.abandon();
                self.machine.follow_connection(Some(false));
                self.connection = Connection::fresh(self.connection.number + 1);
            }
            None => self.machine.follow_connection(None),
        }
    }

    /// Handles what waits, in order; while a long request runs, only methods that may overtake it. Returns whether anything
    /// was handled.
    fn work(&mut self) -> bool {
        let mut worked = false;
        while self.crash.is_none() && !self.connection.is_full() {
            let Some(pending) = self.next_pending() else { break };
            worked = true;
            match pending {
                Pending::Refused(id, error) => self.connection.answer(&id, Err(error)),
                Pending::Bye => self.handle_bye(),
                Pending::Request(request, received) if self.runs_in_runner(&request) => {
                    self.runner.start(Job::Answer(request, received), self.connection.number);
                }
                Pending::Request(request, received) => {
                    let answer = self.answer(&request, received);
                    self.connection.answer(&request.id, answer);
                    self.send_events();
                }
            }
        }
        worked
    }

    /// Whether the second thread runs a request. Its machine must not be used once the model's file has changed.
    fn runs_in_runner(&mut self, request: &Request) -> bool {
        self.check_model_file();
        !self.model_lost && Runner::takes(request)
    }

    fn next_pending(&mut self) -> Option<Pending> {
        let queue = &mut self.connection.queue;
        if !self.runner.is_busy() {
            return queue.pop_front();
        }
        let passes = |pending: &Pending| match pending {
            Pending::Request(request, _) => request.method.passes(),
            Pending::Bye => true,
            Pending::Refused(..) => false,
        };
        let found = queue.iter().position(passes).filter(|_| self.runner.runs_beside())?;
        queue.remove(found)
    }

    fn answer(&mut self, request: &Request, received: Instant) -> Answer {
        match request.method {
            Method::Subscribe => self.subscribe(request),
            Method::Shutdown => self.shutdown(request),
            Method::Fault => self.fault(request),
            Method::Cancel => self.cancel(request),
            _ => {
                let answer = self.machine.answer(request, received);
                match self.check_model_file() {
                    true => self.machine.answer(request, received), // the answer of emergency mode
                    false => answer,
                }
            }
        }
    }

    fn subscribe(&mut self, request: &Request) -> Answer {
        let mut params = request.params.clone();
        let events = required("events", params.texts("events", EVENT_KINDS.len())?)?;
        params.finish()?;
        request.no_blob()?;
        if let Some(unknown) = events.iter().find(|event| !EVENT_KINDS.contains(&event.as_str())) {
            let text = format!("there is no event {unknown:?}: expected {}", EVENT_KINDS.join(", "));
            return Err(RequestError::new(code::INVALID_PARAMS, text));
        }
        self.connection.subscriptions.clone_from(&events);
        Ok(json!({"subscribed": events}).into())
    }

    /// Stops the running request of this id, or removes it from the queue; it is answered in both cases.
    fn cancel(&mut self, request: &Request) -> Answer {
        let mut params = request.params.clone();
        let id = required("request", params.request_id("request")?)?;
        params.finish()?;
        request.no_blob()?;
        let is_it = |pending: &Pending| match pending {
            Pending::Request(waiting, _) => waiting.id == id && Runner::runs_beside_others(waiting),
            _ => false,
        };
        let mut cancelled = self.runner.cancel(&id, self.connection.number);
        if let Some(found) = self.connection.queue.iter().position(is_it).filter(|_| !cancelled) {
            self.connection.queue.remove(found);
            self.connection.answer(&id, Err(protocol::cancelled()));
            cancelled = true;
        }
        Ok(json!({"cancelled": cancelled}).into())
    }

    fn shutdown(&mut self, request: &Request) -> Answer {
        let mut params = request.params.clone();
        let reboot = params.boolean("reboot")?.unwrap_or(false);
        params.finish()?;
        request.no_blob()?;
        self.stopping = Some(Stopping { reboot, deadline_ms: self.now_ms() + BYE_WAIT_MS, sent: false });
        Ok(json!({}).into())
    }

    fn handle_bye(&mut self) {
        let now = self.now_ms();
        if let Some(stopping) = &mut self.stopping {
            stopping.deadline_ms = now;
        }
    }

    fn advance_stop(&mut self) {
        let now = self.now_ms();
        if let Some(stopping) = self.stopping.as_mut().filter(|stopping| !stopping.sent && now >= stopping.deadline_ms)
        {
            stopping.sent = Control::Shutdown { reboot: stopping.reboot }.send(&self.control).is_ok();
            stopping.deadline_ms = now + BYE_WAIT_MS; // when to try again if the message could not be sent
        }
    }
}
