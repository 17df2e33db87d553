//! Counters and times that supervisor and worker share, in the words after the device page.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::hw_mmio;
use crate::journal::{ring, JournalLoss, JournalReason};

/// Phases of a start, in order.
pub const PHASES: [&str; 6] = ["start", "mounts", "runtime", "tensors", "evolution", "heartbeat"];

const BUCKETS: usize = 480;
const PHASE_WORDS: usize = BUCKETS;
const SUPERVISOR_PID: usize = PHASE_WORDS + 2 * PHASES.len();
const SUPERVISOR_ANON_KIB: usize = SUPERVISOR_PID + 1;
const WORKER_ANON_KIB: usize = SUPERVISOR_PID + 2;
const WORKER_PROGRESS: usize = SUPERVISOR_PID + 3;
const START_US: usize = SUPERVISOR_PID + 4;
const PROMOTED: usize = START_US + 2;
const ROLLED_BACK: usize = PROMOTED + 2;
const ENERGY_MILLI: usize = ROLLED_BACK + 1;
const ENERGY_AT_US: usize = ENERGY_MILLI + 2;
const LEASE_UNTIL: usize = ENERGY_AT_US + 2;
const PROGRAMS: usize = LEASE_UNTIL + 2;
const APPLIANCE: usize = PROGRAMS + 2;
const MUTATION_KEY: usize = APPLIANCE + 4;
const BOOT: usize = MUTATION_KEY + 8;
const JOURNAL_LOST_FROM: usize = BOOT + 2;
const MODEL_FILE: usize = JOURNAL_LOST_FROM + 2;
const KEYLESS: usize = MODEL_FILE + 8;
const SELF_TEST: usize = KEYLESS + 1;
/// The tries of the slot, plus 2; 1 once it was found good, 0 while nothing is known.
const BOOT_TRIES: usize = SELF_TEST + 1;
const FELL_BACK: usize = BOOT_TRIES + 1;
const BOOT_PROBLEM: usize = FELL_BACK + TEXT_WORDS;
const JOURNAL_GONE: usize = BOOT_PROBLEM + TEXT_WORDS;
const STATE_BYTES: usize = JOURNAL_GONE + 1;
/// Words of a text, which ends with a zero byte or with its last word.
const TEXT_WORDS: usize = 52;

/// First of the words that hold the ring of journal records.
pub const RING_WORD: usize = 2 * hw_mmio::WORDS;
/// The number of shared words: the device page, one page of vitals, and the ring with the confidences of its records.
pub const SHARED_WORDS: usize = RING_WORD + ring::WORDS;

/// A view of the vitals.
#[derive(Clone, Copy)]
pub struct Vitals<'a>(&'a [AtomicU32]);

impl<'a> Vitals<'a> {
    /// The vitals in memory of [`SHARED_WORDS`] words.
    pub fn new(words: &'a [AtomicU32]) -> Self {
        Vitals(words.get(hw_mmio::WORDS..RING_WORD).unwrap_or(&[]))
    }

    fn get(&self, at: usize) -> u32 {
        self.0.get(at).map_or(0, |cell| cell.load(Relaxed))
    }

    fn set(&self, at: usize, value: u32) {
        if let Some(cell) = self.0.get(at) {
            cell.store(value, Relaxed);
        }
    }

    fn wide(&self, at: usize) -> u64 {
        u64::from(self.get(at)) | u64::from(self.get(at + 1)) << 32
    }

    fn set_wide(&self, at: usize, value: u64) {
        self.set(at, value as u32);
        self.set(at + 1, (value >> 32) as u32);
    }

    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        for (word, place) in (at..).zip(bytes.chunks_exact_mut(4)) {
            place.copy_from_slice(&self.get(word).to_le_bytes());
        }
        Some(bytes).filter(|bytes| *bytes != [0; N])
    }

    fn set_bytes(&self, at: usize, bytes: &[u8]) {
        for (word, place) in (at..).zip(bytes.chunks_exact(4)) {
            self.set(word, place.try_into().map_or(0, u32::from_le_bytes));
        }
    }

    /// Counts one beat that came `late_us` microseconds late.
    pub fn count_beat(&self, late_us: u32) {
        let at = bucket(late_us);
        self.set(at, self.get(at).saturating_add(1));
    }

    /// The quantile `per_mille` / 1000 of the beats' lateness in microseconds, with an error of up to 6 %.
    pub fn lateness_us(&self, per_mille: u32) -> u32 {
        let total: u64 = (0..BUCKETS).map(|at| u64::from(self.get(at))).sum();
        let wanted = (total * u64::from(per_mille)).div_ceil(1000);
        let mut seen = 0;
        (0..BUCKETS)
            .find(|at| {
                seen += u64::from(self.get(*at));
                seen >= wanted
            })
            .map_or(0, upper_edge)
    }

    /// Notes when a phase was reached, in microseconds from the start of the process.
    pub fn reach_phase(&self, phase: usize, us: u64) {
        self.set_wide(PHASE_WORDS + 2 * phase.min(PHASES.len() - 1), us + 1);
    }

    /// When a phase was reached; `None` if it was not.
    pub fn phase_us(&self, phase: usize) -> Option<u64> {
        self.wide(PHASE_WORDS + 2 * phase.min(PHASES.len() - 1)).checked_sub(1)
    }

    /// Notes the supervisor's process id and when it started, in microseconds of the monotonic clock.
    pub fn start(&self, pid: u32, monotonic_us: u64) {
        self.set(SUPERVISOR_PID, pid);
        self.set_wide(START_US, monotonic_us);
    }

    /// The supervisor's process id.
    pub fn supervisor_pid(&self) -> u32 {
        self.get(SUPERVISOR_PID)
    }

    /// When the supervisor started, in microseconds of the monotonic clock.
    pub fn start_us(&self) -> u64 {
        self.wide(START_US)
    }

    /// Notes the anonymous and shared memory of supervisor and worker, in KiB.
    pub fn set_memory_kib(&self, supervisor: u32, worker: u32) {
        self.set(SUPERVISOR_ANON_KIB, supervisor);
        self.set(WORKER_ANON_KIB, worker);
    }

    /// The memory last noted, supervisor and worker, in KiB.
    pub fn memory_kib(&self) -> (u32, u32) {
        (self.get(SUPERVISOR_ANON_KIB), self.get(WORKER_ANON_KIB))
    }

    /// The newest promoted generation.
    pub fn promoted(&self) -> u64 {
        self.wide(PROMOTED)
    }

    /// Notes the newest promoted generation.
    pub fn set_promoted(&self, generation: u64) {
        self.set_wide(PROMOTED, generation);
    }

    /// When the open trial ends, in microseconds of the monotonic clock; 0 if none is open.
    pub fn lease_until_us(&self) -> u64 {
        self.wide(LEASE_UNTIL)
    }

    /// Notes when the open trial ends; 0 if none is open.
    pub fn set_lease_until(&self, us: u64) {
        self.set_wide(LEASE_UNTIL, us);
    }

    /// How many times the weights were rolled back.
    pub fn rolled_back(&self) -> u32 {
        self.get(ROLLED_BACK)
    }

    /// Counts a rollback.
    pub fn count_rollback(&self) {
        self.set(ROLLED_BACK, self.rolled_back().saturating_add(1));
    }

    /// How many pixel programs have run to their end.
    pub fn programs(&self) -> u64 {
        self.wide(PROGRAMS)
    }

    /// Counts a pixel program that has run to its end.
    pub fn count_program(&self) {
        self.set_wide(PROGRAMS, self.programs().saturating_add(1));
    }

    /// The id by which signed changes name this machine; `None` until one was noted.
    pub fn appliance(&self) -> Option<[u8; 16]> {
        self.bytes(APPLIANCE)
    }

    /// Notes the id of this machine.
    pub fn set_appliance(&self, id: &[u8; 16]) {
        self.set_bytes(APPLIANCE, id);
    }

    /// The public key that changes must be signed with; `None` if a worker has noted none.
    pub fn mutation_key(&self) -> Option<[u8; 32]> {
        self.bytes(MUTATION_KEY)
    }

    /// Notes the public key that changes must be signed with, for workers that cannot read the model.
    pub fn set_mutation_key(&self, key: &[u8; 32]) {
        self.set_bytes(MUTATION_KEY, key);
    }

    /// Whether a worker has read the model, and it has no key.
    pub fn is_keyless(&self) -> bool {
        self.get(KEYLESS) != 0
    }

    /// Notes that the model has no key, for workers that cannot read it.
    pub fn set_keyless(&self) {
        self.set(KEYLESS, 1);
    }

    /// The number of this boot in the journal on the state device; 0 if the device was not opened in this boot.
    pub fn boot(&self) -> u64 {
        self.wide(BOOT)
    }

    /// Notes the number of this boot.
    pub fn set_boot(&self, number: u64) {
        self.set_wide(BOOT, number);
    }

    /// What the state device has lost in this boot, if it has failed.
    pub fn journal_loss(&self) -> Option<JournalLoss> {
        let from = self.wide(JOURNAL_LOST_FROM).checked_sub(1)?;
        let reason = if self.get(JOURNAL_GONE) == 0 { JournalReason::Io } else { JournalReason::Gone };
        Some(JournalLoss { from, reason })
    }

    /// Notes that the state device has failed.
    pub fn set_journal_loss(&self, loss: JournalLoss) {
        self.set(JOURNAL_GONE, u32::from(loss.reason == JournalReason::Gone));
        self.set_wide(JOURNAL_LOST_FROM, loss.from + 1);
    }

    /// The bytes that the state device had when it was opened first in this boot; `None` if it was not opened.
    pub fn state_bytes(&self) -> Option<u64> {
        Some(self.wide(STATE_BYTES)).filter(|bytes| *bytes != 0)
    }

    /// Notes how many bytes the state device has.
    pub fn set_state_bytes(&self, bytes: u64) {
        self.set_wide(STATE_BYTES, bytes);
    }

    /// SHA-256 of the model's file, once a worker has noted it.
    pub fn model_file_sha256(&self) -> Option<[u8; 32]> {
        self.bytes(MODEL_FILE)
    }

    /// Notes the SHA-256 of the model's file.
    pub fn set_model_file_sha256(&self, digest: &[u8; 32]) {
        self.set_bytes(MODEL_FILE, digest);
    }

    /// The energy in thousandths when it was last noted, and when that was, in microseconds of the monotonic clock.
    pub fn energy(&self) -> (u64, u64) {
        (self.wide(ENERGY_MILLI), self.wide(ENERGY_AT_US))
    }

    /// Notes the energy.
    pub fn set_energy(&self, milli: u64, at_us: u64) {
        self.set_wide(ENERGY_MILLI, milli);
        self.set_wide(ENERGY_AT_US, at_us);
    }

    /// The result of the worker's self-test: `None` until there is one.
    pub fn self_test(&self) -> Option<bool> {
        self.get(SELF_TEST).checked_sub(1).map(|good| good != 0)
    }

    /// Notes the result of a self-test, or that there is none.
    pub fn set_self_test(&self, good: Option<bool>) {
        self.set(SELF_TEST, good.map_or(0, |good| 1 + u32::from(good)));
    }

    /// The tries that the slot which runs has left, `Some(None)` once it was found good; `None` while nothing is known.
    pub fn boot_tries(&self) -> Option<Option<u32>> {
        match self.get(BOOT_TRIES) {
            0 => None,
            1 => Some(None),
            tries => Some(Some(tries - 2)),
        }
    }

    /// Notes the tries that the slot which runs has left, or that it was found good; and why it runs if it is not the default.
    pub fn set_boot_state(&self, tries: Option<u32>, fell_back: &str) {
        self.set_text(FELL_BACK, fell_back);
        self.set(BOOT_TRIES, tries.map_or(1, |tries| tries.saturating_add(2)));
    }

    /// Why another slot than the default one runs; empty if the default one does.
    pub fn fell_back(&self) -> String {
        self.text(FELL_BACK)
    }

    /// Why the slot that runs could not be found good; empty if nothing stands against it.
    pub fn boot_problem(&self) -> String {
        self.text(BOOT_PROBLEM)
    }

    /// Notes why the slot that runs could not be found good.
    pub fn set_boot_problem(&self, why: &str) {
        self.set_text(BOOT_PROBLEM, why);
    }

    fn text(&self, at: usize) -> String {
        let bytes = (at..at + TEXT_WORDS).flat_map(|word| self.get(word).to_le_bytes());
        let text = bytes.take_while(|byte| *byte != 0);
        text.map(|byte| if byte == b' ' || byte.is_ascii_graphic() { char::from(byte) } else { '?' }).collect()
    }

    fn set_text(&self, at: usize, text: &str) {
        let mut bytes = text.bytes().chain(std::iter::repeat(0));
        for word in at..at + TEXT_WORDS {
            self.set(word, u32::from_le_bytes([0; 4].map(|_: u8| bytes.next().unwrap_or(0))));
        }
    }

    /// Notes that the worker is alive.
    pub fn make_progress(&self) {
        self.set(WORKER_PROGRESS, self.get(WORKER_PROGRESS).wrapping_add(1));
    }

    /// A number that changes while the worker is alive.
    pub fn progress(&self) -> u32 {
        self.get(WORKER_PROGRESS)
    }
}

/// Buckets of 1 µs up to 16 µs, then 16 to each power of two.
fn bucket(value: u32) -> usize {
    if value < 16 {
        return value as usize;
    }
    let shift = 27 - value.leading_zeros(); // keeps the 5 highest bits of the value
    (16 * shift + (value >> shift)) as usize
}

/// The largest value of a bucket.
fn upper_edge(bucket: usize) -> u32 {
    let bucket = bucket as u64;
    if bucket < 32 {
        return bucket as u32;
    }
    let shift = bucket / 16 - 1;
    (((bucket % 16 + 17) << shift) - 1).min(u64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests;
