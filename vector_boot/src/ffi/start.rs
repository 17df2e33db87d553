//! Makes a machine from a file or the built-in model, in memory of this process or in memory files that outlive it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use super::instance::Instance;
use super::tiny;
use crate::container_file::ContainerFile;
use crate::hw_mmio::{word, Page, State};
use crate::journal::log::Log;
use crate::machine::{Machine, Parts, Runtime, ENERGY_CAPACITY_MILLI};
use crate::model_file::{self, LoadedModel};
use crate::rts::hex;
use crate::sys::memory::{claim, duplicate, memory_file, SharedWords};
use crate::sys::{self, monotonic_us};
use crate::vitals::{Vitals, SHARED_WORDS};

/// The environment variable for what `vector_boot.energy` is on a kernel's command line: `off` makes changes free.
const ENERGY_VARIABLE: &str = "VECTOR_BOOT_ENERGY";

/// Memory files that outlive this process.
pub struct Files {
    weights: OwnedFd,
    journal: OwnedFd,
    words: OwnedFd,
}

impl Files {
    /// Duplicates the caller's descriptors.
    ///
    /// # Errors
    /// One sentence that names the descriptor that is not open.
    pub fn duplicate(weights: i32, journal: i32, words: i32) -> Result<Self, String> {
        let copy = |what: &str, fd: i32| {
            duplicate(fd).map_err(|error| format!("the descriptor {fd} of the {what} cannot be used: {error}"))
        };
        Ok(Files {
            weights: copy("weights", weights)?,
            journal: copy("journal", journal)?,
            words: copy("words", words)?,
        })
    }
}

/// The model of a file, or the built-in one.
///
/// # Errors
/// One sentence that says why it cannot be served.
pub fn open(path: Option<&Path>) -> Result<LoadedModel, String> {
    let Some(path) = path else { return model_file::from_memory(tiny::gguf()) };
    let file = ContainerFile::open(path).map_err(|error| format!("{} cannot be opened: {error}", path.display()))?;
    model_file::of_container(file).map_err(|why| format!("{}: {why}", path.display()))
}

/// A machine in memory of this process alone.
///
/// # Errors
/// If memory runs out.
pub fn alone(model: LoadedModel) -> Result<Instance, String> {
    let short = |error: io::Error| format!("no memory for the machine: {error}");
    let journal = memory_file(c"journal").map_err(short)?;
    let (words, _) = SharedWords::create(c"hw.mmio", SHARED_WORDS).map_err(short)?;
    start(model, journal, words)
}

/// A machine that continues where the last process with these files ended.
///
/// # Errors
/// If the files were changed, or belong to another model.
pub fn shared(model: LoadedModel, files: Files) -> Result<Instance, String> {
    claim(files.words.as_fd(), SHARED_WORDS * 4)
        .map_err(|error| format!("the memory file of the words has {error}"))?;
    let words = SharedWords::attach(&files.words, SHARED_WORDS);
    let words = words.map_err(|error| format!("the words cannot be mapped: {error}"))?;
    let instance = start(model, files.journal, words)?;
    // After recovery, so that others who map the weights never see those of the file in between.
    instance.machine.share_tensors(files.weights.as_fd())?;
    Ok(instance)
}

fn start(model: LoadedModel, journal: OwnedFd, words: SharedWords) -> Result<Instance, String> {
    let shared = Arc::new(words);
    let since_us = initialise(&shared);
    let mutation_key = model.mutation_key;
    let runtime =
        Runtime::new(model.network).map_err(|error| format!("the network's threads cannot be started: {error}"))?;
    let parts = Parts {
        model: Ok(model.store),
        runtime,
        journal: Log::in_memory(journal),
        shared: Arc::clone(&shared),
        build: build(),
        energy_limited: std::env::var_os(ENERGY_VARIABLE).is_none_or(|value| value != "off"),
        mutation_key,
    };
    let machine = Machine::new(parts);
    machine.require_model().map_err(|error| error.message)?;
    machine.vitals().reach_phase(TENSORS, monotonic_us().saturating_sub(since_us));
    machine.page().set(word::STATE, State::Beating as u32);
    Ok(Instance::new(machine, shared))
}

/// Indices of two phases in [`crate::vitals::PHASES`].
const START: usize = 0;
const TENSORS: usize = 3;

/// Initialises new words as a supervisor would. Returns when the first process started.
fn initialise(shared: &SharedWords) -> u64 {
    let (page, vitals) = (Page::new(shared.words()), Vitals::new(shared.words()));
    if vitals.start_us() == 0 {
        let now = monotonic_us();
        page.initialise();
        page.set(word::ENERGY, (ENERGY_CAPACITY_MILLI / 1000) as u32);
        page.set(word::MEMORY_TOTAL_KIB, u32::try_from(sys::total_memory() / 1024).unwrap_or(u32::MAX));
        vitals.set_energy(ENERGY_CAPACITY_MILLI, now);
        vitals.reach_phase(START, 0);
        vitals.start(std::process::id(), now); // last, because it marks the words as initialised
    } else {
        page.set(word::WORKER_RESTARTS, page.get(word::WORKER_RESTARTS).saturating_add(1));
    }
    page.set(word::WORKER_PID, std::process::id());
    vitals.start_us()
}

/// First 12 hex digits of the SHA-256 of this library's file; zeros if it cannot be read.
fn build() -> String {
    let digest = || {
        let own = ContainerFile::open(&sys::own_file()?).ok()?;
        own.sha256(0, own.len).ok()
    };
    hex(&digest().unwrap_or_default()[..6])
}
