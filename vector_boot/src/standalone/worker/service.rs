//! The worker's loop: one thread serves the port, a second one runs what takes long.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::time::{Duration, Instant};

use serde_json::{json, Value};

use super::connection::{Connection, Pending};
use super::link::{Change, Link};
use crate::machine::Machine;
use crate::protocol::{self, required, Blob, Failure, Reply, Request};
use crate::standalone::control::Control;
use crate::sys::message;
use crate::sys::ready::{wait, Interest};

/// The loop turns at least this often, whatever poll says.
const LONGEST_WAIT: Duration = Duration::from_millis(100);
/// How long a stopping machine waits for the host's `bye`.
const BYE_WAIT_MS: u64 = 1000;
/// Messages of the supervisor taken up in one turn.
const CONTROL_LIMIT: usize = 64;
/// Methods that read all weights: they run beside the loop, which stays awake for events and beats.
const LONG_METHODS: [&str; 4] = ["digest", "rollback", "promote", "checkpoint"];
/// A mutation of single bytes with no larger a blob is done before another thread would have woken up.
const QUICK_BLOB_BYTES: usize = 64 << 10;

type Answer = Result<Reply, Failure>;

/// Work for the second thread.
enum Job {
    Answer(Request, Instant),
    ExpireLease,
}

/// Everything the loop knows.
pub struct Service {
    machine: Machine,
    link: Link,
    control: OwnedFd,
    connection: Connection,
    fault_allowed: bool,
    appliance: bool,
    jobs: Sender<Job>,
    /// Answers of the second thread, with the ids of their requests.
    answers: Receiver<Option<(Value, Answer)>>,
    wake: OwnedFd,
    /// Connection the running job belongs to; an answer for an older one is dropped.
    running: Option<u64>,
    stopping: Option<Stopping>,
    crash: Option<String>,
    started: Instant,
}

struct Stopping {
    reboot: bool,
    deadline_ms: u64,
    told: bool,
}

impl Service {
    /// Starts the second thread; system calls may be restricted afterwards.
    ///
    /// # Errors
    /// If the thread or its wake-up cannot be made.
    pub fn start(
        machine: Machine,
        link: Link,
        control: OwnedFd,
        fault_allowed: bool,
        appliance: bool,
    ) -> io::Result<Self> {
        let (wake, waker) = message::pair()?;
        let (jobs, todo) = channel::<Job>();
        let (done, answers) = channel();
        let (started, ready) = channel();
        let runner = machine.clone();
        std::thread::Builder::new().name("runtime".into()).stack_size(256 << 10).spawn(move || {
            let _ = started.send(vec![0u8]); // the allocator has met this thread now
            for job in todo {
                let answer = match job {
                    Job::Answer(request, received) => {
                        let answer = runner.answer(&request, received);
                        Some((request.id, answer))
                    }
                    Job::ExpireLease => {
                        runner.expire_lease();
                        None
                    }
                };
                if done.send(answer).is_err() {
                    break;
                }
                let _ = message::send(&waker, &[1]);
            }
        })?;
        // A thread sets itself up with system calls that the filter will not allow.
        let _ = ready.recv();
        Ok(Service {
            machine,
            link,
            control,
            connection: Connection::fresh(0),
            fault_allowed,
            appliance,
            jobs,
            answers,
            wake,
            running: None,
            stopping: None,
            crash: None,
            started: Instant::now(),
        })
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Serves until the supervisor is gone.
    pub fn run(mut self) {
        loop {
            self.wait();
            self.machine.vitals().make_progress();
            if !self.hear_supervisor() {
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
        let lease = self.machine.lease_left_us().filter(|_| self.running.is_none()).map(Duration::from_micros);
        let timeout = LONGEST_WAIT.min(until(self.connection.deadline_ms())).min(until(stop));
        let timeout = timeout.min(lease.unwrap_or(LONGEST_WAIT));
        let mut interests = vec![Interest::read(self.control.as_raw_fd()), Interest::read(self.wake.as_raw_fd())];
        interests.extend(self.link.interests(self.connection.may_read(), self.connection.has_output()));
        let _ = wait(&mut interests, timeout);
    }

    /// Takes the supervisor's messages; false when it is gone.
    fn hear_supervisor(&mut self) -> bool {
        for _ in 0..CONTROL_LIMIT {
            match Control::receive(&self.control) {
                Ok(Some(Control::Beat { beats, late_us })) => {
                    let event = || protocol::event(&json!({"kind": "heartbeat", "beats": beats, "late_us": late_us}));
                    self.connection.tell("heartbeat", event);
                }
                Ok(_) => (),
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }

    fn collect_answer(&mut self) {
        let _ = message::receive(&self.wake, &mut [0; 8]);
        if let Ok(answer) = self.answers.try_recv() {
            let still_there = self.running.take() == Some(self.connection.number);
            if let Some((id, answer)) = answer.filter(|_| still_there) {
                self.connection.answer(&id, answer);
            }
            self.tell_events();
        }
    }

    /// Has a trial ended whose time is over, once nothing else runs.
    fn expire_lease(&mut self) {
        if self.running.is_none() && self.machine.lease_left_us() == Some(0) {
            self.start_job(Job::ExpireLease);
        }
    }

    fn start_job(&mut self, job: Job) {
        self.running = Some(self.connection.number);
        if self.jobs.send(job).is_err() {
            std::process::exit(1); // the thread is gone: the supervisor starts a sound worker
        }
    }

    /// Tells subscribers what has happened to the weights.
    fn tell_events(&mut self) {
        for event in self.machine.take_events() {
            let kind = event["kind"].as_str().unwrap_or_default().to_string();
            self.connection.tell(&kind, || protocol::event(&event));
        }
    }

    /// Reads, answers and writes until nothing moves any more.
    fn serve_connection(&mut self) {
        let mut moves = true;
        while moves {
            if self.connection.read(&mut self.link).is_err() {
                return self.drop_connection();
            }
            let (cut, resync) = self.connection.cut(self.now_ms());
            if resync {
                self.start_afresh();
            }
            moves = self.work() || cut;
            if self.connection.write(&mut self.link).is_err() {
                return self.drop_connection();
            }
            self.fulfil_crash();
        }
        // A host that has closed both sides hears nothing: only one that closed its own side is waited for.
        let answered = self.connection.is_drained() && self.running.is_none();
        if answered || (self.connection.input_has_ended() && self.link.has_hung_up()) {
            self.drop_connection();
        }
    }

    /// Greets again, as a byte 0xFF asks. On a port, where a host may have come and gone unseen, nothing of an earlier
    /// host's is kept.
    fn start_afresh(&mut self) {
        if self.link.is_port() {
            self.connection.subscriptions.clear();
        }
        self.connection.send(&self.machine.greeting());
    }

    fn drop_connection(&mut self) {
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
                self.machine.follow_connection(Some(false));
                self.connection = Connection::fresh(self.connection.number + 1);
            }
            None => self.machine.follow_connection(None),
        }
    }

    /// Answers what can be answered, in order; stops at a request that runs long. Tells whether anything was done.
    fn work(&mut self) -> bool {
        let mut worked = false;
        while self.running.is_none() && self.crash.is_none() && !self.connection.is_full() {
            let Some(pending) = self.connection.queue.pop_front() else { break };
            worked = true;
            match pending {
                Pending::Refused(id, failure) => self.connection.answer(&id, Err(failure)),
                Pending::Bye => self.hear_bye(),
                Pending::Request(request, received) if is_long(&request) => {
                    self.start_job(Job::Answer(request, received));
                }
                Pending::Request(request, received) => {
                    let answer = self.answer(&request, received);
                    self.connection.answer(&request.id, answer);
                    self.tell_events();
                }
            }
        }
        worked
    }

    fn answer(&mut self, request: &Request, received: Instant) -> Answer {
        match request.method.as_str() {
            "subscribe" => self.subscribe(request),
            "shutdown" => self.shutdown(request),
            "fault" => self.fault(request),
            _ => self.machine.answer(request, received),
        }
    }

    fn subscribe(&mut self, request: &Request) -> Answer {
        let mut params = request.params.clone();
        let events = required("events", params.texts("events", 3)?)?;
        params.finish()?;
        request.no_blob()?;
        if let Some(unknown) = events.iter().find(|event| !["heartbeat", "mutation", "alert"].contains(&event.as_str()))
        {
            return Err(Failure::new(-32602, format!("there is no event {unknown:?}: heartbeat, mutation, alert")));
        }
        self.connection.subscriptions.clone_from(&events);
        Ok(json!({"subscribed": events}).into())
    }

    fn shutdown(&mut self, request: &Request) -> Answer {
        let mut params = request.params.clone();
        let reboot = params.boolean("reboot")?.unwrap_or(false);
        params.finish()?;
        request.no_blob()?;
        self.stopping = Some(Stopping { reboot, deadline_ms: self.now_ms() + BYE_WAIT_MS, told: false });
        Ok(json!({}).into())
    }

    fn hear_bye(&mut self) {
        let now = self.now_ms();
        if let Some(stopping) = &mut self.stopping {
            stopping.deadline_ms = now;
        }
    }

    fn advance_stop(&mut self) {
        let now = self.now_ms();
        if let Some(stopping) = self.stopping.as_mut().filter(|stopping| !stopping.told && now >= stopping.deadline_ms)
        {
            stopping.told = Control::Shutdown { reboot: stopping.reboot }.send(&self.control).is_ok();
            stopping.deadline_ms = now + BYE_WAIT_MS; // the next look, should the message not have gone out
        }
    }

    fn fault(&mut self, request: &Request) -> Answer {
        if !self.fault_allowed {
            return Err(Failure::new(-32601, "fault requests are switched off on this machine"));
        }
        let mut params = request.params.clone();
        let what = required("what", params.text("what")?)?;
        let count = params.integer("count")?.unwrap_or(1);
        params.finish()?;
        if !["segv", "abort", "hang", "oom", "orphans"].contains(&what.as_str()) {
            return Err(Failure::new(-32602, format!("there is no fault {what:?}: segv, abort, hang, oom, orphans")));
        }
        request.no_blob()?;
        self.machine.require_model()?;
        if what == "orphans" {
            Control::Orphans { count }.send(&self.control).map_err(|_| Failure::new(1017, "busy"))?;
        } else {
            self.crash = Some(what);
        }
        Ok(json!({}).into())
    }

    /// Crashes as asked, once the answer is out.
    fn fulfil_crash(&mut self) {
        if self.connection.has_output() {
            return;
        }
        match self.crash.take().as_deref() {
            Some("segv") => crate::sys::fault::segv(),
            Some("abort") => std::process::abort(),
            Some("hang") => std::thread::sleep(Duration::MAX),
            Some("oom") => crate::sys::fault::exhaust_memory(self.appliance),
            _ => (),
        }
    }
}

fn is_long(request: &Request) -> bool {
    match (request.method.as_str(), &request.blob) {
        ("mutate", Blob::None | Blob::Upload(_)) => true,
        ("mutate", Blob::Bytes(bytes)) => bytes.len() > QUICK_BLOB_BYTES || makes_noise(request),
        (method, Blob::None) => LONG_METHODS.contains(&method),
        _ => false,
    }
}

/// Whether a mutation computes what it writes for whole tensors.
fn makes_noise(request: &Request) -> bool {
    let edits = request.params.get("edits").and_then(Value::as_array);
    edits.is_some_and(|edits| edits.iter().any(|edit| edit["kind"] == "seeded" || edit["kind"] == "low_rank"))
}
