//! The worker's loop: one thread serves the port, a second one runs what takes long.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::time::{Duration, Instant};

use serde_json::{json, Value};

use super::link::{Change, Got, Link};
use crate::machine::Machine;
use crate::protocol::{self, required, Blob, Envelope, Failure, Framer, Incoming, Reply, Request, OUTSTANDING_LIMIT};
use crate::standalone::control::Control;
use crate::sys::message;
use crate::sys::ready::{wait, Interest};

/// The loop turns at least this often, whatever poll says.
const LONGEST_WAIT: Duration = Duration::from_millis(100);
/// How long a stopping machine waits for the host's `bye`.
const BYE_WAIT_MS: u64 = 1000;
/// Bytes read from the port at once.
const CHUNK: usize = 64 << 10;
/// With more than this waiting to be written, no further request is taken up.
const OUTBOX_LIMIT: usize = 4 << 20;
/// With more than this waiting to be written, events are dropped.
const EVENT_LIMIT: usize = 256 << 10;
/// Methods that read all weights: they run beside the loop, which stays awake for events and beats.
const LONG_METHODS: [&str; 1] = ["digest"];

/// Methods of the connection and the process, answered here; the machine answers the others.
const OWN_METHODS: [&str; 3] = ["subscribe", "shutdown", "fault"];

type Answer = Result<Reply, Failure>;

/// Everything the loop knows.
pub struct Service {
    machine: Machine,
    link: Link,
    control: OwnedFd,
    framer: Framer,
    inbox: Vec<u8>,
    queue: VecDeque<(Request, Instant)>,
    outbox: VecDeque<u8>,
    subscriptions: Vec<String>,
    fault_allowed: bool,
    appliance: bool,
    jobs: Sender<(Request, Instant)>,
    answers: Receiver<(Value, Answer)>,
    wake: OwnedFd,
    /// Connection the running job belongs to; an answer for an older one is dropped.
    running: Option<u64>,
    connection: u64,
    /// The host has closed its side: what it asked is answered, then the connection ends.
    input_ended: bool,
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
        let (jobs, todo) = channel::<(Request, Instant)>();
        let (done, answers) = channel();
        let (started, ready) = channel();
        let runner = machine.clone();
        std::thread::Builder::new().name("runtime".into()).stack_size(256 << 10).spawn(move || {
            let _ = started.send(vec![0u8]); // the allocator has met this thread now
            for (request, received) in todo {
                let answer = runner.answer(&request, received);
                if done.send((request.id, answer)).is_err() {
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
            framer: Framer::default(),
            inbox: Vec::new(),
            queue: VecDeque::new(),
            outbox: VecDeque::new(),
            subscriptions: Vec::new(),
            fault_allowed,
            appliance,
            jobs,
            answers,
            wake,
            running: None,
            connection: 0,
            input_ended: false,
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
            self.follow_connection();
            self.read();
            self.work();
            self.write();
            self.end_answered_connection();
            self.fulfil_crash();
            self.advance_stop();
        }
    }

    fn wait(&self) {
        let now = self.now_ms();
        let until =
            |deadline: Option<u64>| deadline.map_or(LONGEST_WAIT, |ms| Duration::from_millis(ms.saturating_sub(now)));
        let stop = self.stopping.as_ref().map(|stopping| stopping.deadline_ms);
        let timeout = LONGEST_WAIT.min(until(self.framer.deadline_ms())).min(until(stop));
        let mut interests = vec![Interest::read(self.control.as_raw_fd()), Interest::read(self.wake.as_raw_fd())];
        interests.extend(self.link.interests(self.may_read(), !self.outbox.is_empty()));
        let _ = wait(&mut interests, timeout);
    }

    fn may_read(&self) -> bool {
        !self.input_ended && self.queue.len() < OUTSTANDING_LIMIT && self.outbox.len() < OUTBOX_LIMIT
    }

    /// Takes the supervisor's messages; false when it is gone.
    fn hear_supervisor(&mut self) -> bool {
        loop {
            match Control::receive(&self.control) {
                Ok(Control::Beat { beats, late_us }) => {
                    self.tell("heartbeat", || json!({"kind": "heartbeat", "beats": beats, "late_us": late_us}));
                }
                Ok(_) => (),
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
    }

    fn tell(&mut self, kind: &str, event: impl FnOnce() -> Value) {
        if self.subscriptions.iter().any(|wanted| wanted == kind) && self.outbox.len() < EVENT_LIMIT {
            self.outbox.extend(protocol::event(&event()));
        }
    }

    fn collect_answer(&mut self) {
        let _ = message::receive(&self.wake, &mut [0; 8]);
        if let Ok((id, answer)) = self.answers.try_recv() {
            let current = self.running.take() == Some(self.connection);
            if current {
                self.send(&id, answer);
            }
        }
    }

    fn follow_connection(&mut self) {
        match self.link.poll_connection() {
            Some(Change::Connected) => {
                self.forget_connection();
                self.outbox.extend(self.machine.greeting());
            }
            Some(Change::Disconnected) => self.forget_connection(),
            None => (),
        }
    }

    /// The message in progress and what waits for an answer end with their connection.
    fn forget_connection(&mut self) {
        self.connection += 1;
        self.framer = Framer::default();
        self.inbox = Vec::new(); // and not cleared: what a flood made large is given back
        self.queue = VecDeque::new();
        self.outbox = VecDeque::new();
        self.subscriptions.clear();
        self.input_ended = false;
    }

    fn end_answered_connection(&mut self) {
        if self.input_ended && self.queue.is_empty() && self.running.is_none() && self.outbox.is_empty() {
            self.link.disconnect();
            self.forget_connection();
        }
    }

    fn read(&mut self) {
        let mut chunk = [0; 4096];
        while self.link.is_connected() && self.may_read() && self.inbox.len() < CHUNK {
            match self.link.read(&mut chunk) {
                Ok(Got::Nothing) => break,
                Ok(Got::End) => self.input_ended = true,
                Ok(Got::Bytes(count)) => self.inbox.extend_from_slice(&chunk[..count]),
                Err(_) => {
                    self.link.disconnect();
                    self.forget_connection();
                }
            }
        }
        self.cut_messages();
    }

    fn cut_messages(&mut self) {
        let now = self.now_ms();
        let inbox = std::mem::take(&mut self.inbox);
        let mut rest = &inbox[..];
        while self.queue.len() < OUTSTANDING_LIMIT && self.outbox.len() < OUTBOX_LIMIT {
            let Some(incoming) = self.framer.next(&mut rest, now) else { break };
            match incoming {
                Incoming::Resync => self.outbox.extend(self.machine.greeting()),
                Incoming::Refused(failure) => self.outbox.extend(failure.to_bytes(&Value::Null)),
                Incoming::Message(message) => match Envelope::open(message) {
                    Ok(Envelope::Request(request)) => self.queue.push_back((request, Instant::now())),
                    Ok(Envelope::Bye) => self.hear_bye(),
                    Err((id, failure)) => self.outbox.extend(failure.to_bytes(&id)),
                },
            }
        }
        self.inbox = rest.to_vec();
    }

    /// Answers what can be answered, in order; stops at a request that runs long.
    fn work(&mut self) {
        while self.running.is_none() && self.outbox.len() < OUTBOX_LIMIT {
            let Some((request, received)) = self.queue.pop_front() else { return };
            if LONG_METHODS.contains(&request.method.as_str()) && request.blob == Blob::None {
                self.running = Some(self.connection);
                if self.jobs.send((request, received)).is_err() {
                    self.running = None; // the thread is gone: the supervisor sees no progress and starts anew
                }
                return;
            }
            let answer = self.answer(&request, received);
            self.send(&request.id, answer);
        }
    }

    fn send(&mut self, id: &Value, answer: Answer) {
        let bytes = match answer {
            Ok(reply) => reply.to_bytes(id),
            Err(failure) => failure.to_bytes(id),
        };
        self.outbox.extend(bytes);
    }

    fn answer(&mut self, request: &Request, received: Instant) -> Answer {
        let method = request.method.as_str();
        if OWN_METHODS.contains(&method) || Machine::METHODS.contains(&method) {
            no_blob(request)?;
        }
        match method {
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
        if let Some(unknown) = events.iter().find(|event| !["heartbeat", "mutation", "alert"].contains(&event.as_str()))
        {
            return Err(Failure::new(-32602, format!("there is no event {unknown:?}: heartbeat, mutation, alert")));
        }
        self.subscriptions.clone_from(&events);
        Ok(json!({"subscribed": events}).into())
    }

    fn shutdown(&mut self, request: &Request) -> Answer {
        let mut params = request.params.clone();
        let reboot = params.boolean("reboot")?.unwrap_or(false);
        params.finish()?;
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
        let mut params = request.params.clone();
        let what = required("what", params.text("what")?)?;
        let count = params.integer("count")?.unwrap_or(1);
        params.finish()?;
        if !self.fault_allowed {
            return Err(Failure::new(-32601, "fault requests are switched off on this machine"));
        }
        self.machine.require_model()?;
        match what.as_str() {
            "orphans" => Control::Orphans { count }.send(&self.control).map_err(|_| Failure::new(1017, "busy"))?,
            "segv" | "abort" | "hang" | "oom" => self.crash = Some(what),
            _ => {
                return Err(Failure::new(
                    -32602,
                    format!("there is no fault {what:?}: segv, abort, hang, oom, orphans"),
                ))
            }
        }
        Ok(json!({}).into())
    }

    /// Crashes as asked, once the answer is out.
    fn fulfil_crash(&mut self) {
        if !self.outbox.is_empty() {
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

    fn write(&mut self) {
        while !self.outbox.is_empty() {
            let written = match self.link.write(self.outbox.as_slices().0) {
                Ok(0) => return,
                Ok(count) => count,
                Err(_) => {
                    self.link.disconnect();
                    self.forget_connection();
                    return;
                }
            };
            self.outbox.drain(..written);
        }
    }
}

/// Refuses a blob for a method that takes none.
fn no_blob(request: &Request) -> Result<(), Failure> {
    match request.blob {
        Blob::None => Ok(()),
        Blob::TooLarge => Err(Failure::new(1012, "the blob is larger than 1048576 bytes")),
        Blob::ChecksumWrong => Err(Failure::new(1011, "the blob's CRC-32C is not the announced one")),
        Blob::Stalled => Err(Failure::new(1011, "the blob stalled: no byte for two seconds")),
        Blob::Bytes(_) | Blob::Upload(_) => Err(Failure::new(-32602, format!("{} takes no blob", request.method))),
    }
}
