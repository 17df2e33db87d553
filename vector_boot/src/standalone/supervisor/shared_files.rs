//! The memory files that outlive every worker.

use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::hw_mmio::{word, Page};
use crate::machine::ENERGY_CAPACITY_MILLI;
use crate::sys::memory::{growing_file, SharedWords};
use crate::sys::process;
use crate::vitals::{Vitals, SHARED_WORDS};

/// What supervisor and workers share, and what outlives every worker.
pub struct SharedFiles {
    /// The shared words.
    pub words: SharedWords,
    /// The memory file of `words`.
    pub words_file: OwnedFd,
    /// The memory file of the journal.
    pub journal: OwnedFd,
}

/// Makes shared words with an initialised device page, and an empty journal.
pub fn share(period: Duration, start_us: u64) -> Result<SharedFiles, String> {
    let (words, words_file) = SharedWords::create(c"hw.mmio", SHARED_WORDS)
        .map_err(|error| format!("shared memory cannot be made: {error}"))?;
    let page = Page::new(words.words());
    page.initialise();
    page.set(word::PERIOD_MS, u32::try_from(period.as_millis()).unwrap_or(u32::MAX));
    page.set(word::ENERGY, (ENERGY_CAPACITY_MILLI / 1000) as u32);
    let vitals = Vitals::new(words.words());
    vitals.set_energy(ENERGY_CAPACITY_MILLI, start_us);
    vitals.start(process::own_pid(), start_us);
    vitals.reach_phase(0, 0);
    let journal =
        growing_file(c"journal").map_err(|error| format!("the journal's memory file cannot be made: {error}"))?;
    Ok(SharedFiles { words, words_file, journal })
}
