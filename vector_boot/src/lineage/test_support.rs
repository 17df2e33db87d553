//! Weights with a history over a model of one tensor, for the tests of this module.

use std::fs::File;

use super::*;
use crate::journal::log::Log;
use crate::mutation::apply::apply;
use crate::mutation::plan::plan;
use crate::mutation::request::parse_edits;
use crate::sys::memory::memory_file;
use crate::tensor::tests::{file, load};

pub(super) const ELEMENTS: u64 = 64 << 10;

pub(super) struct Harness {
    pub(super) journal: File,
    pub(super) budget: Budget,
    pub(super) lineage: Lineage,
}

pub(super) fn quiet() {}

pub(super) fn recover(journal: &File, budget: Budget) -> Lineage {
    let store = load(file("w", ELEMENTS, false)).unwrap();
    recover_from(Log::in_memory(journal.try_clone().unwrap().into()), store, budget)
}

pub(super) fn recover_from(log: Result<Box<dyn Journal>, JournalError>, store: Store, budget: Budget) -> Lineage {
    let seen = &mut |_: &_| ();
    let recovery = Recovery { budget, lost_from: None, opened_before: true, uptime_us: 0, progress: &quiet, seen };
    Lineage::recover(store, log, recovery)
}

impl Harness {
    pub(super) fn new(undo: usize, log: u64) -> Self {
        let journal = File::from(memory_file(c"test").unwrap());
        let budget = Budget { undo, log, log_limit: 1 << 30, available: || 0 };
        Harness { lineage: recover(&journal, budget), journal, budget }
    }

    /// Recovers the lineage from the journal, as a new worker does.
    pub(super) fn restart(&mut self) {
        self.lineage = recover(&self.journal, self.budget);
    }

    /// Writes `value` to 100 elements from `offset` on, in a batch of its own.
    pub(super) fn mutate(&mut self, offset: u64, value: u8, lease_until_us: Option<u64>) -> Result<(), LineageError> {
        self.add(offset, value, lease_until_us)?;
        self.lineage.commit()
    }

    /// The same in the open batch.
    pub(super) fn add(&mut self, offset: u64, value: u8, lease_until_us: Option<u64>) -> Result<(), LineageError> {
        let edits = format!(r#"[{{"kind":"dense","tensor":"w","offset":{offset},"blob":[0,100]}}]"#);
        let blob = [value; 100];
        let parsed = parse_edits(serde_json::from_str(&edits).unwrap()).unwrap();
        let plan = plan(self.lineage.store(), &parsed, &blob).unwrap();
        let mut change = self.lineage.store_mut().memory_mut().begin();
        apply(&plan, &mut change, &quiet).unwrap();
        let before = change.commit();
        let id = [(self.lineage.generation() as u8).wrapping_add(1); 16];
        let asked = ChangeRequest { id, changed_bytes: 100, ..ChangeRequest::default() };
        let payload = MutationPayload { edits: edits.as_bytes(), reply: b"", blob: &blob };
        self.lineage.add_mutation(asked, before, lease_until_us, &payload, 0)
    }

    pub(super) fn roll_back(&mut self, to: u64) -> Result<(), LineageError> {
        self.lineage.roll_back(EntryKind::Rollback, ChangeRequest::default(), to, &quiet)
    }

    pub(super) fn contents(&self) -> Vec<u8> {
        let store = self.lineage.store();
        store.bytes(store.find("w").unwrap()).unwrap().to_vec()
    }

    /// Ten generations, and the contents of each.
    pub(super) fn ten(&mut self) -> Vec<Vec<u8>> {
        let mut states = vec![self.contents()];
        for number in 1..=10 {
            self.mutate(number * 5000, number as u8, None).unwrap();
            states.push(self.contents());
        }
        states
    }
}

/// A machine that can be started again.
pub(super) trait Machine {
    fn harness(&mut self) -> &mut Harness;
    fn start_again(&mut self, random: &mut Random);
}

impl Machine for Harness {
    fn harness(&mut self) -> &mut Harness {
        self
    }

    fn start_again(&mut self, _: &mut Random) {
        self.restart();
    }
}

/// Numbers that look random, the same every time.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Random changes, also returns to one of the newest `reach` generations; after each the weights must be those that the
/// generation had when it was made. Returns how many generations there are.
pub(super) fn walk(machine: &mut impl Machine, steps: u64, reach: u64) -> u64 {
    let mut random = Random(0x2545_F491_4F6C_DD1D);
    let mut states = vec![machine.harness().contents()];
    for step in 0..steps {
        let harness = machine.harness();
        let generation = harness.lineage.generation();
        match random.below(40) {
            0 | 1 => {
                let to = generation - random.below(reach.min(generation + 1));
                match harness.roll_back(to) {
                    Ok(()) => states.push(states[to as usize].clone()),
                    Err(error) => assert!(matches!(error, LineageError::UnknownGeneration(_)), "{error:?}"),
                }
            }
            2 => harness.lineage.checkpoint().unwrap(),
            3 => machine.start_again(&mut random),
            _ => {
                harness.lineage.require_room(300, 8192).unwrap();
                harness.mutate(random.below(12) * 5000, random.below(256) as u8, None).unwrap();
                states.push(harness.contents());
            }
        }
        assert_eq!(machine.harness().lineage.generation() as usize + 1, states.len(), "step {step}");
        assert!(machine.harness().contents() == *states.last().unwrap(), "step {step}");
    }
    machine.start_again(&mut random);
    assert!(machine.harness().contents() == *states.last().unwrap(), "after {steps} steps");
    states.len() as u64
}
