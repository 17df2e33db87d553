//! Jobs: requests that take long or wait for the state device, one at a time. The second thread runs them; changes of a fast
//! state device the one that serves.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::mpsc::channel;
use std::sync::Arc;

use serde_json::Value;

use super::threads::Threads;
use crate::machine::{Arrival, Machine};
use crate::protocol::{Blob, Method, Params, Reply, Request, RequestError, Runs};
use crate::sys::message;

/// A plain mutation with a blob up to this size takes less time than waking the thread up.
const QUICK_BLOB_BYTES: usize = 64 << 10;

/// Stack of the second thread, which may serve too.
const STACK_BYTES: usize = 1 << 20;

/// Work for a thread.
pub enum Job {
    /// A request, and when and where it came.
    Answer(Request, Arrival),
    /// Mutations that become permanent together, and the connections that they came from.
    Mutate(Vec<(Request, u64)>),
    /// The open trial has ended.
    ExpireLease,
    /// The machine is to test itself.
    SelfTest,
}

/// The answer to a request of a job.
pub struct Done {
    /// The connection that the request came from.
    pub connection: u64,
    /// The id of the request.
    pub id: Value,
    /// The answer.
    pub answer: Result<Reply, RequestError>,
}

/// The running job, as others see it.
pub struct Run {
    /// The connections it was started for.
    pub connections: Vec<u64>,
    /// Id of the request, if others are answered during it.
    overtakable: Option<Value>,
}

impl Run {
    /// Whether others are answered during it.
    pub fn beside(&self) -> bool {
        self.overtakable.is_some()
    }
}

/// What the thread that serves knows of the other one, and the running job.
pub struct Runner {
    machine: Machine,
    threads: Arc<Threads>,
    wake: OwnedFd,
    running: Option<Run>,
    /// The running job, if the thread that serves is to run it.
    own: Option<Job>,
}

impl Runner {
    /// Starts the second thread; system calls may be restricted afterwards.
    ///
    /// # Errors
    /// If the thread or its wake-up cannot be made.
    pub fn start_thread(machine: Machine) -> io::Result<Self> {
        let (wake, waker) = message::pair()?;
        let threads = Arc::new(Threads::new(machine.clone(), waker));
        let (started, ready) = channel();
        let second = Arc::clone(&threads);
        std::thread::Builder::new().name("runtime".into()).stack_size(STACK_BYTES).spawn(move || {
            let _ = started.send(vec![0u8]); // an allocation: the allocator has set itself up for this thread
            drop(started);
            second.run(None)
        })?;
        // A new thread makes system calls that the filter will not allow, so the filter has to wait for it.
        let _ = ready.recv();
        Ok(Runner { machine, threads, wake, running: None, own: None })
    }

    /// The two threads.
    pub fn threads(&self) -> Arc<Threads> {
        Arc::clone(&self.threads)
    }

    /// Becomes readable when a job of the other thread is done.
    pub fn fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    /// Whether a request is a job. With a durable journal every change is one, because it waits for the device.
    pub fn takes(request: &Request, durable: bool) -> bool {
        match (request.method.runs(), &request.blob) {
            _ if durable && matches!(request.method, Method::Mutate | Method::Renew) => true,
            (Runs::Sized, Blob::None | Blob::Upload(_)) => true,
            (Runs::Sized, Blob::Bytes(bytes)) => bytes.len() > QUICK_BLOB_BYTES || computes_much(&request.params),
            (Runs::Queued, Blob::None) | (Runs::Beside, _) => true,
            // An older generation may have to be rebuilt first.
            (Runs::Inline, Blob::None) => request.method == Method::Read && request.params.get("generation").is_some(),
            _ => false,
        }
    }

    /// The bytes of the blob of a mutation that can become permanent together with others; `None` for any other request, of which
    /// these are the method, the parameters and the blob.
    pub fn joins_others(method: Method, params: &Params, blob: &Blob) -> Option<usize> {
        match blob {
            Blob::Bytes(bytes) if method == Method::Mutate && !computes_much(params) => Some(bytes.len()),
            _ => None,
        }
    }

    /// Whether other requests are answered during this one.
    pub fn runs_beside_others(request: &Request) -> bool {
        request.method.runs() == Runs::Beside
    }

    /// The running job.
    pub fn running(&self) -> Option<&Run> {
        self.running.as_ref()
    }

    /// Starts a job. Nothing else may be running.
    pub fn start(&mut self, job: Job) {
        let run = match &job {
            Job::Answer(request, arrival) => Run {
                connections: vec![arrival.connection],
                overtakable: Self::runs_beside_others(request).then(|| request.id.clone()),
            },
            Job::Mutate(requests) => {
                Run { connections: requests.iter().map(|(_, connection)| *connection).collect(), overtakable: None }
            }
            Job::ExpireLease | Job::SelfTest => Run { connections: vec![], overtakable: None },
        };
        self.machine.clear_cancellation();
        self.running = Some(run);
        match job {
            Job::Mutate(_) if self.threads.device_is_fast() => self.own = Some(job),
            _ => self.threads.give(job),
        }
    }

    /// Whether there is a job that the thread that serves is to run now.
    pub fn has_own(&self) -> bool {
        self.own.is_some()
    }

    /// The job that the thread that serves is to run now, once.
    pub fn take_own(&mut self) -> Option<Job> {
        self.own.take()
    }

    /// The answers of the job, once it is done.
    pub fn collect(&mut self) -> Option<Vec<Done>> {
        self.running.as_ref()?;
        let answers = self.threads.take_answers()?;
        let _ = message::receive(&self.wake, &mut [0; 8]);
        self.running = None;
        Some(answers)
    }

    /// Stops the running request if it has this id and others are answered during it. Returns whether it has.
    pub fn cancel(&self, id: &Value, connection: u64) -> bool {
        let runs = |run: &Run| run.connections.contains(&connection) && run.overtakable.as_ref() == Some(id);
        let found = self.running.as_ref().is_some_and(runs);
        if found {
            self.machine.cancel();
        }
        found
    }

    /// Stops the running request of a connection that has ended, if it can be stopped.
    pub fn abandon(&self, connection: u64) {
        if self.running().is_some_and(|run| run.beside() && run.connections.contains(&connection)) {
            self.machine.cancel();
        }
    }
}

/// Runs a job.
pub fn work(machine: &Machine, job: Job) -> Vec<Done> {
    match job {
        Job::Answer(request, arrival) => {
            let answer = machine.answer(&request, arrival);
            vec![Done { connection: arrival.connection, id: request.id, answer }]
        }
        Job::Mutate(requests) => {
            let answers = machine.mutate(requests.iter().map(|(request, connection)| (request, *connection)));
            let done =
                |((request, connection), answer): ((Request, u64), _)| Done { connection, id: request.id, answer };
            requests.into_iter().zip(answers).map(done).collect()
        }
        Job::ExpireLease => {
            machine.expire_lease();
            vec![]
        }
        Job::SelfTest => {
            machine.test_and_note();
            vec![]
        }
    }
}

/// Whether a mutation computes whole tensors, or reads them whole for their digests.
fn computes_much(params: &Params) -> bool {
    if params.get("digest") == Some(&Value::Bool(true)) {
        return true;
    }
    let edits = params.get("edits").and_then(Value::as_array);
    edits.is_some_and(|edits| edits.iter().any(|edit| edit["kind"] == "seeded" || edit["kind"] == "low_rank"))
}
