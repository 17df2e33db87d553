//! Reboots, and workers that are started again.

use vector_boot::lineage::Lineage;
use vector_boot::sys::allocations::counted;

use super::World;
use crate::tiny::{recover, Boot};

impl World {
    fn recover(&self, boot: Boot) -> Result<Lineage, String> {
        let device = self.witness.as_ref().map_or_else(|| self.disk.handle(), |witness| witness.handle(&self.disk));
        counted(|| recover(device, boot, self.budget))
    }

    /// The worker is started again in the same boot.
    pub(super) fn restart(&mut self) -> Result<(), String> {
        if self.boot == 0 {
            return self.reboot(); // the device was never opened in this boot
        }
        self.openings += 1;
        // An image that fails after an acknowledged change is told by no reply; the machine notes it for the next worker.
        self.lost_from = self.lost_from.or(self.lineage.lost_from());
        let boot = Boot { number: self.boot, nonce: self.openings, lost_from: self.lost_from };
        self.lineage = self.recover(boot)?;
        self.count("restart");
        self.require_log()?;
        self.opened()
    }

    /// The machine is booted again, without a cut of the power.
    pub fn reboot(&mut self) -> Result<(), String> {
        self.openings += 1;
        let boot = Boot { number: 0, nonce: self.openings, lost_from: None };
        self.lineage = self.recover(boot)?;
        self.boot = 0;
        self.count("reboot");
        self.require_log()?;
        if self.lineage.log().is_none() {
            return Ok(());
        }
        let mut last = String::new();
        for state in self.possible().into_iter().rev() {
            let mut rebooted = state.clone();
            rebooted.reboot();
            // If the end of its trial cannot be written, a later boot may find it written all the same.
            let found = match (rebooted.compare(&self.lineage), self.is_refused()) {
                (Ok(()), _) => Some((rebooted, None)),
                (Err(_), true) if self.shows(&state).is_ok() => Some((state, Some(rebooted))),
                (Err(why), _) => {
                    last = why;
                    None
                }
            };
            if let Some((state, doubtful)) = found {
                (self.doubtful, self.lost_from) = (doubtful.into_iter().collect(), self.lineage.lost_from());
                self.boot = self.lineage.log().map_or(0, |log| log.boot());
                return self.acknowledge(state, None);
            }
        }
        Err(format!("after a reboot: {last}"))
    }

    /// Checks that the log is usable, unless the device has failed.
    fn require_log(&self) -> Result<(), String> {
        match self.lineage.refusal() {
            None => Ok(()),
            Some(_) if self.has_failed() => Ok(()),
            Some(why) => Err(why.text.clone()),
        }
    }
}
