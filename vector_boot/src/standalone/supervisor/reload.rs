//! The reload of the worker: judged, tried, started beside the one that serves, put in its place at a beat, and on
//! probation until it is trusted. The supervisor waits for nothing here: every step is a message, an end of a process, or
//! a time that is over.
//!
//! What the client has sent is never read by this process: a child judges it ([`crate::standalone::reload::verify`]).

mod stage;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::running_worker::RunningWorker;
use super::worker_process::{executing, own_executable, Executable};
use super::{console, Supervisor};
use crate::protocol::{self, ReloadReason, RELOAD_READY_MS};
use crate::rts::hex;
use crate::standalone::control::Control;
use crate::standalone::reload::handover;
use crate::standalone::reload::verify::Order;
use crate::sys::memory::is_sealed;
use crate::sys::message;
use crate::sys::process::{self, Ended};
use stage::{Candidate, Failure, Former};
pub use stage::{Child, Stage};

/// Time for the child that judges; it hashes up to 1 GiB.
const JUDGE_LIMIT: Duration = Duration::from_secs(60);
/// Time for the probe run.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// Time for the new worker to take over once the old one has handed over. Nobody serves during it.
const SWITCH_LIMIT: Duration = Duration::from_secs(3);
/// Time for the old worker to end what it runs.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// Messages of one process that are handled at a time.
const MESSAGES_LIMIT: usize = 16;
const READY_LIMIT: Duration = Duration::from_millis(RELOAD_READY_MS);

fn cannot_start(error: io::Error) -> Failure {
    (ReloadReason::Start, format!("a process cannot be started: {error}"))
}

impl Supervisor {
    /// Begins a reload of what the worker has sent.
    pub(super) fn begin_reload(&mut self, image: bool, key: Option<[u8; 32]>, file: Option<OwnedFd>) {
        if let Stage::Trusted(former) = &mut self.reload {
            end(former.worker.take());
            self.reload = Stage::Idle;
        }
        if !matches!(self.reload, Stage::Idle) {
            return; // the worker asks for one at a time
        }
        let Some(file) = file.filter(|file| is_sealed(file.as_fd())) else {
            return self.refuse_reload(ReloadReason::Format, "the worker sent no sealed file".into());
        };
        let order = Order { image, key, model: self.worker.model().is_some() };
        let mut command = own_executable();
        command.args(order.words());
        let mut fds = vec![file.as_fd()];
        fds.extend(self.worker.model());
        match self.start_child(&mut command, &fds, JUDGE_LIMIT) {
            Ok(child) => self.reload = Stage::Judging(child),
            Err(error) => self.fail_reload(cannot_start(error)),
        }
    }

    /// Starts a child with a socket for its answer as its first descriptor.
    pub(super) fn start_child(
        &self,
        command: &mut std::process::Command,
        fds: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> io::Result<Child> {
        let (answer, theirs) = message::pair()?;
        let fds: Vec<BorrowedFd<'_>> = std::iter::once(theirs.as_fd()).chain(fds.iter().copied()).collect();
        let child = process::spawn(command, &fds, self.worker.judges_user())?;
        Ok(Child { pid: child.id(), answer, deadline: Instant::now() + limit })
    }

    /// Handles what the process of this stage has said.
    pub(super) fn advance_reload(&mut self) {
        for _ in 0..MESSAGES_LIMIT {
            if !self.hear_one() {
                break;
            }
        }
    }

    /// Handles one message of the process of this stage. Returns whether there was one.
    fn hear_one(&mut self) -> bool {
        let refused = (ReloadReason::Format, "a process of the reload gave no valid answer".to_string());
        match std::mem::take(&mut self.reload) {
            Stage::Judging(child) => match Control::receive_with(&child.answer) {
                Ok(Some((Control::Verified { executable }, Some(file)))) => self.probe(executable, file),
                Ok(Some((Control::ReloadFailed { reason, text }, _))) => self.fail_reload((reason, text)),
                Ok(_) => self.fail_reload(refused),
                Err(_) => return self.stay(Stage::Judging(child)), // its end is noticed when it is reaped
            },
            Stage::Probing(child, executable) => match Control::receive(&child.answer) {
                Ok(Some(Control::Probed { protocol, state })) => self.start_beside(executable, protocol, state),
                Ok(_) => self.fail_reload((ReloadReason::Probe, refused.1)),
                Err(_) => return self.stay(Stage::Probing(child, executable)),
            },
            Stage::Starting(new) => return self.hear_candidate(new, Stage::Starting),
            Stage::Draining(new) => return self.hear_candidate(new, Stage::Draining),
            Stage::Switching(new) => return self.hear_candidate(new, Stage::Switching),
            Stage::Ending(mut new, failure) => {
                let message = new.worker.receive();
                self.reload = Stage::Ending(new, failure);
                match message {
                    Ok(Some((Control::TookOver, _))) => self.note_said_take_over(),
                    Ok(_) => (),
                    Err(_) => return false,
                }
            }
            other => return self.stay(other),
        }
        true
    }

    fn stay(&mut self, stage: Stage) -> bool {
        self.reload = stage;
        false
    }

    fn probe(&mut self, sha256: [u8; 32], file: OwnedFd) {
        let executable = match process::out_of_the_way(file) {
            Ok(file) => Executable { file, sha256 },
            Err(error) => return self.fail_reload(cannot_start(error)),
        };
        if !is_sealed(executable.file.as_fd()) {
            return self.fail_reload((ReloadReason::Format, "the executable is not sealed".into()));
        }
        let mut command = executing(executable.file.as_fd());
        match self.start_child(command.arg("--probe-worker"), &[], PROBE_LIMIT) {
            Ok(child) => self.reload = Stage::Probing(child, executable),
            Err(error) => self.fail_reload((ReloadReason::Probe, format!("the executable cannot be started: {error}"))),
        }
    }

    fn start_beside(&mut self, executable: Executable, protocol: u32, state: u64) {
        if (protocol, state) != (protocol::VERSION, handover::VERSION) {
            let (own, own_state) = (protocol::VERSION, handover::VERSION);
            let text = format!(
                "the executable speaks protocol {protocol} and takes over state {state}, but {own} and {own_state} are needed"
            );
            return self.fail_reload((ReloadReason::Version, text));
        }
        let started = message::pair().and_then(|(link, theirs)| {
            let worker = self.worker.start_beside(executable.file.as_fd(), &theirs)?;
            let deadline = Instant::now() + READY_LIMIT;
            Ok(Candidate { worker, executable, link, ready: false, frozen: false, deadline })
        });
        match started {
            Ok(new) => self.reload = Stage::Starting(new),
            Err(error) => self.fail_reload(cannot_start(error)),
        }
    }

    /// Handles the next message of a worker that does not serve yet; then it goes on in `stage`. Returns whether there was
    /// one.
    fn hear_candidate(&mut self, mut new: Candidate, stage: fn(Candidate) -> Stage) -> bool {
        let serve = |emergency| Control::Serve { executable: new.executable.sha256, emergency };
        let message = match new.worker.receive() {
            Ok(message) => message.map(|(control, _)| control),
            Err(_) => return self.stay(stage(new)),
        };
        match message {
            Some(Control::TensorsReady { .. }) => new.worker.send(&serve(self.emergency.clone())),
            Some(Control::Failed { text }) if self.emergency.is_some() => new.worker.send(&serve(Some(text))),
            Some(Control::Failed { text }) => {
                self.end_candidate(new, (ReloadReason::Start, text));
                return true;
            }
            Some(Control::ReloadFailed { reason, text }) => {
                self.end_candidate(new, (reason, text));
                return true;
            }
            Some(Control::TookOver) => {
                self.reload = stage(new);
                self.note_said_take_over();
                return true;
            }
            Some(Control::Standby) => new.ready = true,
            _ => (),
        }
        self.reload = stage(new);
        true
    }

    /// The new worker says that it serves, which it can only after the old one has handed over.
    fn note_said_take_over(&mut self) {
        self.hear_worker(); // the old worker says before that it is frozen
        match std::mem::take(&mut self.reload) {
            Stage::Switching(new) => self.note_take_over(new),
            // It was killed too late: its end is then one within its probation.
            Stage::Ending(new, _) if new.frozen => self.note_take_over(new),
            Stage::Starting(new) | Stage::Draining(new) => {
                let text = "the new worker took over before the old one had handed over".to_string();
                self.end_candidate(new, (ReloadReason::Switch, text));
            }
            other => self.reload = other,
        }
    }

    /// The new worker serves: the old one waits.
    fn note_take_over(&mut self, new: Candidate) {
        let Candidate { worker, executable, .. } = new;
        console::say(&format!("the worker is replaced by one of executable {}...", hex(&executable.sha256[..6])));
        let former = self.worker.replace(worker);
        let until = Instant::now() + self.probation;
        self.reload = Stage::Probation(Former { worker: former, executable: Some(executable), until });
        self.note_worker();
    }

    /// The old worker has handed over.
    pub(super) fn note_frozen(&mut self) {
        self.reload = match std::mem::take(&mut self.reload) {
            Stage::Draining(new) => {
                Stage::Switching(Candidate { frozen: true, deadline: Instant::now() + SWITCH_LIMIT, ..new })
            }
            Stage::Ending(new, failure) => Stage::Ending(Candidate { frozen: true, ..new }, failure),
            other => other,
        };
    }

    /// Steps that are due at a beat, which was sent already: a ready worker takes over, and times that are over.
    pub(super) fn reload_at_beat(&mut self, beat: &Control) {
        let now = Instant::now();
        self.reload = match std::mem::take(&mut self.reload) {
            Stage::Starting(new) if new.ready => {
                self.worker.send_with(&Control::HandOver, new.link.as_fd());
                Stage::Draining(Candidate { deadline: now + DRAIN_LIMIT, ..new })
            }
            other => other,
        };
        if let Stage::Draining(new) | Stage::Switching(new) = &self.reload {
            new.worker.send(beat); // whichever of the two serves then tells of it
        }
        self.end_stage(now);
    }

    /// Ends a stage whose time is over.
    fn end_stage(&mut self, now: Instant) {
        match std::mem::take(&mut self.reload) {
            Stage::Judging(child) if now > child.deadline => {
                process::kill(child.pid, libc::SIGKILL);
                self.fail_reload((ReloadReason::Format, "what was sent was not judged within 60 s".into()));
            }
            Stage::Probing(child, _) if now > child.deadline => {
                process::kill(child.pid, libc::SIGKILL);
                self.fail_reload((
                    ReloadReason::Probe,
                    "the probe run of the executable did not end within 5 s".into(),
                ));
            }
            Stage::Starting(new) if now > new.deadline => {
                let text = "the new worker was not ready within 10 s".to_string();
                self.end_candidate(new, (ReloadReason::Start, text));
            }
            Stage::Draining(new) if now > new.deadline => {
                let text = "a request ran for more than 10 s: try again later".to_string();
                self.end_candidate(new, (ReloadReason::Busy, text));
            }
            Stage::Switching(new) if now > new.deadline => {
                let text = "the new worker did not take over within 3 s".to_string();
                self.end_candidate(new, (ReloadReason::Switch, text));
            }
            Stage::Probation(former) if now > former.until => {
                self.worker.send(&Control::ReloadDone);
                let executable = self.worker.use_executable(former.executable);
                let until = now + self.probation;
                self.reload = Stage::Trusted(Former { worker: former.worker, executable, until });
            }
            Stage::Trusted(former) if now > former.until => end(former.worker),
            other => self.reload = other,
        }
    }

    /// Kills a new worker. What happens next depends on whether it has begun to serve, which is known once it is gone.
    fn end_candidate(&mut self, new: Candidate, failure: Failure) {
        new.worker.kill();
        self.reload = Stage::Ending(new, failure);
    }

    /// Notes the end of a process. Returns whether the reload takes care of it: then no worker has to be started.
    pub(super) fn note_end_in_reload(&mut self, ended: &Ended) -> bool {
        self.advance_reload(); // what was said before the end counts
        if self.worker.pid() == ended.pid {
            return self.note_end_of_server(ended);
        }
        if self.reload.process() != Some(ended.pid) {
            return false;
        }
        let how = ended.how();
        match std::mem::take(&mut self.reload) {
            Stage::Judging(_) => {
                self.fail_reload((ReloadReason::Format, format!("the process that judges what was sent {how}")));
            }
            Stage::Probing(..) => {
                self.fail_reload((ReloadReason::Probe, format!("the executable {how} in its probe run")));
            }
            Stage::Starting(_) => self.go_on((ReloadReason::Start, format!("the new worker {how} while it started"))),
            Stage::Draining(_) | Stage::Switching(_) => {
                self.go_on((ReloadReason::Switch, format!("the new worker {how} before it served")));
            }
            Stage::Ending(_, failure) => self.go_on(failure),
            // The old worker is gone: there is no way back.
            Stage::Probation(former) => self.reload = Stage::Probation(Former { worker: None, ..former }),
            Stage::Trusted(_) | Stage::Idle => (),
        }
        true
    }

    /// The new worker is gone and has not served: the old one goes on.
    fn go_on(&mut self, failure: Failure) {
        self.worker.send(&Control::Resume { untouched: true, answered: false });
        self.fail_reload(failure);
    }

    /// Notes the end of the worker that serves. Returns whether the old one serves again.
    fn note_end_of_server(&mut self, ended: &Ended) -> bool {
        let failure = (ReloadReason::Probation, format!("the new worker {} within its probation", ended.how()));
        match std::mem::take(&mut self.reload) {
            Stage::Probation(Former { worker: Some(former), .. }) => self.serve_with(former, failure, false),
            Stage::Trusted(Former { worker: Some(former), executable, .. }) => {
                self.worker.use_executable(executable);
                self.serve_with(former, failure, true);
            }
            // The worker that would have told the client is gone, and with it the connection.
            other => {
                self.reload = other;
                self.stop_reload();
                return false;
            }
        }
        true
    }

    /// The old worker serves again.
    fn serve_with(&mut self, former: RunningWorker, failure: Failure, answered: bool) {
        former.send(&Control::Resume { untouched: false, answered });
        self.worker.replace(former);
        self.note_worker();
        self.fail_reload(failure);
    }

    /// Tells the worker that serves, which tells the client.
    fn fail_reload(&mut self, (reason, text): Failure) {
        self.reload = Stage::Idle;
        console::say(&format!("no reload: {text}"));
        self.refuse_reload(reason, text);
    }

    fn refuse_reload(&self, reason: ReloadReason, text: String) {
        self.worker.send(&Control::ReloadFailed { reason, text });
    }

    /// Ends every process of a reload.
    pub(super) fn stop_reload(&mut self) {
        if let Some(pid) = self.reload.process() {
            process::kill(pid, libc::SIGKILL);
        }
        self.reload = Stage::Idle;
    }
}

/// Ends a worker that is no longer needed. It is reaped like any other process.
fn end(worker: Option<RunningWorker>) {
    if let Some(worker) = worker {
        worker.kill();
    }
}

#[cfg(test)]
mod tests;
