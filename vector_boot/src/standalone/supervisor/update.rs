//! An update of the other slot: what a client has brought is judged by one child and written by another one, which talks to
//! the worker itself. This process hands out descriptors and waits for nothing.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use super::reload::Child;
use super::worker_process::own_executable;
use super::{console, Supervisor};
use crate::protocol::UpdateReason;
use crate::standalone::boot::judge::Order;
use crate::standalone::boot::Refusal;
use crate::standalone::control::Control;
use crate::sys::memory::is_sealed;
use crate::sys::message;
use crate::sys::process::{self, Ended};

/// Uid and gid of the child that writes: no other process can touch it.
const WRITER_USER: u32 = 1002;
/// Time for the child that judges.
const JUDGE_LIMIT: Duration = Duration::from_secs(60);

/// How far an update has come.
#[derive(Default)]
pub enum Stage {
    /// None is under way.
    #[default]
    Idle,
    /// A child judges what was brought.
    Judging(Child, Order, OwnedFd),
    /// A child writes; this is its process id.
    Writing(u32),
    /// The child of an update before this one is killed; then this one begins.
    Ending(u32, Order, OwnedFd),
}

impl Stage {
    /// The descriptor on which messages of this stage come.
    pub fn fd(&self) -> Option<RawFd> {
        match self {
            Stage::Judging(child, ..) => Some(child.answer.as_raw_fd()),
            _ => None,
        }
    }
}

impl Supervisor {
    /// Begins an update with what the worker has sent. One that is under way ends.
    pub(super) fn begin_update(&mut self, order: Order, file: Option<OwnedFd>) {
        let Some(file) = file.filter(|file| is_sealed(file.as_fd())) else {
            return self.refuse_update((UpdateReason::Format, "the worker sent no sealed file".into()));
        };
        self.update = match std::mem::take(&mut self.update) {
            Stage::Idle => return self.judge_update(order, file),
            Stage::Judging(Child { pid, .. }, ..) | Stage::Writing(pid) | Stage::Ending(pid, ..) => {
                process::kill(pid, libc::SIGKILL);
                Stage::Ending(pid, order, file)
            }
        };
    }

    fn judge_update(&mut self, order: Order, file: OwnedFd) {
        let slot = self.trial.as_ref().and_then(|trial| trial.other()).map(|(slot, _)| slot);
        let (Some(slot), Some(model)) = (slot, self.worker.model()) else {
            return self
                .refuse_update((UpdateReason::Slot, "this machine runs from no slot of a disk with two".into()));
        };
        let mut command = own_executable();
        command.args(order.words("--judge-update", slot));
        match self.start_child(&mut command, &[file.as_fd(), model], JUDGE_LIMIT) {
            Ok(child) => self.update = Stage::Judging(child, order, file),
            Err(error) => self.refuse_update(cannot_start(error)),
        }
    }

    /// Handles the answer of the child that judges.
    pub(super) fn advance_update(&mut self) {
        let Stage::Judging(child, ..) = &self.update else { return };
        let said = Control::receive(&child.answer);
        if said.as_ref().is_err() {
            return; // its end is noticed when it is reaped
        }
        let Stage::Judging(_, order, file) = std::mem::take(&mut self.update) else { return };
        match said {
            Ok(Some(Control::UpdateSound)) => match self.start_writer(&order, &file) {
                Ok(pid) => self.update = Stage::Writing(pid),
                Err(error) => self.refuse_update(cannot_start(error)),
            },
            Ok(Some(Control::UpdateFailed { reason, text })) => self.refuse_update((reason, text)),
            _ => self.refuse_update((UpdateReason::Format, "the process that judges gave no valid answer".into())),
        }
    }

    /// Starts the child that writes, and gives the worker its end of the socket between them.
    fn start_writer(&self, order: &Order, file: &OwnedFd) -> io::Result<u32> {
        let trial = self.trial.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let (slot, partition) = trial.other().ok_or(io::ErrorKind::NotFound)?;
        let open = |path| OpenOptions::new().read(true).write(true).open(path);
        let (esp, partition) = (open(trial.esp())?, open(partition)?);
        let (ours, theirs) = message::pair()?;
        let mut command = own_executable();
        command.args(order.words("--write-update", slot));
        let fds = [theirs.as_fd(), file.as_fd(), esp.as_fd(), partition.as_fd()];
        let child = process::spawn(&mut command, &fds, Some(WRITER_USER))?;
        console::say(&format!("slot {slot} is being updated"));
        self.worker.send_with(&Control::UpdateLink { slot: slot.number() }, ours.as_fd());
        Ok(child.id())
    }

    /// Ends a child whose time is over.
    pub(super) fn update_at_beat(&mut self) {
        if let Stage::Judging(child, ..) = &self.update {
            if Instant::now() > child.deadline {
                process::kill(child.pid, libc::SIGKILL);
            }
        }
    }

    /// Notes the end of a process. Returns whether it was a child of an update.
    pub(super) fn note_end_in_update(&mut self, ended: &Ended) -> bool {
        self.advance_update(); // what was said before the end counts
        let (Stage::Judging(Child { pid, .. }, ..) | Stage::Writing(pid) | Stage::Ending(pid, ..)) = &self.update
        else {
            return false;
        };
        if *pid != ended.pid {
            return false;
        }
        match std::mem::take(&mut self.update) {
            Stage::Judging(..) => {
                self.refuse_update((UpdateReason::Format, format!("the process that judges {}", ended.how())));
            }
            Stage::Ending(_, order, file) => self.judge_update(order, file),
            // The worker notices the end of the other one by the socket between them.
            Stage::Writing(_) | Stage::Idle => self.start_entries(crate::standalone::boot::entries::Task::Read),
        }
        true
    }

    fn refuse_update(&mut self, (reason, text): Refusal) {
        console::say(&format!("no update: {text}"));
        self.worker.send(&Control::UpdateFailed { reason, text });
    }
}

fn cannot_start(error: io::Error) -> Refusal {
    (UpdateReason::Disk, format!("the disk cannot be opened, or a process not be started: {error}"))
}
