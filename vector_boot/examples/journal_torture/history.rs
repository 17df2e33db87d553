//! A random history of a machine: requests, reboots and restarts, each compared with what it must do.

use std::collections::BTreeMap;

use vector_boot::journal::device::simulated::{Call, Disk, Event, Fault};
use vector_boot::journal::{EntryKind, JournalReason};
use vector_boot::lineage::{Budget, ChangeRequest, Lineage, LineageError};

use crate::expected::State;
use crate::random::Random;
use crate::tiny::{recover, Boot, Request, DEVICE};

/// Microseconds between two steps.
const STEP_US: u64 = 1000;
/// One request in so many has a large blob: in half of the histories old entries are often removed for one.
const LARGE_IN: [usize; 2] = [30, 6];

/// What was known at a number of events.
#[derive(Debug, Clone, Copy)]
pub struct Acknowledged {
    /// Events so far.
    pub events: usize,
    /// Index of the state that was acknowledged.
    pub state: usize,
    /// The number of the boot.
    pub boot: u64,
}

/// A history that was carried out.
pub struct History {
    /// What was written and flushed.
    pub events: Vec<Event>,
    /// The states in order.
    pub states: Vec<State>,
    /// The mutation that made each state from the one before, if it was one alone.
    pub requests: Vec<Option<Request>>,
    /// What was acknowledged when, in order.
    pub acknowledged: Vec<Acknowledged>,
    /// How often each kind of step was done.
    pub done: BTreeMap<&'static str, u64>,
}

/// A machine that is being tested.
pub struct World {
    disk: Disk,
    lineage: Lineage,
    random: Random,
    budget: Budget,
    boot: u64,
    lost_from: Option<u64>,
    openings: u64,
    clock_us: u64,
    numbers: u64,
    /// One request in so many has a large blob.
    large_in: usize,
    /// Whether nothing was written that can be lost.
    only_reads_fail: bool,
    /// Whether changes were refused when the step began.
    refused: bool,
    /// The states that changes have which failed: each may be found after a reboot.
    doubtful: Vec<State>,
    history: History,
}

/// How the memory of a history is bounded.
pub fn budget(random: &mut Random) -> Budget {
    let undo = [1, 40_000, 1 << 20][random.below(3)];
    let log = [60_000, 100_000, 1 << 20][random.below(3)];
    Budget { undo, log, log_limit: u64::MAX, available: || 0 }
}

impl World {
    /// A machine with a blank disk, of which this call fails.
    ///
    /// # Errors
    /// What it does wrong.
    pub fn new(seed: u64, fault: Option<Fault>) -> Result<Self, String> {
        let (disk, mut random) = (Disk::blank(DEVICE), Random::new(seed));
        disk.fail(fault);
        let budget = budget(&mut random);
        let lineage = recover(&disk, Boot { number: 0, nonce: seed << 32, lost_from: None }, budget)?;
        let history = History {
            events: Vec::new(),
            states: vec![State::fresh()],
            requests: vec![None],
            acknowledged: vec![Acknowledged { events: 0, state: 0, boot: 0 }],
            done: BTreeMap::new(),
        };
        let mut world = World {
            disk,
            lineage,
            random,
            budget,
            boot: 0,
            lost_from: None,
            openings: seed << 32,
            clock_us: STEP_US,
            numbers: seed << 20,
            large_in: LARGE_IN[seed as usize % 2],
            only_reads_fail: fault.is_some_and(|fault| fault.call == Call::Read),
            refused: false,
            doubtful: Vec::new(),
            history,
        };
        world.opened();
        Ok(world)
    }

    /// The disk.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The weights.
    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    fn state(&self) -> &State {
        &self.history.states[self.history.states.len() - 1]
    }

    /// Whether changes are refused.
    pub fn is_refused(&self) -> bool {
        self.lineage.refusal().is_some()
    }

    /// The states that the machine may be in after a reboot.
    pub fn possible(&self) -> Vec<State> {
        std::iter::once(self.state()).chain(&self.doubtful).cloned().collect()
    }

    /// What was done so far.
    pub fn finish(mut self) -> History {
        self.history.events = self.disk.record();
        self.history
    }

    fn count(&mut self, what: &'static str) {
        *self.history.done.entry(what).or_default() += 1;
    }

    fn acknowledge(&mut self, state: State, request: Option<Request>) {
        self.history.states.push(state);
        self.history.requests.push(request);
        self.note();
    }

    fn note(&mut self) {
        let (events, state) = (self.disk.events(), self.history.states.len() - 1);
        self.history.acknowledged.push(Acknowledged { events, state, boot: self.boot });
    }

    fn opened(&mut self) {
        self.boot = self.lineage.log().map_or(0, |log| log.boot());
        self.note();
    }

    fn draw_id(&mut self) -> [u8; 16] {
        self.numbers += 1;
        let mut id = [2; 16];
        id[..8].copy_from_slice(&self.numbers.to_le_bytes());
        id
    }

    fn draw_request(&mut self, lease: bool) -> Request {
        self.numbers += 1;
        let lease_until_us = lease.then(|| self.clock_us + STEP_US * (2 + self.random.below(12) as u64));
        Request::draw(&mut self.random, self.numbers, lease_until_us, self.large_in)
    }

    /// One step.
    ///
    /// # Errors
    /// What the machine does wrong.
    pub fn step(&mut self) -> Result<(), String> {
        self.clock_us += STEP_US;
        let trial = self.state().lease_until_us.is_some();
        self.refused = self.is_refused() || !self.doubtful.is_empty();
        self.expire()?;
        match self.random.below(100) {
            0..=49 => self.mutate(1, false),
            50..=58 => {
                let count = 2 + self.random.below(3);
                self.mutate(count, false)
            }
            59..=65 => self.mutate(1, true),
            66..=75 => self.roll_back(),
            76..=81 if trial => self.promote(),
            82..=84 if trial => self.renew(),
            85..=88 => self.checkpoint(),
            89..=92 => self.reboot(),
            93..=96 => self.restart(),
            _ => self.mutate(1, false),
        }?;
        self.check()
    }

    /// Compares the machine in memory with what it must be.
    fn check(&self) -> Result<(), String> {
        if self.lineage.log().is_none() {
            return Ok(()); // it serves the base, and takes no changes
        }
        self.shows(self.state())
    }

    /// Whether the machine shows this state. If the end of a trial could not be written, it shows none.
    fn shows(&self, state: &State) -> Result<(), String> {
        let mut shown = state.clone();
        if self.is_refused() && shown.lease_until_us.is_some() && self.lineage.lease_until_us().is_none() {
            shown.lease_until_us = None;
            if self.lineage.generation() == shown.promoted {
                shown.generation = shown.promoted;
                return shown.compare_weights(&self.lineage);
            }
        }
        shown.compare(&self.lineage)
    }

    /// Takes the result of a change that would make `state`.
    fn take(
        &mut self,
        what: &'static str,
        result: Result<(), LineageError>,
        state: State,
        request: Option<Request>,
    ) -> Result<(), String> {
        let refused_before = self.refused || self.lost_from.is_some();
        match result {
            Ok(()) if refused_before => Err(format!("{what} is acknowledged after a failure of the device")),
            Ok(()) => {
                self.count(what);
                self.acknowledge(state, request);
                Ok(())
            }
            Err(LineageError::UnknownGeneration(_)) if self.refused && self.disk.failures() > 0 => {
                self.count("refused after a failure");
                Ok(())
            }
            Err(LineageError::UnknownGeneration(text)) if what == "rollback" => {
                self.count("rollback to a forgotten generation");
                let base = state.contents.last().is_some_and(|contents| **contents == *state.of(0));
                if base && !text.contains("kept") {
                    return Err(text);
                }
                Ok(())
            }
            Err(LineageError::UnknownGeneration(text)) => Err(format!("{what}: {text}")),
            Err(LineageError::Journal(error)) => match error.reason {
                // While a trial is open, only what ends it has room for certain.
                JournalReason::Full if self.state().lease_until_us.is_some() && state.lease_until_us.is_some() => {
                    self.count("refused as full");
                    Ok(())
                }
                JournalReason::Io | JournalReason::ReadOnly if self.disk.failures() > 0 => {
                    self.count("refused after a failure");
                    if !refused_before && !self.only_reads_fail {
                        self.doubtful.push(state);
                    }
                    self.lost_from = self.lost_from.or(self.lineage.lost_from());
                    Ok(())
                }
                _ => Err(format!("{what} is refused: {}", error.text)),
            },
        }
    }

    fn mutate(&mut self, count: usize, lease: bool) -> Result<(), String> {
        let mut state = self.state().clone();
        let requests: Vec<Request> = (0..count).map(|_| self.draw_request(lease)).collect();
        let (mut result, flushes) = (Ok(()), self.disk.calls(Call::Flush));
        for request in &requests {
            result = result.and_then(|()| request.add(&mut self.lineage));
            state.mutate(request);
        }
        let full = matches!(&result, Err(LineageError::Journal(error)) if error.reason == JournalReason::Full);
        if full && count > 1 {
            // The machine answers those before the one that does not fit.
            self.count("refused as full");
            return self.commit_part(&requests);
        }
        let result = result.and_then(|()| self.lineage.commit());
        if result.is_err() && count > 1 && !self.refused {
            self.doubt_parts(&requests);
        }
        let what = if count > 1 { "group" } else { "mutate" };
        let large = requests.iter().any(|request| request.unused > 0);
        if large && matches!(&result, Err(LineageError::Journal(error)) if error.reason == JournalReason::Full) {
            self.count("refused as full");
            return Ok(()); // it may not fit beside two images
        }
        if result.is_ok() && self.disk.calls(Call::Flush) > flushes + 1 {
            self.allow_parts(&requests);
        }
        let request = requests.into_iter().next().filter(|_| count == 1);
        self.take(what, result, state, request)
    }

    /// Where room was made for a later one of these requests, those before it were committed. If the device failed
    /// then, the weights have them; if it failed before that, a reboot may find them.
    fn doubt_parts(&mut self, requests: &[Request]) {
        let (start, shown) = (self.state().clone(), self.lineage.generation());
        let mut state = start.clone();
        for request in &requests[..requests.len() - 1] {
            state.mutate(request);
            match state.generation <= shown {
                true => self.acknowledge(state.clone(), None),
                false if self.only_reads_fail => (),
                false => self.doubtful.push(state.clone()),
            }
        }
    }

    /// Room was made for a later one of these requests, so those before it were committed before it.
    fn allow_parts(&mut self, requests: &[Request]) {
        let mut state = self.state().clone();
        for request in &requests[..requests.len() - 1] {
            state.mutate(request);
            self.history.states.push(state.clone());
            self.history.requests.push(None);
        }
    }

    /// Commits what is in the open batch: the first of these requests.
    fn commit_part(&mut self, requests: &[Request]) -> Result<(), String> {
        let mut state = self.state().clone();
        for request in requests {
            if state.generation < self.lineage.generation() {
                state.mutate(request);
            }
        }
        if state.generation == self.state().generation {
            return Ok(());
        }
        let result = self.lineage.commit();
        self.take("group", result, state, None)
    }

    fn roll_back(&mut self) -> Result<(), String> {
        let newest = self.state().generation;
        let back = self.random.below(14) as u64;
        let to = if self.random.below(8) == 0 { 0 } else { newest.saturating_sub(back) };
        let (id, mut state) = (self.draw_id(), self.state().clone());
        state.roll_back(to, id);
        let asked = ChangeRequest { id, ..ChangeRequest::default() };
        let result = self.lineage.roll_back(EntryKind::Rollback, asked, to, &|| ());
        self.take("rollback", result, state, None)
    }

    fn promote(&mut self) -> Result<(), String> {
        if self.state().lease_until_us.is_none() {
            return Ok(());
        }
        let on_trial = (self.state().generation - self.state().promoted) as usize;
        let generation = self.state().promoted + 1 + self.random.below(on_trial.max(1)) as u64;
        let (id, mut state) = (self.draw_id(), self.state().clone());
        state.promote(generation.min(state.generation), id);
        let asked = ChangeRequest { id, ..ChangeRequest::default() };
        let result = self.lineage.promote(asked, state.promoted);
        self.take("promote", result, state, None)
    }

    fn renew(&mut self) -> Result<(), String> {
        if self.state().lease_until_us.is_none() || self.state().generation == self.state().promoted {
            return Ok(());
        }
        let until = self.clock_us + STEP_US * 20;
        let mut state = self.state().clone();
        state.lease_until_us = Some(until);
        let result = self.lineage.renew(ChangeRequest::default(), state.generation, until);
        self.take("renew", result, state, None)
    }

    fn checkpoint(&mut self) -> Result<(), String> {
        let state = self.state().clone();
        let result = self.lineage.checkpoint();
        self.take("checkpoint", result, state, None)
    }

    fn expire(&mut self) -> Result<(), String> {
        if self.state().lease_until_us.is_none_or(|until| self.clock_us < until) || self.is_refused() {
            return Ok(());
        }
        let mut state = self.state().clone();
        state.roll_back(state.promoted, [0; 16]);
        let result = self.lineage.expire_lease(ChangeRequest::default(), self.clock_us, &|| ()).map(|_| ());
        self.take("expire", result, state, None)
    }

    /// The worker is started again in the same boot.
    fn restart(&mut self) -> Result<(), String> {
        if self.boot == 0 {
            return self.reboot(); // the device was never opened in this boot
        }
        self.openings += 1;
        let boot = Boot { number: self.boot, nonce: self.openings, lost_from: self.lost_from };
        self.lineage = recover(&self.disk, boot, self.budget)?;
        self.count("restart");
        self.require_log()?;
        self.opened();
        Ok(())
    }

    /// The machine is booted again, without a cut of the power.
    pub fn reboot(&mut self) -> Result<(), String> {
        self.openings += 1;
        let boot = Boot { number: 0, nonce: self.openings, lost_from: None };
        self.lineage = recover(&self.disk, boot, self.budget)?;
        self.boot = 0;
        self.count("reboot");
        self.require_log()?;
        if self.lineage.log().is_none() {
            return Ok(());
        }
        let mut last = String::new();
        for state in self.possible().into_iter().rev() {
            let mut rebooted = state.clone();
            rebooted.reboot();
            // If the end of its trial cannot be written, a later boot may find it written all the same.
            let found = match (rebooted.compare(&self.lineage), self.is_refused()) {
                (Ok(()), _) => Some((rebooted, None)),
                (Err(_), true) if self.shows(&state).is_ok() => Some((state, Some(rebooted))),
                (Err(why), _) => {
                    last = why;
                    None
                }
            };
            if let Some((state, doubtful)) = found {
                (self.doubtful, self.lost_from) = (doubtful.into_iter().collect(), self.lineage.lost_from());
                self.boot = self.lineage.log().map_or(0, |log| log.boot());
                self.acknowledge(state, None);
                return Ok(());
            }
        }
        Err(format!("after a reboot: {last}"))
    }

    /// Checks that the log is usable, unless the device has failed.
    fn require_log(&self) -> Result<(), String> {
        match self.lineage.refusal() {
            None => Ok(()),
            Some(_) if self.disk.failures() > 0 => Ok(()),
            Some(why) => Err(why.text.clone()),
        }
    }
}

/// Number of calls of each kind in a history without a failure.
///
/// # Errors
/// What the machine does wrong.
pub fn calls(seed: u64, steps: usize) -> Result<[(Call, u64); 3], String> {
    let mut world = World::new(seed, None)?;
    for _ in 0..steps {
        world.step()?;
    }
    Ok([Call::Read, Call::Write, Call::Flush].map(|call| (call, world.disk.calls(call))))
}
