//! The second thread: it runs long requests, one at a time.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::mpsc::{channel, Receiver, Sender};

use serde_json::Value;

use crate::machine::{Arrival, Machine};
use crate::protocol::{Blob, Method, Reply, Request, RequestError, Runs};
use crate::sys::message;

/// A plain mutation with a blob up to this size takes less time than waking the thread up.
const QUICK_BLOB_BYTES: usize = 64 << 10;

/// Work for the thread.
pub enum Job {
    /// A request, and when and where it came.
    Answer(Request, Arrival),
    /// The open trial has ended.
    ExpireLease,
}

/// The result of a job.
pub struct Done {
    /// The connection it was started for.
    pub connection: u64,
    /// The id of its request and the answer, if it was a request.
    pub answer: Option<(Value, Result<Reply, RequestError>)>,
}

/// The running job, as others see it.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// The connection it was started for.
    pub connection: u64,
    /// Whether others are answered during it.
    pub beside: bool,
}

/// Connections count from 1.
const NO_CONNECTION: u64 = 0;

struct RunningJob {
    connection: u64,
    /// Id of the request, if others are answered during it.
    overtakable: Option<Value>,
}

/// The thread, and its running job.
pub struct Runner {
    machine: Machine,
    jobs: Sender<Job>,
    answers: Receiver<Option<(Value, Result<Reply, RequestError>)>>,
    wake: OwnedFd,
    running: Option<RunningJob>,
}

impl Runner {
    /// Starts the thread; system calls may be restricted afterwards.
    ///
    /// # Errors
    /// If the thread or its wake-up cannot be made.
    pub fn start_thread(machine: Machine) -> io::Result<Self> {
        let (wake, waker) = message::pair()?;
        let (jobs, todo) = channel();
        let (done, answers) = channel();
        let (started, ready) = channel();
        let worker = machine.clone();
        std::thread::Builder::new().name("runtime".into()).stack_size(256 << 10).spawn(move || {
            let _ = started.send(vec![0u8]); // an allocation: the allocator has set itself up for this thread
            for job in todo {
                // Without this thread nothing would answer: a panic ends the worker, and the supervisor starts another.
                let answer = catch_unwind(AssertUnwindSafe(|| work(&worker, job)));
                let answer = answer.unwrap_or_else(|_| std::process::exit(1));
                if done.send(answer).is_err() {
                    break;
                }
                let _ = message::send(&waker, &[1]);
            }
        })?;
        // A new thread makes system calls that the filter will not allow, so the filter has to wait for it.
        let _ = ready.recv();
        Ok(Runner { machine, jobs, answers, wake, running: None })
    }

    /// Becomes readable when a job is done.
    pub fn fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    /// Whether the thread runs a request.
    pub fn takes(request: &Request) -> bool {
        match (request.method.runs(), &request.blob) {
            (Runs::Sized, Blob::None | Blob::Upload(_)) => true,
            (Runs::Sized, Blob::Bytes(bytes)) => bytes.len() > QUICK_BLOB_BYTES || computes_much(request),
            (Runs::Queued, Blob::None) | (Runs::Beside, _) => true,
            // An older generation may have to be rebuilt first.
            (Runs::Inline, Blob::None) => request.method == Method::Read && request.params.get("generation").is_some(),
            _ => false,
        }
    }

    /// Whether other requests are answered during this one.
    pub fn runs_beside_others(request: &Request) -> bool {
        request.method.runs() == Runs::Beside
    }

    /// The running job.
    pub fn running(&self) -> Option<Run> {
        let running = self.running.as_ref()?;
        Some(Run { connection: running.connection, beside: running.overtakable.is_some() })
    }

    /// Starts a job. Nothing else may be running.
    pub fn start(&mut self, job: Job) {
        let (connection, overtakable) = match &job {
            Job::Answer(request, arrival) => {
                let id = Self::runs_beside_others(request).then(|| request.id.clone());
                (arrival.connection, id)
            }
            Job::ExpireLease => (NO_CONNECTION, None),
        };
        self.machine.clear_cancellation();
        self.running = Some(RunningJob { connection, overtakable });
        if self.jobs.send(job).is_err() {
            std::process::exit(1); // the thread has ended: the supervisor starts another worker
        }
    }

    /// The result of the job, once it is done.
    pub fn collect(&mut self) -> Option<Done> {
        let _ = message::receive(&self.wake, &mut [0; 8]);
        let answer = self.answers.try_recv().ok()?;
        let connection = self.running.take()?.connection;
        Some(Done { connection, answer })
    }

    /// Stops the running request if it has this id and others are answered during it. Returns whether it has.
    pub fn cancel(&self, id: &Value, connection: u64) -> bool {
        let runs = |running: &RunningJob| running.connection == connection && running.overtakable.as_ref() == Some(id);
        let found = self.running.as_ref().is_some_and(runs);
        if found {
            self.machine.cancel();
        }
        found
    }

    /// Stops the running request of a connection that has ended, if it can be stopped.
    pub fn abandon(&self, connection: u64) {
        if self.running().is_some_and(|run| run.beside && run.connection == connection) {
            self.machine.cancel();
        }
    }
}

fn work(machine: &Machine, job: Job) -> Option<(Value, Result<Reply, RequestError>)> {
    match job {
        Job::Answer(request, arrival) => {
            let answer = machine.answer(&request, arrival);
            Some((request.id, answer))
        }
        Job::ExpireLease => {
            machine.expire_lease();
            None
        }
    }
}

/// Whether a mutation computes whole tensors, or reads them whole for their digests.
fn computes_much(request: &Request) -> bool {
    if request.params.get("digest") == Some(&Value::Bool(true)) {
        return true;
    }
    let edits = request.params.get("edits").and_then(Value::as_array);
    edits.is_some_and(|edits| edits.iter().any(|edit| edit["kind"] == "seeded" || edit["kind"] == "low_rank"))
}
