//! The other ways the state of the weights changes: back, out of a trial, and into a checkpoint.

use serde_json::json;

use super::mutate::{content, earlier};
use super::Machine;
use crate::journal::ring::{self, Record};
use crate::journal::Kind;
use crate::lineage::{Asked, Lineage, Refusal};
use crate::protocol::{required, Failure, Reply, Request};
use crate::sys::monotonic_us;

impl Machine {
    pub(super) fn rollback(&self, request: &Request) -> Result<Reply, Failure> {
        let mut params = request.params.clone();
        let id = required("id", params.hex("id")?)?;
        let to = required("to", params.integer("to")?)?;
        let reason = params.text("reason")?.unwrap_or_default();
        params.finish()?;
        request.no_blob()?;
        let mut lineage = self.lineage_mut()?;
        lineage.require_log()?;
        let content = content(request, &[]);
        let replayed = earlier(&lineage, &id, Kind::Rollback, content)?.copied();
        if let Some(done) = replayed {
            return Ok(json!({"generation": done.generation, "restored": done.target, "replayed": true}).into());
        }
        let vitals = self.vitals();
        let asked = Asked { id, content, ..Asked::default() };
        let result = lineage.roll_back(Kind::Rollback, asked, to, &|| vitals.make_progress());
        self.show(&lineage);
        let generation = lineage.generation();
        drop(lineage);
        let refused = result.map_err(Failure::from).err();
        self.record_return(ring::Kind::Rollback, generation, id, reason, refused.as_ref());
        match refused {
            Some(failure) => Err(failure),
            None => Ok(json!({"generation": generation, "restored": to, "replayed": false}).into()),
        }
    }

    pub(super) fn promote(&self, request: &Request) -> Result<Reply, Failure> {
        let mut params = request.params.clone();
        let id = required("id", params.hex("id")?)?;
        let generation = required("generation", params.integer("generation")?)?;
        params.finish()?;
        request.no_blob()?;
        let mut lineage = self.lineage_mut()?;
        lineage.require_log()?;
        let content = content(request, &[]);
        let replayed = earlier(&lineage, &id, Kind::Promote, content)?.copied();
        if let Some(done) = replayed {
            return Ok(json!({"promoted": done.target}).into());
        }
        lineage.promote(Asked { id, content, ..Asked::default() }, generation)?;
        self.show(&lineage);
        let record = Record { id, ..Record::plain(ring::Kind::Promote, generation, self.uptime_us()) };
        self.ring().push(&record);
        self.tell_change(ring::Kind::Promote, generation, &id);
        Ok(json!({"promoted": generation}).into())
    }

    pub(super) fn renew(&self, request: &Request) -> Result<Reply, Failure> {
        let mut params = request.params.clone();
        let generation = required("generation", params.integer("generation")?)?;
        let lease_ms = required("lease_ms", params.integer("lease_ms")?)?;
        params.finish()?;
        if lease_ms == 0 {
            return Err(Failure::new(-32602, "parameter \"lease_ms\" must be at least 1"));
        }
        request.no_blob()?;
        let mut lineage = self.lineage_mut()?;
        lineage.renew(generation, monotonic_us().saturating_add(lease_ms.saturating_mul(1000)))?;
        self.show(&lineage);
        Ok(json!({}).into())
    }

    pub(super) fn checkpoint(&self, request: &Request) -> Result<Reply, Failure> {
        let mut params = request.params.clone();
        let label = params.text("label")?.unwrap_or_default();
        params.finish()?;
        request.no_blob()?;
        let mut lineage = self.lineage_mut()?;
        lineage.checkpoint()?;
        let generation = lineage.generation();
        let record = Record { origin: label, ..Record::plain(ring::Kind::Checkpoint, generation, self.uptime_us()) };
        self.ring().push(&record);
        Ok(json!({"generation": generation, "durable": false}).into())
    }

    /// Microseconds until the open trial ends, if one is open.
    pub fn lease_left_us(&self) -> Option<u64> {
        match self.vitals().lease_until_us() {
            0 => None,
            until => Some(until.saturating_sub(monotonic_us())),
        }
    }

    /// Ends a trial whose time is over.
    pub fn expire_lease(&self) {
        // Whoever takes the weights to change them ends it first.
        drop(self.lineage_mut());
    }

    /// Ends a trial of these weights whose time is over.
    pub(super) fn expire_lease_of(&self, lineage: &mut Lineage) {
        let vitals = self.vitals();
        let expired = lineage.expire_lease(monotonic_us(), &|| vitals.make_progress());
        if !matches!(expired, Ok(false)) {
            self.show(lineage);
        }
        let generation = lineage.generation();
        let text = match expired {
            Ok(false) => return,
            Ok(true) => {
                self.record_return(ring::Kind::LeaseExpired, generation, [0; 16], String::new(), None);
                format!("a trial was not promoted in time: generation {generation} is as before it")
            }
            Err(Refusal::Unknown(why) | Refusal::Journal(why)) => format!("a trial cannot be taken back: {why}"),
        };
        self.tell(json!({"kind": "alert", "what": "lease_expired", "text": text}));
    }

    /// Notes that older contents came back, or did not.
    fn record_return(
        &self,
        kind: ring::Kind,
        generation: u64,
        id: [u8; 16],
        reason: String,
        refused: Option<&Failure>,
    ) {
        let code = refused.map_or(0, |failure| i16::try_from(failure.code).unwrap_or(i16::MIN));
        let record = Record { id, code, origin: reason, ..Record::plain(kind, generation, self.uptime_us()) };
        self.ring().push(&record);
        if refused.is_none() {
            self.vitals().count_rollback();
            self.tell_change(kind, generation, &id);
        }
    }
}
