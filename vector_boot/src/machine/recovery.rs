//! The state that a machine starts with, and what it publishes of its state.

use std::sync::atomic::Ordering;
use std::sync::PoisonError;

use super::Machine;
use crate::hw_mmio::word;
use crate::journal::ring::Record;
use crate::journal::{Journal, JournalError, JournalLoss, JournalReason};
use crate::lineage::{failed_before, Budget, Lineage, Recovery};
use crate::protocol::RecordKind;
use crate::sys;
use crate::tensor::Store;

/// Why a machine starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It is the first of this boot.
    Boot,
    /// An earlier worker has ended.
    Worker,
    /// Another worker serves, and this one may take over from it.
    Standby,
}

impl Machine {
    /// The newest state in the journal. The first worker that opens the log of a state device in this boot ends an open trial. The
    /// first worker of a boot fills the ring with the records of earlier boots.
    pub(super) fn recover_lineage(
        &self,
        store: Store,
        log: Result<Box<dyn Journal>, JournalError>,
        start: Start,
        progress: &dyn Fn(),
    ) -> Lineage {
        let (vitals, ring) = (self.vitals(), self.ring());
        let opened_before = vitals.boot() != 0;
        let recovery = Recovery {
            budget: Budget::of_memory(sys::total_memory()),
            lost_from: vitals.journal_loss().map(|loss| loss.from),
            opened_before,
            uptime_us: self.uptime_us(),
            progress,
            seen: &mut |head| {
                if let Some(record) = Record::of_entry(head).filter(|_| start == Start::Boot) {
                    ring.push(&record);
                }
            },
        };
        let mut lineage = Lineage::recover(store, log, recovery);
        lineage.refuse_lost_log();
        if let Some(loss) = vitals.journal_loss() {
            lineage.refuse(failed_before(loss.reason, lineage.log().is_some()));
        } else if let Some(why) = lineage.refusal().filter(|_| start != Start::Standby) {
            if why.is_for_good() {
                // The next worker must not try again what failed here.
                vitals.set_journal_loss(JournalLoss { from: lineage.lost_from().unwrap_or(0), reason: why.reason });
            }
            self.queue_notice(why.text.clone());
        }
        if start == Start::Boot && lineage.log().is_none() {
            ring.clear(); // the records of a journal that cannot be used are not the history of these weights
        }
        if let Some(restored) = lineage.ended_trial() {
            let made = Record::plain(RecordKind::LeaseExpired, lineage.generation(), self.uptime_us());
            ring.push(&Record { restored: Some(restored), ..made });
        }
        if let Some(log) = lineage.log().filter(|log| log.boot() != 0 && !opened_before) {
            if !lineage.hides_trial() {
                vitals.set_boot(log.boot());
            }
            if let Some(offset) = log.torn() {
                self.queue_notice(format!(
                    "the last entry, at offset {offset} of the log, was not written wholly; it was not acknowledged and is left out"
                ));
            }
        }
        lineage
    }

    /// Publishes the state of the weights in the shared words. The records and events of a change come before: who sees the
    /// new generation finds them.
    pub(super) fn publish(&self, lineage: &Lineage) {
        let vitals = self.vitals();
        self.page().set_wide(word::GENERATION, lineage.generation());
        vitals.set_promoted(lineage.promoted());
        vitals.set_lease_until(lineage.lease_until_us().unwrap_or(0));
        self.durable.store(lineage.durable(), Ordering::Relaxed);
        if let Some(from) = lineage.lost_from().filter(|_| vitals.journal_loss().is_none()) {
            let reason = lineage.refusal().map_or(JournalReason::Io, |why| why.reason);
            vitals.set_journal_loss(JournalLoss { from, reason });
            self.queue_notice(lineage.refusal().map_or_else(String::new, |why| why.text.clone()));
        }
    }

    /// Notices that the file of the journal was lost, if it was. Nothing else may use the weights for long.
    pub fn check_journal(&self) {
        if self.lineage().is_ok_and(|lineage| !lineage.log_is_kept()) {
            drop(self.lineage_mut()); // which notices it
        }
    }

    /// Whether changes survive the machine.
    pub fn is_durable(&self) -> bool {
        self.durable.load(Ordering::Relaxed)
    }

    fn queue_notice(&self, text: String) {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    /// Removes and returns the lines for the console.
    pub fn take_notices(&self) -> Vec<String> {
        std::mem::take(&mut *self.notices.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests;
