//! A random history of a machine: requests, reboots and restarts, each compared with what it must do.

mod boots;
mod changes;

use std::collections::BTreeMap;

use vector_boot::journal::device::simulated::{Call, Disk, Event, Fault};
use vector_boot::journal::JournalReason;
use vector_boot::lineage::{Budget, Lineage, LineageError};
use vector_boot::sys::allocations::{counted, failures};

use crate::expected::State;
use crate::random::Random;
use crate::tiny::{recover, Boot, Request, DEVICE};
use crate::witness::Witness;

/// Microseconds between two steps.
const STEP_US: u64 = 1000;
/// One request in so many has a large blob: in half of the histories old entries are often removed for one.
const LARGE_IN: [usize; 2] = [30, 6];

/// What was known at a number of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// Who is told what is done.
    witness: Option<Witness>,
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
    /// Whether nothing was written that can be lost: reads fail, or allocations.
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
        Self::watched(seed, fault, None)
    }

    /// The same; the witness is told what is done.
    ///
    /// # Errors
    /// What the machine does wrong.
    pub fn watched(seed: u64, fault: Option<Fault>, witness: Option<Witness>) -> Result<Self, String> {
        let (disk, mut random) = (Disk::blank(DEVICE), Random::new(seed));
        disk.fail(fault);
        let budget = budget(&mut random);
        let boot = Boot { number: 0, nonce: seed << 32, lost_from: None };
        let device = witness.as_ref().map_or_else(|| disk.handle(), |witness| witness.handle(&disk));
        let lineage = counted(|| recover(device, boot, budget))?;
        let history = History {
            events: Vec::new(),
            states: vec![State::fresh()],
            requests: vec![None],
            acknowledged: vec![Acknowledged { events: 0, state: 0, boot: 0 }],
            done: BTreeMap::new(),
        };
        let mut world = World {
            disk,
            witness,
            lineage,
            random,
            budget,
            boot: 0,
            lost_from: None,
            openings: seed << 32,
            clock_us: STEP_US,
            numbers: seed << 20,
            large_in: LARGE_IN[seed as usize % 2],
            only_reads_fail: fault.is_none_or(|fault| fault.call == Call::Read),
            refused: false,
            doubtful: Vec::new(),
            history,
        };
        world.opened()?;
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

    fn acknowledge(&mut self, state: State, request: Option<Request>) -> Result<(), String> {
        self.history.states.push(state);
        self.history.requests.push(request);
        self.note()
    }

    fn note(&mut self) -> Result<(), String> {
        let (events, state) = (self.disk.events(), self.history.states.len() - 1);
        self.history.acknowledged.push(Acknowledged { events, state, boot: self.boot });
        let told = self.witness.as_ref().map_or(Ok(()), |witness| witness.acknowledged(state, self.boot));
        told.map_err(|error| error.to_string())
    }

    fn opened(&mut self) -> Result<(), String> {
        self.boot = self.lineage.log().map_or(0, |log| log.boot());
        self.note()
    }

    /// Whether a call of the device or an allocation has failed.
    fn has_failed(&self) -> bool {
        self.disk.failures() > 0 || failures() > 0
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
                self.acknowledge(state, request)
            }
            Err(LineageError::UnknownGeneration(_)) if self.refused && self.has_failed() => {
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
                JournalReason::Io | JournalReason::ReadOnly if self.has_failed() => {
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
