//! How far a reload has come, and what belongs to each stage.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Instant;

use crate::protocol::ReloadReason;
use crate::standalone::supervisor::running_worker::RunningWorker;
use crate::standalone::supervisor::worker_process::Executable;

/// How far a reload has come.
#[derive(Default)]
pub enum Stage {
    /// None is under way.
    #[default]
    Idle,
    /// A child judges what was sent.
    Judging(Child),
    /// A probe run of the executable.
    Probing(Child, Executable),
    /// The new worker starts beside the old one.
    Starting(Candidate),
    /// The old worker is to hand over as soon as nothing runs.
    Draining(Candidate),
    /// The old worker has handed over.
    Switching(Candidate),
    /// The new worker has failed and was killed; once it is gone, the old one goes on.
    Ending(Candidate, Failure),
    /// The new worker serves. The old one waits; `None` if it has died.
    Probation(Former),
    /// The client has its answer, and the old worker waits for some more time.
    Trusted(Former),
}

/// A child that answers with one message.
pub struct Child {
    pub pid: u32,
    pub answer: OwnedFd,
    pub deadline: Instant,
}

/// A new worker that does not serve yet.
pub struct Candidate {
    pub worker: RunningWorker,
    pub executable: Executable,
    /// The old worker's end of the socket between the two.
    pub link: OwnedFd,
    /// Whether it is ready to take over.
    pub ready: bool,
    /// Whether the old worker has handed over.
    pub frozen: bool,
    pub deadline: Instant,
}

/// What would serve again.
pub struct Former {
    /// The old worker, unless it has died.
    pub worker: Option<RunningWorker>,
    /// During probation the executable of the new worker, then the one of the old worker; `None` for our own.
    pub executable: Option<Executable>,
    pub until: Instant,
}

/// Why a reload failed: a word and a sentence.
pub type Failure = (ReloadReason, String);

impl Stage {
    /// The descriptor on which messages of this stage come.
    pub fn fd(&self) -> Option<RawFd> {
        match self {
            Stage::Judging(child) | Stage::Probing(child, _) => Some(child.answer.as_raw_fd()),
            Stage::Starting(new) | Stage::Draining(new) | Stage::Switching(new) | Stage::Ending(new, _) => {
                new.worker.control().map(|socket| socket.as_raw_fd())
            }
            _ => None,
        }
    }

    /// The process of this stage, other than the worker that serves.
    pub fn process(&self) -> Option<u32> {
        match self {
            Stage::Judging(child) | Stage::Probing(child, _) => Some(child.pid),
            Stage::Starting(new) | Stage::Draining(new) | Stage::Switching(new) | Stage::Ending(new, _) => {
                Some(new.worker.pid())
            }
            Stage::Probation(former) | Stage::Trusted(former) => former.worker.as_ref().map(RunningWorker::pid),
            Stage::Idle => None,
        }
    }
}
