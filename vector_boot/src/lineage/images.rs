//! When the log gets an image of the weights, and what it may forget then.

use super::image;
use super::rebuild::Start;
use super::{Asked, ImageAt, Lineage, Refusal};
use crate::journal::log::Log;
use crate::journal::Kind;

/// Time that replaying since the last image may take before another one is made.
const REPLAY_BUDGET_US: u64 = 10_000_000;

impl Lineage {
    /// Makes an image of the weights as they are, so that rebuilding starts here. During a trial there is none, for its
    /// generations may have to be forgotten, nor without the memory for it.
    ///
    /// # Errors
    /// 1015.
    pub fn checkpoint(&mut self) -> Result<(), Refusal> {
        self.require_log()?;
        let known = self.images.last().is_some_and(|image| image.generation == self.generation);
        let image_bytes = image::size(self.store.memory(), &self.ids);
        if known || self.lease_until_us.is_some() || !self.can_afford(image_bytes) {
            return Ok(());
        }
        self.append_image()?;
        self.tidy();
        Ok(())
    }

    /// Makes an image and forgets what is before it, if nothing is on trial and memory allows.
    pub fn make_room(&mut self) {
        let image_bytes = image::size(self.store.memory(), &self.ids);
        if self.lease_until_us.is_none() && self.can_afford(image_bytes) && self.append_image().is_ok() {
            self.forget();
        }
    }

    fn append_image(&mut self) -> Result<(), Refusal> {
        let (front, pages) = image::front(self.store.memory(), &self.ids);
        let head = self.head(Kind::Image, Asked::default(), 0);
        let memory = self.store.memory();
        let mut payload: Vec<&[u8]> = vec![&front];
        payload.extend(pages.iter().map(|page| memory.page(*page)));
        let Ok(log) = &mut self.log else { return self.require_log() };
        let sequence = log.next_sequence();
        match log.append(head, &payload) {
            Ok(offset) => {
                self.images.push(ImageAt { generation: self.generation, offset, sequence });
                self.replay_cost_us = 0;
                Ok(())
            }
            Err(error) => Err(self.fail(format!("the journal cannot be written: {error}"))),
        }
    }

    /// Makes an image when replaying would take long, and forgets what is too old when the log is too large. A failure
    /// shows at the next change.
    pub(super) fn tidy(&mut self) {
        let Ok(size) = self.log.as_ref().map(Log::size) else { return };
        if self.lease_until_us.is_some() {
            return; // the way back must stay as it is
        }
        let image_bytes = image::size(self.store.memory(), &self.ids);
        let since_image = size - self.images.last().map_or(0, |image| image.offset - self.log_start());
        let slow = self.replay_cost_us > REPLAY_BUDGET_US && self.can_afford(2 * image_bytes);
        // Several images in one budget: what is forgotten at a time is a part of the past, not all of it.
        let large = since_image > self.budget.log / 4 && image_bytes <= since_image / 2 && self.can_afford(image_bytes);
        if (slow || large) && self.append_image().is_err() {
            return;
        }
        if size > self.budget.log {
            self.forget();
        }
    }

    pub(super) fn can_afford(&self, bytes: u64) -> bool {
        let available = (self.budget.available)();
        available == 0 || bytes < available
    }

    pub(super) fn log_start(&self) -> u64 {
        self.log.as_ref().map_or(0, Log::start)
    }

    /// Forgets what lies before the oldest image from which on the log fits its budget, but never what the current
    /// generation is rebuilt from.
    fn forget(&mut self) {
        let Some((Start::Image(needed), _)) = self.path(self.generation) else { return };
        let Ok(log) = &mut self.log else { return };
        let fits = |image: &&ImageAt| log.end() - image.offset <= self.budget.log && image.offset <= needed;
        let at_last = |image: &&ImageAt| image.offset == needed;
        let chosen = self.images.iter().find(fits).or(self.images.iter().find(at_last)).copied();
        let Some(image) = chosen.filter(|image| image.offset != log.start()) else { return };
        if log.forget_before(image.offset, image.sequence).is_err() {
            return;
        }
        self.images.retain(|other| other.offset >= image.offset);
        let old = (image.generation + 1).saturating_sub(self.first_made) as usize;
        self.made.drain(..old.min(self.made.len()));
        self.first_made = image.generation + 1;
        debug_assert!(self.path(self.generation).is_some());
    }
}
