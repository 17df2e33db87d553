//! Requests that change the state of the weights other than by edits: rollback, promote, renew, checkpoint.

use serde_json::json;

use super::mutate::{content, earlier, require_base};
use super::Machine;
use crate::journal::ring::{origin_bytes, Record};
use crate::journal::{Content, EntryKind, JournalError};
use crate::lineage::{ChangeRequest, Lineage, LineageError};
use crate::protocol::{code, required, RecordKind, Reply, Request, RequestError};
use crate::sys::monotonic_us;

impl Machine {
    pub(super) fn rollback(&self, request: &Request) -> Result<Reply, RequestError> {
        let mut params = request.params.clone();
        let id = required("id", params.hex("id")?)?;
        let to = required("to", params.integer("to")?)?;
        let base_generation = params.integer("base_generation")?;
        let reason = params.text("reason")?.unwrap_or_default();
        params.finish()?;
        require_signed_id(request, &id)?;
        request.no_blob()?;
        let mut lineage = self.lineage_mut()?;
        lineage.require_log()?;
        self.require_seal(request, &[])?;
        let content = content(request, 0, 0);
        let replayed = earlier(&lineage, &id, EntryKind::Rollback, content)?.copied();
        if let Some(done) = replayed {
            let durable = lineage.keeps(done.generation);
            let (generation, restored) = (done.generation, done.target);
            let reply = json!({"generation": generation, "restored": restored, "durable": durable, "replayed": true});
            return Ok(reply.into());
        }
        if let Some(base) = base_generation {
            require_base(&lineage, base)?;
        }
        let vitals = self.vitals();
        let asked = ChangeRequest { origin: origin_bytes(&reason), ..self.asked(id, content) };
        let result = lineage.roll_back(EntryKind::Rollback, asked, to, &|| vitals.make_progress());
        let generation = lineage.generation();
        let durable = lineage.keeps(generation);
        let refused = result.map_err(RequestError::from).err();
        let made = Record {
            id,
            origin: reason,
            restored: Some(to),
            ..Record::plain(RecordKind::Rollback, generation, asked.uptime_us)
        };
        self.record_return(made, refused.as_ref());
        self.publish(&lineage);
        match refused {
            Some(failure) => Err(failure),
            None => {
                let reply = json!({"generation": generation, "restored": to, "durable": durable, "replayed": false});
                Ok(reply.into())
            }
        }
    }

    pub(super) fn promote(&self, request: &Request) -> Result<Reply, RequestError> {
        let mut params = request.params.clone();
        let id = required("id", params.hex("id")?)?;
        let generation = required("generation", params.integer("generation")?)?;
        params.finish()?;
        request.no_blob()?;
        let mut lineage = self.lineage_mut()?;
        lineage.require_log()?;
        self.require_seal(request, &[])?;
        let content = content(request, 0, 0);
        let replayed = earlier(&lineage, &id, EntryKind::Promote, content)?.copied();
        if let Some(done) = replayed {
            return Ok(json!({"promoted": done.target, "durable": lineage.durable()}).into());
        }
        let asked = self.asked(id, content);
        let result = lineage.promote(asked, generation);
        if result.is_ok() {
            let record = Record { id, ..Record::plain(RecordKind::Promote, generation, asked.uptime_us) };
            self.ring().push(&record);
            self.queue_change(RecordKind::Promote, generation, &id);
        }
        self.publish(&lineage);
        result?;
        Ok(json!({"promoted": generation, "durable": lineage.durable()}).into())
    }

    pub(super) fn renew(&self, request: &Request) -> Result<Reply, RequestError> {
        let mut params = request.params.clone();
        let generation = required("generation", params.integer("generation")?)?;
        let lease_ms = required("lease_ms", params.integer("lease_ms")?)?;
        let id = params.hex("id")?;
        params.finish()?;
        require_signed_id(request, &id.unwrap_or_default())?;
        if lease_ms == 0 {
            return Err(RequestError::new(code::INVALID_PARAMS, "parameter \"lease_ms\" must be at least 1"));
        }
        request.no_blob()?;
        let mut lineage = self.lineage_mut()?;
        lineage.require_log()?;
        self.require_seal(request, &[])?;
        let (id, content) = (id.unwrap_or_default(), content(request, 0, 0));
        if earlier(&lineage, &id, EntryKind::Renew, content)?.is_some() {
            return Ok(json!({}).into());
        }
        let until_us = monotonic_us().saturating_add(lease_ms.saturating_mul(1000));
        let result = lineage.renew(self.asked(id, content), generation, until_us);
        self.publish(&lineage);
        result?;
        Ok(json!({}).into())
    }

    /// A change that is asked for now.
    fn asked(&self, id: [u8; 16], content: Content) -> ChangeRequest {
        ChangeRequest { id, content, uptime_us: self.uptime_us(), ..ChangeRequest::default() }
    }

    pub(super) fn checkpoint(&self, request: &Request) -> Result<Reply, RequestError> {
        let mut params = request.params.clone();
        let label = params.text("label")?.unwrap_or_default();
        params.finish()?;
        request.no_blob()?;
        let mut lineage = self.lineage_mut()?;
        let result = lineage.checkpoint();
        self.publish(&lineage);
        result?;
        let generation = lineage.generation();
        let record = Record { origin: label, ..Record::plain(RecordKind::Checkpoint, generation, self.uptime_us()) };
        self.ring().push(&record);
        Ok(json!({"generation": generation, "durable": lineage.keeps(generation)}).into())
    }

    /// Microseconds until the open trial ends, if one is open. In emergency mode none is: nothing could end it.
    pub fn lease_left_us(&self) -> Option<u64> {
        self.lineage.as_ref()?;
        match self.vitals().lease_until_us() {
            0 => None,
            until => Some(until.saturating_sub(monotonic_us())),
        }
    }

    /// Ends the open trial if its lease has expired.
    pub fn expire_lease(&self) {
        // Locking the weights for a change ends it.
        drop(self.lineage_mut());
    }

    /// Ends the open trial of these weights if its lease has expired.
    pub(super) fn expire_lease_of(&self, lineage: &mut Lineage) {
        let (vitals, promoted) = (self.vitals(), lineage.promoted());
        let asked = self.asked([0; 16], Content::default());
        let expired = lineage.expire_lease(asked, monotonic_us(), &|| vitals.make_progress());
        let generation = lineage.generation();
        let text = match expired {
            Ok(false) => return,
            Ok(true) => {
                let made = Record::plain(RecordKind::LeaseExpired, generation, asked.uptime_us);
                self.record_return(Record { restored: Some(promoted), ..made }, None);
                format!("a trial was not promoted in time: generation {generation} has the weights from before it")
            }
            Err(LineageError::UnknownGeneration(why) | LineageError::Journal(JournalError { text: why, .. })) => {
                format!("a trial cannot be rolled back: {why}")
            }
        };
        self.queue_event(json!({"kind": "alert", "what": "lease_expired", "text": text}));
        self.publish(lineage);
    }

    /// Records a return to older contents, or its refusal.
    fn record_return(&self, mut made: Record, refused: Option<&RequestError>) {
        if let Some(failure) = refused {
            (made.code, made.restored) = (i16::try_from(failure.code).unwrap_or(i16::MIN), None);
        }
        self.ring().push(&made);
        if refused.is_none() {
            self.vitals().count_rollback();
            self.queue_change(made.kind, made.generation, &made.id);
        }
    }
}

/// Checks that a signed request has an id that is kept: else whoever has seen it could have it done again and again.
///
/// # Errors
/// -32602 if it has none, or the one that stands for none.
fn require_signed_id(request: &Request, id: &[u8; 16]) -> Result<(), RequestError> {
    if request.seal.is_none() || *id != [0; 16] {
        return Ok(());
    }
    let text = "parameter \"id\" must be given and not be all zero in a signed request";
    Err(RequestError::new(code::INVALID_PARAMS, text))
}
