//! What a machine must be like: the oracle. It knows the requests and nothing of the journal.

use std::rc::Rc;

use vector_boot::lineage::Lineage;

use crate::tiny::{base, contents, Request};

/// A state of a machine as its client knows it.
#[derive(Debug, Clone)]
pub struct State {
    /// The current generation.
    pub generation: u64,
    /// The newest promoted one.
    pub promoted: u64,
    /// When the open trial ends.
    pub lease_until_us: Option<u64>,
    /// The contents of every generation.
    pub contents: Rc<Vec<Rc<[u8]>>>,
    /// The ids of all changes, with the generation each has made.
    pub ids: Rc<Vec<([u8; 16], u64)>>,
}

impl State {
    /// That of a machine that was never changed.
    pub fn fresh() -> Self {
        let contents = Rc::new(vec![Rc::from(base())]);
        State { generation: 0, promoted: 0, lease_until_us: None, contents, ids: Rc::default() }
    }

    /// The contents of a generation.
    pub fn of(&self, generation: u64) -> Rc<[u8]> {
        self.contents[generation as usize].clone()
    }

    fn make(&mut self, contents: Rc<[u8]>) {
        Rc::make_mut(&mut self.contents).push(contents);
        self.generation += 1;
        if self.lease_until_us.is_none() {
            self.promoted = self.generation;
        }
    }

    /// After a mutation.
    pub fn mutate(&mut self, request: &Request) {
        self.lease_until_us = match (request.lease_until_us, self.lease_until_us) {
            (Some(asked), Some(open)) => Some(asked.max(open)),
            (asked, open) => asked.or(open),
        };
        let mut contents = self.of(self.generation).to_vec();
        request.carry_out(&mut contents);
        self.make(contents.into());
        Rc::make_mut(&mut self.ids).push((request.id, self.generation));
    }

    /// After a return to generation `to`.
    pub fn roll_back(&mut self, to: u64, id: [u8; 16]) {
        if to <= self.promoted {
            self.lease_until_us = None;
        }
        self.make(self.of(to));
        if id != [0; 16] {
            Rc::make_mut(&mut self.ids).push((id, self.generation));
        }
    }

    /// After a promotion.
    pub fn promote(&mut self, generation: u64, id: [u8; 16]) {
        self.promoted = generation;
        self.lease_until_us = self.lease_until_us.filter(|_| generation < self.generation);
        Rc::make_mut(&mut self.ids).push((id, self.generation));
    }

    /// After a reboot: an open trial has ended.
    pub fn reboot(&mut self) {
        if self.lease_until_us.is_some() {
            self.roll_back(self.promoted, [0; 16]);
        }
    }

    /// Compares a machine with this state; says what differs.
    ///
    /// # Errors
    /// What differs.
    pub fn compare(&self, lineage: &Lineage) -> Result<(), String> {
        self.compare_weights(lineage)?;
        for (id, generation) in self.ids.iter() {
            match lineage.ids().find(id) {
                Some(done) if done.generation == *generation => (),
                found => {
                    let found = found.map(|done| done.generation);
                    return Err(format!("the id of generation {generation} gives {found:?}"));
                }
            }
        }
        Ok(())
    }

    /// The same without the ids.
    ///
    /// # Errors
    /// What differs.
    pub fn compare_weights(&self, lineage: &Lineage) -> Result<(), String> {
        let found = (lineage.generation(), lineage.promoted(), lineage.lease_until_us());
        let wanted = (self.generation, self.promoted, self.lease_until_us);
        if found != wanted {
            return Err(format!("generation, promoted and lease are {found:?}, not {wanted:?}"));
        }
        if *contents(lineage) != *self.of(self.generation) {
            return Err(format!("the contents are not those of generation {}", self.generation));
        }
        Ok(())
    }

    /// Checks that a machine does not know the ids that `later` has in addition.
    ///
    /// # Errors
    /// If it knows one.
    pub fn nothing_of(&self, later: &State, lineage: &Lineage) -> Result<(), String> {
        match later.ids[self.ids.len()..].iter().find(|(id, _)| lineage.ids().find(id).is_some()) {
            Some((_, generation)) => {
                Err(format!("the id of generation {generation} is known, its change is not there"))
            }
            None => Ok(()),
        }
    }
}
