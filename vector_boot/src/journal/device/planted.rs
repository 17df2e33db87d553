//! Bugs on purpose, each of which the crash tests must find. Without the feature `planted` there are none.

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)] // each is described by `ALL`
pub enum Bug {
    NoFlush = 1,
    ReplyBeforeFlush,
    ApplyBeforeJournal,
    StaleEpoch,
    ChecksumSkipped,
    IdsNotPersisted,
    CheckpointWithoutFlush,
    SuperblockOrder,
    TailTooFar,
    LeaseForgotten,
    FreedSpaceReused,
    RetriedFlush,
}

/// Whether this bug is switched on.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub fn is(_: Bug) -> bool {
    false
}

#[cfg(feature = "planted")]
pub use switched::{is, plant, ALL};

#[cfg(feature = "planted")]
mod switched {
    use super::Bug;
    use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

    static PLANTED: AtomicU8 = AtomicU8::new(0);

    /// Every bug with its name.
    pub const ALL: [(Bug, &str); 12] = [
        (Bug::NoFlush, "no-flush"),
        (Bug::ReplyBeforeFlush, "reply-before-flush"),
        (Bug::ApplyBeforeJournal, "apply-before-journal"),
        (Bug::StaleEpoch, "stale-epoch"),
        (Bug::ChecksumSkipped, "checksum-skipped"),
        (Bug::IdsNotPersisted, "ids-not-persisted"),
        (Bug::CheckpointWithoutFlush, "checkpoint-without-flush"),
        (Bug::SuperblockOrder, "superblock-order"),
        (Bug::TailTooFar, "tail-too-far"),
        (Bug::LeaseForgotten, "lease-forgotten"),
        (Bug::FreedSpaceReused, "freed-space-reused"),
        (Bug::RetriedFlush, "retried-flush"),
    ];

    /// Switches one bug on, and all others off.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.store(bug.map_or(0, |bug| bug as u8), Relaxed);
    }

    /// Whether this bug is switched on.
    pub fn is(bug: Bug) -> bool {
        PLANTED.load(Relaxed) == bug as u8
    }
}
