//! The trial of the slot that runs: how the boot loader came to it, and whether it is found good (`spec/update.md`).
//!
//! The ESP is read and changed by children without rights, through a descriptor that is opened here.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::disks::Slots;
use super::reload::Child;
use super::{console, End, Supervisor};
use crate::esp::Slot;
use crate::standalone::boot::entries::Task;
use crate::standalone::control::Control;
use crate::sys::process::{self, Ended};

/// After so many beats a slot on trial is tested, and then again after as many until it is found good.
const TRIAL_BEATS: u64 = 600;
/// Time for a child to read or change the entries.
const CHILD_LIMIT: Duration = Duration::from_secs(60);
/// Time for the worker to test itself.
const TEST_LIMIT: Duration = Duration::from_secs(60);

/// What is known of the slot that runs.
pub struct Trial {
    slot: Slot,
    esp: PathBuf,
    /// The partition of the other slot, if the disk has one.
    other: Option<PathBuf>,
    stage: Stage,
    /// Whether its entry has a counter still.
    counted: bool,
    /// Whether the boot loader would start the other slot if this one were out of tries.
    alternative: bool,
    /// Workers that were started again when the last test was due.
    restarts: u32,
    /// What was last said to stand against it.
    problem: String,
}

enum Stage {
    Idle,
    Child(Task, Child),
    Testing(Instant),
}

impl Trial {
    /// A trial of which nothing is known yet.
    pub fn new(slots: Slots) -> Self {
        let Slots { own: slot, esp, other } = slots;
        let (stage, problem) = (Stage::Idle, String::new());
        Trial { slot, esp, other, stage, counted: false, alternative: false, restarts: 0, problem }
    }

    /// The EFI system partition.
    pub fn esp(&self) -> &Path {
        &self.esp
    }

    /// The other slot and its partition.
    pub fn other(&self) -> Option<(Slot, &Path)> {
        Some((self.slot.other(), self.other.as_deref()?))
    }

    /// The descriptor on which a child answers.
    pub fn fd(&self) -> Option<RawFd> {
        match &self.stage {
            Stage::Child(_, child) => Some(child.answer.as_raw_fd()),
            _ => None,
        }
    }
}

impl Supervisor {
    /// Starts a child that reads the boot entries or changes one.
    pub(super) fn start_entries(&mut self, task: Task) {
        let Some(trial) = self.trial.as_ref().filter(|trial| matches!(trial.stage, Stage::Idle)) else { return };
        let (slot, esp) = (trial.slot, trial.esp.clone());
        let started = OpenOptions::new().read(true).write(task == Task::Bless).open(&esp).and_then(|esp| {
            let mut command = super::worker_process::own_executable();
            self.start_child(command.args(task.words(slot)), &[esp.as_fd()], CHILD_LIMIT)
        });
        match started {
            Ok(child) => self.set_trial_stage(Stage::Child(task, child)),
            Err(error) => self.note_problem(format!("the ESP {} cannot be opened: {error}", esp.display())),
        }
    }

    fn set_trial_stage(&mut self, stage: Stage) {
        if let Some(trial) = &mut self.trial {
            trial.stage = stage;
        }
    }

    /// Handles the answer of a child.
    pub(super) fn advance_trial(&mut self) {
        let Some(Trial { stage: Stage::Child(task, child), .. }) = &self.trial else { return };
        let (task, answer) = (*task, Control::receive(&child.answer));
        match answer {
            Ok(Some(Control::Entries { counter, alternative, fell_back })) => {
                self.set_trial_stage(Stage::Idle);
                self.note_entries(task, counter, alternative, fell_back);
            }
            Ok(Some(Control::EntriesFailed { text })) => {
                self.set_trial_stage(Stage::Idle);
                self.note_problem(text);
            }
            _ => (), // its end is noticed when it is reaped
        }
    }

    fn note_entries(&mut self, task: Task, counter: Option<u32>, alternative: bool, fell_back: Option<String>) {
        let Some(trial) = &mut self.trial else { return };
        (trial.counted, trial.alternative) = (counter.is_some(), alternative);
        let slot = trial.slot;
        match (task, counter) {
            (Task::Read, Some(left)) => console::say(&format!("slot {slot} is on trial, with {left} more tries")),
            (Task::Read, None) => (),
            (Task::Bless, _) => {
                trial.problem.clear();
                console::say(&format!("slot {slot} is found good"));
            }
        }
        if let Some(why) = fell_back.as_ref().filter(|_| task == Task::Read) {
            console::say(&format!("slot {slot} runs because {why}"));
        }
        let vitals = self.vitals();
        vitals.set_boot_state(counter, fell_back.as_deref().unwrap_or_default());
        if task == Task::Bless {
            vitals.set_boot_problem("");
        }
    }

    /// Says what stands against the slot, once for each reason.
    fn note_problem(&mut self, why: String) {
        let Some(trial) = &mut self.trial else { return };
        if trial.problem != why {
            console::say(&format!("slot {} is not found good: {why}", trial.slot));
            trial.problem = why;
        }
        if let Some(trial) = &self.trial {
            self.vitals().set_boot_problem(&trial.problem);
        }
    }

    /// A slot that failed its test is left, if there is another one to start.
    fn leave_slot(&mut self, why: String) {
        self.note_problem(why);
        self.set_trial_stage(Stage::Idle);
        if self.trial.as_ref().is_some_and(|trial| trial.alternative) {
            console::say("the machine is started again, so that the boot loader counts this as a failed try");
            self.end = Some(End::Reboot);
        }
    }

    /// Steps of the trial that are due at a beat.
    pub(super) fn trial_at_beat(&mut self, beats: u64) {
        let now = Instant::now();
        let Some(trial) = &self.trial else { return };
        match &trial.stage {
            Stage::Child(_, child) if now > child.deadline => {
                process::kill(child.pid, libc::SIGKILL);
                self.set_trial_stage(Stage::Idle);
                self.note_problem("the ESP was not read or written within 60 s".into());
            }
            Stage::Testing(deadline) => match self.vitals().self_test() {
                Some(true) => {
                    self.set_trial_stage(Stage::Idle);
                    self.start_entries(Task::Bless);
                }
                Some(false) => {
                    let why = self.vitals().boot_problem(); // the worker has noted it there
                    self.leave_slot(why);
                }
                None if now > *deadline => self.leave_slot("its self-test took longer than 60 s".into()),
                None => (),
            },
            Stage::Idle if trial.counted && beats.is_multiple_of(TRIAL_BEATS) => self.test_slot(now),
            _ => (),
        }
    }

    fn test_slot(&mut self, now: Instant) {
        let restarts = self.worker.restarts();
        let before = self.trial.as_mut().map_or(restarts, |trial| std::mem::replace(&mut trial.restarts, restarts));
        if let Some(why) = &self.emergency {
            let why = format!("it is in emergency mode: {why}");
            return self.leave_slot(why);
        }
        if before != restarts {
            return self.leave_slot("its worker had to be started again".into());
        }
        if self.worker.reloaded_sha256().is_some() {
            return self.note_problem("a reloaded executable runs, and not the one of the slot".into());
        }
        self.vitals().set_self_test(None);
        self.worker.send(&Control::SelfTest);
        self.set_trial_stage(Stage::Testing(now + TEST_LIMIT));
    }

    /// Notes the end of a process. Returns whether it was a child of the trial.
    pub(super) fn note_end_in_trial(&mut self, ended: &Ended) -> bool {
        let is_child = |trial: &Trial| matches!(&trial.stage, Stage::Child(_, child) if child.pid == ended.pid);
        if !self.trial.as_ref().is_some_and(is_child) {
            return false;
        }
        self.advance_trial(); // what was said before the end counts
        if self.trial.as_ref().is_some_and(is_child) {
            self.set_trial_stage(Stage::Idle);
            self.note_problem(format!("the process that reads the ESP {}", ended.how()));
        }
        true
    }
}
