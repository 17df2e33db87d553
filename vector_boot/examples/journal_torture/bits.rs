//! Level C: every bit of the superblocks and of a log is flipped.

use vector_boot::journal::device::simulated::Disk;
use vector_boot::journal::format::{AREA_START, BLOCK};
use vector_boot::journal::JournalReason;

use crate::cuts::Tally;
use crate::expected::State;
use crate::history::{budget, World};
use crate::random::Random;
use crate::tiny::{recover, Boot, AREA_BLOCKS};

/// Bytes of the log that is flipped, at least.
const LOG: u64 = 64 << 10;
/// Steps of a history.
const STEPS: usize = 80;

/// A disk with a log, and what is known of it.
pub struct Subject {
    disk: Disk,
    seed: u64,
    /// The state that it holds, and the one without its last frame.
    newest: State,
    before: State,
    /// Where the log and its last frame are on the disk.
    log: std::ops::Range<u64>,
    last: u64,
}

/// The disk of the first history from this seed on whose log has its length before the ring turns.
///
/// # Errors
/// What the machine does wrong.
pub fn subject(seed: u64) -> Result<Subject, String> {
    for seed in seed..seed + 1000 {
        if let Some(subject) = subject_of(seed)? {
            return Ok(subject);
        }
    }
    Err("no log was long enough".into())
}

fn subject_of(seed: u64) -> Result<Option<Subject>, String> {
    let mut world = World::new(seed, None)?;
    for _ in 0..STEPS {
        let (before, end) = (world.possible()[0].clone(), world.log().1);
        world.step()?;
        let (newest, (start, after)) = (world.possible()[0].clone(), world.log());
        let one = newest.generation == before.generation + 1 && after > end && after - end <= 2 * BLOCK;
        let plain = newest.lease_until_us.is_none() && before.lease_until_us.is_none();
        if one && plain && after - start >= LOG && after <= (AREA_BLOCKS as u64) * BLOCK {
            let log = AREA_START + start..AREA_START + after;
            let disk = world.disk().clone();
            return Ok(Some(Subject { disk, seed, newest, before, log, last: AREA_START + end }));
        }
    }
    Ok(None)
}

impl Subject {
    /// All bits, by number.
    pub fn bits(&self) -> Vec<u64> {
        (0..8 * AREA_START).chain(8 * self.log.start..8 * self.log.end).collect()
    }

    /// Flips a bit.
    pub fn flip(&self, bit: u64, tally: &mut Tally) {
        let change = |bytes: &mut Vec<u8>| bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
        self.disk.alter(change);
        match self.judge(bit / 8) {
            Ok(what) => *tally.done.entry(what).or_default() += 1,
            Err(why) => tally.violations.push(format!("seed {}, bit {bit}: {why}", self.seed)),
        }
        self.disk.alter(change);
        tally.states += 1;
    }

    fn judge(&self, byte: u64) -> Result<&'static str, String> {
        let boot = Boot { number: 0, nonce: 1 << 60, lost_from: None };
        let lineage = recover(self.disk.handle(), boot, budget(&mut Random::new(1)))?;
        if let Some(why) = lineage.refusal() {
            let base = State::fresh().compare(&lineage);
            return match why.reason {
                JournalReason::Damaged if byte >= AREA_START => {
                    base.map(|()| "refused as damaged, with the base weights")
                }
                _ => Err(format!("refused: {}", why.text)),
            };
        }
        let Err(why) = self.newest.compare(&lineage) else { return Ok("harmless: every change is there") };
        if byte < self.last {
            return Err(why);
        }
        self.before.compare(&lineage).map(|()| "in the last frame: all changes before it are there")
    }
}

impl World {
    /// Start and end of the log.
    fn log(&self) -> (u64, u64) {
        self.lineage().log().map_or((0, 0), |log| (log.start(), log.end()))
    }
}
