//! Level A: every state that a cut of the power can leave, of random histories.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use vector_boot::journal::device::frame::HEAD;
use vector_boot::journal::device::simulated::{apply, Cut, Disk, Event, SECTOR};
use vector_boot::journal::format::{frame, FRAME_MAGIC};
use vector_boot::journal::JournalReason;
use vector_boot::lineage::{Budget, LineageError};

use crate::expected::State;
use crate::history::{Acknowledged, History, World};
use crate::random::Random;
use crate::tiny::{recover, Boot, Request, DEVICE};

/// Steps of a history.
const STEPS: usize = 60;
/// Sectors of which all subsets are tried.
const ALL_SUBSETS: usize = 8;
/// Random subsets of more sectors.
const RANDOM_SUBSETS: usize = 24;
/// One in so many states is gone on from, and cut again.
const AGAIN: usize = 16;

/// What was tried.
#[derive(Default)]
pub struct Tally {
    /// States that were recovered from.
    pub states: u64,
    /// Histories.
    pub histories: u64,
    /// What was wrong, with the seed.
    pub violations: Vec<String>,
    /// How often each kind of step was done.
    pub done: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// Whether there are so many violations that more would say nothing new.
    pub fn is_enough(&self) -> bool {
        self.violations.len() >= 5
    }

    /// Adds what another one tells.
    pub fn add(&mut self, other: Tally) {
        self.states += other.states;
        self.histories += other.histories;
        self.violations.extend(other.violations);
        other.done.into_iter().for_each(|(what, count)| *self.done.entry(what).or_default() += count);
    }
}

/// Tries all states of the histories with these seeds until `limit` states were tried.
pub fn run(seeds: impl Iterator<Item = u64>, limit: u64, tried: &AtomicU64, tally: &mut Tally) {
    for seed in seeds {
        if tried.load(Relaxed) >= limit || tally.is_enough() {
            return;
        }
        let before = tally.states;
        if let Err(why) = history(seed, limit.saturating_sub(tried.load(Relaxed)), tally) {
            tally.violations.push(format!("seed {seed}: {why}"));
        }
        tried.fetch_add(tally.states - before, Relaxed);
        tally.histories += 1;
    }
}

fn history(seed: u64, limit: u64, tally: &mut Tally) -> Result<(), String> {
    let mut world = World::new(seed, None)?;
    for step in 0..STEPS {
        world.step().map_err(|why| format!("step {step}: {why}"))?;
    }
    let history = world.finish();
    history.done.iter().for_each(|(what, count)| *tally.done.entry(what).or_default() += count);
    let mut checker = Checker::new(&history, seed);
    let start = tally.states;
    let (mut certain, mut open) = (vec![0; DEVICE], Vec::<&Event>::new());
    for (number, event) in history.events.iter().enumerate() {
        match event {
            Event::Flush | Event::FailedFlush => {
                open.drain(..).for_each(|event| apply(&mut certain, event));
                checker.check(certain.clone(), number + 1).map_err(|why| format!("event {number}: {why}"))?;
                tally.states += 1;
            }
            _ => {
                open.push(event);
                tally.states += checker.subsets(&certain, &open, number + 1)?;
            }
        }
        if tally.states - start >= limit {
            break;
        }
    }
    Ok(())
}

/// Compares what is recovered with a history.
pub struct Checker<'a> {
    history: &'a History,
    random: Random,
    /// Digests of all frames that were written.
    frames: HashSet<[u8; 32]>,
    openings: u64,
    checked: usize,
}

impl<'a> Checker<'a> {
    /// That of a history with this seed.
    pub fn new(history: &'a History, seed: u64) -> Self {
        let frames = history.events.iter().filter_map(digest_of).collect();
        Checker {
            history,
            random: Random::new(seed ^ 0xC0FF_EE00),
            frames,
            openings: (seed << 32) | 1 << 31,
            checked: 0,
        }
    }

    /// All subsets of the sectors of the open writes that differ from what is there, or as many as are worth it.
    fn subsets(&mut self, certain: &[u8], open: &[&Event], events: usize) -> Result<u64, String> {
        let mut newest = certain.to_vec();
        open.iter().for_each(|event| apply(&mut newest, event));
        let differing = |at: &usize| certain[*at..*at + SECTOR] != newest[*at..*at + SECTOR];
        let sectors: Vec<usize> = (0..DEVICE).step_by(SECTOR).filter(differing).collect();
        let masks = self.masks(&sectors);
        for mask in &masks {
            let mut bytes = certain.to_vec();
            for (at, _) in sectors.iter().zip(mask).filter(|(_, written)| **written) {
                bytes[*at..*at + SECTOR].copy_from_slice(&newest[*at..*at + SECTOR]);
            }
            let written = || mask.iter().map(|written| if *written { '1' } else { '0' }).collect::<String>();
            self.check(bytes, events).map_err(|why| format!("event {}, sectors {}: {why}", events - 1, written()))?;
        }
        Ok(masks.len() as u64)
    }

    fn masks(&mut self, sectors: &[usize]) -> Vec<Vec<bool>> {
        let count = sectors.len();
        if count <= ALL_SUBSETS {
            return (0..1usize << count).map(|mask| (0..count).map(|n| mask >> n & 1 == 1).collect()).collect();
        }
        let mut masks: Vec<Vec<bool>> = (0..=count).map(|torn| (0..count).map(|n| n < torn).collect()).collect();
        masks.extend((1..count).map(|torn| (0..count).map(|n| n >= torn).collect()));
        masks.extend((0..count).map(|missing| (0..count).map(|n| n != missing).collect()));
        let mut blocks: Vec<usize> = sectors.iter().map(|at| at / 4096).collect();
        blocks.dedup();
        let place = |at: &usize| blocks.iter().position(|block| *block == at / 4096).unwrap_or(0);
        masks.extend(
            (1..1usize << blocks.len().min(6))
                .map(|mask| sectors.iter().map(|at| mask >> (place(at) % 6) & 1 == 1).collect()),
        );
        masks.extend((0..RANDOM_SUBSETS).map(|_| (0..count).map(|_| self.random.next() & 1 == 1).collect()));
        masks
    }

    /// Recovers from these contents of the disk, which were left after so many events.
    fn check(&mut self, bytes: Vec<u8>, events: usize) -> Result<(), String> {
        let known = self.history.acknowledged.iter().rev().find(|known| known.events <= events);
        let known = *known.ok_or("nothing is known")?;
        self.checked += 1;
        if self.checked % 8 == 1 && known.boot != 0 {
            self.check_restart(&bytes, self.states(known), known)?;
        }
        self.check_known(bytes, known, self.checked.is_multiple_of(AGAIN))
    }

    /// The states that may be, where this was acknowledged: each follows the one before.
    pub fn states(&self, known: Acknowledged) -> &'a [State] {
        let next = self.history.acknowledged.iter().find(|later| later.state > known.state);
        &self.history.states[known.state..next.map_or(self.history.states.len(), |next| next.state + 1)]
    }

    /// Boots from these contents of the disk, where this was acknowledged; goes on, and cuts that again, if it is told to.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check_known(&mut self, bytes: Vec<u8>, known: Acknowledged, again: bool) -> Result<(), String> {
        let disk = Disk::new(bytes);
        let (index, state) = reboot(&disk, self.states(known), self.boot(0))?;
        if again {
            let lost = if index == 0 { self.history.requests.get(known.state + 1).cloned().flatten() } else { None };
            self.go_on(&disk, &state, lost)?;
        }
        Ok(())
    }

    fn boot(&mut self, number: u64) -> Boot {
        self.openings += 1;
        Boot { number, nonce: self.openings, lost_from: None }
    }

    /// A worker that died: another one goes on, with the trial.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check_restart(&mut self, bytes: &[u8], states: &[State], known: Acknowledged) -> Result<(), String> {
        let boot = self.boot(known.boot);
        let lineage = recover(Disk::new(bytes.to_vec()).handle(), boot, budget())?;
        if let Some(why) = lineage.refusal() {
            return Err(format!("a new worker refuses: {}", why.text));
        }
        let results: Vec<_> = states.iter().map(|state| state.compare(&lineage)).collect();
        match results.iter().any(Result::is_ok) {
            true => Ok(()),
            false => Err(format!("a new worker finds no state that may be: {results:?}")),
        }
    }

    /// Repeats the request that was lost, or makes another change, and cuts that again.
    fn go_on(&mut self, disk: &Disk, state: &State, lost: Option<Request>) -> Result<(), String> {
        let again = Disk::new(disk.bytes());
        let boot = self.boot(0);
        let mut lineage = recover(again.handle(), boot, budget())?;
        let mut after = state.clone();
        let new = || Request::draw(&mut Random::new(self.openings), u64::MAX / 2, None, 30);
        let request = Request { lease_until_us: None, ..lost.unwrap_or_else(new) };
        after.mutate(&request);
        let large = request.unused > 0;
        match request.add(&mut lineage).and_then(|()| lineage.commit()) {
            Ok(()) => (),
            // A boot writes entries of its own: what did fit may not fit beside two images any more.
            Err(LineageError::Journal(error)) if large && error.reason == JournalReason::Full => return Ok(()),
            Err(why) => return Err(format!("after a reboot: {why:?}")),
        }
        after.compare(&lineage)?;
        let events = again.record();
        let (old, frames) = (disk.bytes(), &self.frames);
        let is_new =
            |event: &&Event| matches!(event, Event::Write(at, bytes) if !old[*at as usize..].starts_with(bytes));
        if events.iter().filter(is_new).filter_map(digest_of).any(|digest| frames.contains(&digest)) {
            return Err("a frame was written that is equal to one of an earlier boot".into());
        }
        for cut in 0..=events.len() {
            let state_cut = Cut::new(disk.bytes(), &events, cut);
            let bytes = state_cut.contents(|_| self.random.next() & 1 == 1);
            let states = [state.clone(), after.clone()];
            let least = usize::from(cut == events.len());
            let boot = self.boot(0);
            reboot(&Disk::new(bytes), &states[least..], boot).map_err(|why| format!("cut again at {cut}: {why}"))?;
        }
        Ok(())
    }
}

/// Boots from a disk that must be in one of these states, of which each follows the one before. Returns which it is in, and
/// the state after the boot.
///
/// # Errors
/// If it is in none of them.
pub fn reboot(disk: &Disk, states: &[State], boot: Boot) -> Result<(usize, State), String> {
    let lineage = recover(disk.handle(), boot, budget())?;
    if let Some(why) = lineage.refusal() {
        return Err(format!("a reboot refuses: {}", why.text));
    }
    let mut results = Vec::new();
    for (index, state) in states.iter().enumerate() {
        let mut rebooted = state.clone();
        rebooted.reboot();
        let later = states.get(index + 1).filter(|later| later.generation > state.generation);
        let nothing_more = || later.map_or(Ok(()), |later| rebooted.nothing_of(later, &lineage));
        match rebooted.compare(&lineage).and_then(|()| nothing_more()) {
            Ok(()) => return Ok((index, rebooted)),
            Err(why) => results.push(why),
        }
    }
    Err(format!("a reboot finds no state that may be: {results:?}"))
}

fn budget() -> Budget {
    Budget { undo: 1 << 20, log: 1 << 20, log_limit: u64::MAX, available: || 0 }
}

fn digest_of(event: &Event) -> Option<[u8; 32]> {
    match event {
        Event::Write(_, bytes) if bytes.starts_with(&FRAME_MAGIC) => bytes[frame::DIGEST..HEAD].try_into().ok(),
        _ => None,
    }
}
