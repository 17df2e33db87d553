//! What a history does to the weights.

use vector_boot::journal::device::simulated::Call;
use vector_boot::journal::{EntryKind, JournalReason};
use vector_boot::lineage::{ChangeRequest, LineageError};
use vector_boot::sys::allocations::counted;

use super::{World, STEP_US};
use crate::tiny::Request;

impl World {
    pub(super) fn mutate(&mut self, count: usize, lease: bool) -> Result<(), String> {
        let mut state = self.state().clone();
        let requests: Vec<Request> = (0..count).map(|_| self.draw_request(lease)).collect();
        let (mut result, flushes) = (Ok(()), self.disk.calls(Call::Flush));
        for request in &requests {
            result = result.and_then(|()| request.add(&mut self.lineage));
            state.mutate(request);
        }
        let full = matches!(&result, Err(LineageError::Journal(error)) if error.reason == JournalReason::Full);
        if full && count > 1 {
            // The machine answers those before the one that does not fit.
            self.count("refused as full");
            return self.commit_part(&requests);
        }
        let result = result.and_then(|()| counted(|| self.lineage.commit()));
        if result.is_err() && count > 1 && !self.refused {
            self.doubt_parts(&requests)?;
        }
        let what = if count > 1 { "group" } else { "mutate" };
        let large = requests.iter().any(|request| request.unused > 0);
        if large && matches!(&result, Err(LineageError::Journal(error)) if error.reason == JournalReason::Full) {
            self.count("refused as full");
            return Ok(()); // it may not fit beside two images
        }
        if result.is_ok() && self.disk.calls(Call::Flush) > flushes + 1 {
            self.allow_parts(&requests);
        }
        let request = requests.into_iter().next().filter(|_| count == 1);
        self.take(what, result, state, request)
    }

    /// Where room was made for a later one of these requests, those before it were committed. If the device failed
    /// then, the weights have them; if it failed before that, a reboot may find them.
    fn doubt_parts(&mut self, requests: &[Request]) -> Result<(), String> {
        let (start, shown) = (self.state().clone(), self.lineage.generation());
        let mut state = start.clone();
        for request in &requests[..requests.len() - 1] {
            state.mutate(request);
            match state.generation <= shown {
                true => self.acknowledge(state.clone(), None)?,
                false if self.only_reads_fail => (),
                false => self.doubtful.push(state.clone()),
            }
        }
        Ok(())
    }

    /// Room was made for a later one of these requests, so those before it were committed before it.
    fn allow_parts(&mut self, requests: &[Request]) {
        let mut state = self.state().clone();
        for request in &requests[..requests.len() - 1] {
            state.mutate(request);
            self.history.states.push(state.clone());
            self.history.requests.push(None);
        }
    }

    /// Commits what is in the open batch: the first of these requests.
    fn commit_part(&mut self, requests: &[Request]) -> Result<(), String> {
        let mut state = self.state().clone();
        for request in requests {
            if state.generation < self.lineage.generation() {
                state.mutate(request);
            }
        }
        if state.generation == self.state().generation {
            return Ok(());
        }
        let result = counted(|| self.lineage.commit());
        self.take("group", result, state, None)
    }

    pub(super) fn roll_back(&mut self) -> Result<(), String> {
        let newest = self.state().generation;
        let back = self.random.below(14) as u64;
        let to = if self.random.below(8) == 0 { 0 } else { newest.saturating_sub(back) };
        let (id, mut state) = (self.draw_id(), self.state().clone());
        state.roll_back(to, id);
        let asked = ChangeRequest { id, ..ChangeRequest::default() };
        let result = counted(|| self.lineage.roll_back(EntryKind::Rollback, asked, to, &|| ()));
        self.take("rollback", result, state, None)
    }

    pub(super) fn promote(&mut self) -> Result<(), String> {
        if self.state().lease_until_us.is_none() {
            return Ok(());
        }
        let on_trial = (self.state().generation - self.state().promoted) as usize;
        let generation = self.state().promoted + 1 + self.random.below(on_trial.max(1)) as u64;
        let (id, mut state) = (self.draw_id(), self.state().clone());
        state.promote(generation.min(state.generation), id);
        let asked = ChangeRequest { id, ..ChangeRequest::default() };
        let result = counted(|| self.lineage.promote(asked, state.promoted));
        self.take("promote", result, state, None)
    }

    pub(super) fn renew(&mut self) -> Result<(), String> {
        if self.state().lease_until_us.is_none() || self.state().generation == self.state().promoted {
            return Ok(());
        }
        let until = self.clock_us + STEP_US * 20;
        let mut state = self.state().clone();
        state.lease_until_us = Some(until);
        let result = counted(|| self.lineage.renew(ChangeRequest::default(), state.generation, until));
        self.take("renew", result, state, None)
    }

    pub(super) fn checkpoint(&mut self) -> Result<(), String> {
        let state = self.state().clone();
        let result = counted(|| self.lineage.checkpoint());
        self.take("checkpoint", result, state, None)
    }

    pub(super) fn expire(&mut self) -> Result<(), String> {
        if self.state().lease_until_us.is_none_or(|until| self.clock_us < until) || self.is_refused() {
            return Ok(());
        }
        let mut state = self.state().clone();
        state.roll_back(state.promoted, [0; 16]);
        let result = counted(|| self.lineage.expire_lease(ChangeRequest::default(), self.clock_us, &|| ()));
        self.take("expire", result.map(|_| ()), state, None)
    }
}
