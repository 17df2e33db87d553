//! What a machine hands over to that of another process, at a reload of the worker.

use super::recovery::Start;
use super::{Machine, Parts};
use crate::hw_mmio::word;
use crate::protocol::RequestError;
use crate::tensor::memory::PAGE;

/// Memory of a worker without its changed pages, about.
const WORKER_BYTES: u64 = 24 << 20;

/// Where the weights are: with the same generation and fingerprint they are equal, as far as the base is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The generation.
    pub generation: u64,
    /// Its fingerprint.
    pub fingerprint: u64,
    /// Whether they can be changed.
    pub open: bool,
}

impl Position {
    /// Whether a worker here can take the place of one that is at `old`.
    pub fn replaces(&self, old: &Position) -> bool {
        (self.generation, self.fingerprint) == (old.generation, old.fingerprint) && (self.open || !old.open)
    }
}

impl Machine {
    /// A machine at the newest generation of the journal, which another process still serves: the shared words are left as
    /// they are until [`Machine::take_over`].
    pub fn standby(parts: Parts) -> Self {
        Self::recover(parts, Start::Standby, &|| ())
    }

    /// Where the weights are; `None` without a model.
    pub fn position(&self) -> Option<Position> {
        let lineage = self.lineage().ok()?;
        let (generation, fingerprint) = (lineage.generation(), lineage.store().memory().fingerprint());
        Some(Position { generation, fingerprint, open: lineage.require_log().is_ok() })
    }

    /// Whether the process that serves has published another generation than that of these weights.
    pub fn is_behind(&self) -> bool {
        self.lineage().is_ok_and(|lineage| lineage.generation() != self.generation())
    }

    /// Makes the changes that another process has written to the journal. Without a model there is nothing to do.
    ///
    /// # Errors
    /// One sentence if they cannot be made.
    pub fn catch_up(&self) -> Result<(), String> {
        let Ok(mut lineage) = self.weights_alone() else { return Ok(()) };
        if lineage.require_log().is_err() {
            return Ok(()); // the other process could not write it either
        }
        lineage.catch_up(self.vitals().journal_loss(), &|| ()).map_err(|error| RequestError::from(error).message)
    }

    /// Makes the last changes of the process that has stopped, and what it has written durable.
    ///
    /// # Errors
    /// One sentence if that is impossible.
    pub fn follow_last(&self) -> Result<(), String> {
        self.catch_up()?;
        let Ok(mut lineage) = self.weights_alone() else { return Ok(()) };
        lineage.take_over().map_err(|error| RequestError::from(error).message)
    }

    /// Publishes the state of the weights in the shared words.
    pub fn take_over(&self) {
        if let Ok(lineage) = self.lineage() {
            self.publish(&lineage);
        }
    }

    /// Whether there is memory for a second worker.
    ///
    /// # Errors
    /// One sentence if there is not.
    pub fn require_second_worker(&self) -> Result<(), String> {
        let changed =
            self.lineage().map_or(0, |lineage| u64::from(lineage.store().memory().dirty_count()) * PAGE as u64);
        let needed = changed + WORKER_BYTES;
        let available = u64::from(self.page().get(word::MEMORY_AVAILABLE_KIB)) * 1024;
        if available == 0 || needed < available {
            return Ok(());
        }
        Err(format!("two workers may need {needed} bytes more memory, but {available} are available"))
    }
}
