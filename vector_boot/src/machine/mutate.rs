//! The request `mutate`: all checks in the order of the protocol, then the change, then the reply.

use serde_json::{json, Map, Value};

use super::blob_source::BlobSource;
use super::tensors::digests;
use super::uploads::Upload;
use super::{LockedLineage, Machine};
use crate::hw_mmio::word;
use crate::journal::ring::{origin_bytes, Record};
use crate::journal::{Content, EntryKind};
use crate::lineage::ids::PastChange;
use crate::lineage::{ChangeRequest, Lineage, MutationPayload};
use crate::mutation::apply::apply;
use crate::mutation::plan::{plan, Plan};
use crate::mutation::request::Mutation;
use crate::protocol::{
    code, parse_hex, Blob, RecordKind, Reply, Request, RequestError, EDITS_LIMIT, LINE_LIMIT, NAMES_LIMIT,
};
use crate::rts::hex;
use crate::sys::monotonic_us;

/// The confidence must be above this.
const CONFIDENCE_NEEDED: f64 = 0.8;
/// Mutations that need less memory than this are not checked for available memory.
const SMALL_BYTES: u64 = 4 << 20;

/// The past change with this id, if it is the same one.
///
/// # Errors
/// 1020 if the id was used for another change.
pub(super) fn earlier<'a>(
    lineage: &'a Lineage,
    id: &[u8; 16],
    kind: EntryKind,
    content: Content,
) -> Result<Option<&'a PastChange>, RequestError> {
    match lineage.ids().find(id) {
        None => Ok(None),
        Some(done) if done.kind == kind && done.content == content => Ok(Some(done)),
        Some(_) => Err(RequestError::new(code::ID_REUSED, format!("id {} was used for another change", hex(id)))),
    }
}

/// Checks that a change was made for the current generation.
///
/// # Errors
/// 1007 with the current one.
pub(super) fn require_base(lineage: &Lineage, base: u64) -> Result<(), RequestError> {
    let generation = lineage.generation();
    if base == generation {
        return Ok(());
    }
    let text = format!("the change was made for generation {base}, but the current one is {generation}");
    Err(RequestError::new(code::STALE_GENERATION, text).with(json!({"generation": generation})))
}

/// Identifies the parameters and the blob of a request.
pub(super) fn content(request: &Request, blob_bytes: usize, blob_crc: u32) -> Content {
    let params = request.params.canonical();
    let params_crc = crate::crc::crc32c(params.as_bytes());
    Content { params_crc, blob_crc, bytes: (params.len() + blob_bytes) as u64 }
}

/// The result of a mutation.
struct MutationOutcome {
    generation: u64,
    tensors: u32,
    bytes: u64,
    replayed: bool,
    sha256: Option<Value>,
    durable: bool,
}

impl MutationOutcome {
    /// The reply to the mutation with this id.
    fn reply(&self, id: &[u8; 16]) -> Reply {
        let mut result = json!({
            "id": hex(id),
            "generation": self.generation,
            "changed": {"tensors": self.tensors, "bytes": self.bytes},
            "durable": self.durable,
            "replayed": self.replayed,
        });
        if let Some(sha256) = &self.sha256 {
            result["sha256"] = sha256.clone();
        }
        result.into()
    }
}

/// A mutation that was made in the open batch, or refused.
struct Made {
    record: Record,
    result: Result<MutationOutcome, RequestError>,
    /// The upload that it was made of, which is used up only when the batch is permanent.
    upload: Option<Upload>,
}

impl Machine {
    /// Makes mutations one after another, which become permanent together. The results are in their order.
    ///
    /// # Errors
    /// Each has its own: the first of its checks that fails. 1015 for all that were lost when the journal failed.
    pub fn mutate<'a>(&self, requests: impl Iterator<Item = (&'a Request, u64)>) -> Vec<Result<Reply, RequestError>> {
        let mut lineage = self.lineage_mut();
        let made: Vec<_> =
            requests.map(|(request, connection)| self.check_and_change(&mut lineage, request, connection)).collect();
        let committed = lineage.as_mut().map_or(Ok(()), |lineage| lineage.commit());
        let outcome = |Made { record, result, upload }: Made| {
            let kept = |generation| lineage.as_ref().is_ok_and(|lineage| generation <= lineage.generation());
            let lost = committed.as_ref().err().cloned().map(RequestError::from);
            let result = match (result, lost) {
                (Ok(outcome), Some(lost)) if !kept(outcome.generation) => Err(lost),
                (Ok(outcome), _) => {
                    let durable = lineage.as_ref().is_ok_and(|lineage| lineage.keeps(outcome.generation));
                    Ok(MutationOutcome { durable, ..outcome })
                }
                (refused, _) => refused,
            };
            if let Some(upload) = upload {
                self.finish_upload(upload, result.as_ref().is_ok_and(|outcome| !outcome.replayed));
            }
            self.note_mutation(record, result)
        };
        let replies = made.into_iter().map(outcome).collect();
        if let Ok(lineage) = &lineage {
            self.publish(lineage);
        }
        replies
    }

    /// Records a mutation and counts it. Returns the reply.
    fn note_mutation(
        &self,
        mut record: Record,
        result: Result<MutationOutcome, RequestError>,
    ) -> Result<Reply, RequestError> {
        let page = self.page();
        match &result {
            Ok(outcome) if outcome.replayed => (),
            Ok(outcome) => {
                record.generation = outcome.generation;
                record.changed_bytes = u32::try_from(outcome.bytes).unwrap_or(u32::MAX);
                self.ring().push(&record);
                page.set(word::MUTATIONS_ACCEPTED, page.get(word::MUTATIONS_ACCEPTED).wrapping_add(1));
                self.queue_change(record.kind, outcome.generation, &record.id);
            }
            Err(error) => {
                record.code = i16::try_from(error.code).unwrap_or(i16::MIN);
                self.ring().push(&record);
                page.set(word::MUTATIONS_REFUSED, page.get(word::MUTATIONS_REFUSED).wrapping_add(1));
            }
        }
        Ok(result?.reply(&record.id))
    }

    /// Checks parameters and blob, then makes the change in the open batch.
    fn check_and_change(&self, lineage: &mut LockedLineage<'_>, request: &Request, connection: u64) -> Made {
        let generation = lineage.as_ref().map_or(self.generation(), |lineage| lineage.generation());
        let mut record = Record::plain(RecordKind::Mutate, generation, self.uptime_us());
        let mutation = match Mutation::parse(request.params.clone()) {
            Err(error) => return Made { record, result: Err(error.into()), upload: None },
            Ok(mutation) => mutation,
        };
        record.id = mutation.id;
        record.origin.clone_from(&mutation.origin);
        record.confidence = mutation.confidence;
        record.edits = mutation.edits.len() as u32;
        let source = match self.source(request, connection, &mutation) {
            Err(error) => {
                let result = self.lost_upload(lineage, request, &mutation).ok_or(error);
                return Made { record, result, upload: None };
            }
            Ok(source) => source,
        };
        let result = self.change(lineage, request, &mutation, &source, record.uptime_us);
        let upload = if let BlobSource::Upload(upload) = source { Some(upload) } else { None };
        Made { record, result, upload }
    }

    /// The result of a mutation that is repeated after its upload was used up.
    fn lost_upload(
        &self,
        lineage: &LockedLineage<'_>,
        request: &Request,
        mutation: &Mutation,
    ) -> Option<MutationOutcome> {
        let Blob::Upload(upload) = &request.blob else { return None };
        if self.takes_signed_only() && request.seal.is_none() {
            return None;
        }
        let lineage = lineage.as_ref().ok().filter(|lineage| lineage.require_log().is_ok())?;
        let done = lineage.ids().find(&mutation.id)?;
        let content = content(request, 0, 0);
        let same = done.kind == EntryKind::Mutate
            && done.content.params_crc == content.params_crc
            && parse_hex(upload) == Some(done.upload);
        same.then(|| replay(lineage, done))
    }

    fn change(
        &self,
        lineage: &mut LockedLineage<'_>,
        request: &Request,
        mutation: &Mutation,
        source: &BlobSource<'_>,
        uptime_us: u64,
    ) -> Result<MutationOutcome, RequestError> {
        let blob = source.bytes();
        for (number, edit) in mutation.edits.iter().enumerate() {
            edit.check_indices(number, blob)?;
        }
        let lineage: &mut Lineage = lineage.as_mut().map_err(|error| error.clone())?;
        lineage.require_log()?;
        self.require_seal(request, blob)?;
        let content = content(request, blob.len(), source.crc());
        if let Some(done) = earlier(lineage, &mutation.id, EntryKind::Mutate, content)? {
            return Ok(replay(lineage, done));
        }
        require_base(lineage, mutation.base_generation)?;
        if mutation.confidence.is_none_or(|confidence| confidence <= CONFIDENCE_NEEDED) {
            return Err(RequestError::new(code::LOW_CONFIDENCE, "confidence must be a number above 0.8 and at most 1"));
        }
        if mutation.edits.len() > EDITS_LIMIT {
            let text = format!("{} edits are too many: the limit is {EDITS_LIMIT}", mutation.edits.len());
            return Err(RequestError::new(code::TOO_MANY_EDITS, text).with(json!({"limit": EDITS_LIMIT})));
        }
        let plan = plan(lineage.store(), &mutation.edits, blob)?;
        self.require_memory(lineage, plan.reachable_bytes(), blob.len() as u64)?;
        let reply_bytes = if mutation.digest { LINE_LIMIT } else { 0 };
        let payload_bytes = blob.len() + mutation.edits_json.len() + reply_bytes;
        lineage.require_room(payload_bytes as u64, plan.reachable_bytes())?;
        let asked = ChangeRequest {
            id: mutation.id,
            content,
            upload: source.upload_id(),
            edits: mutation.edits.len() as u32,
            origin: origin_bytes(&mutation.origin),
            confidence: mutation.confidence.unwrap_or_default(),
            uptime_us,
            ..ChangeRequest::default()
        };
        let outcome = self.carry_out(lineage, mutation, &plan, blob, asked)?;
        self.spend_energy(plan.touched_bytes());
        Ok(outcome)
    }

    /// Checks that there is memory for a mutation: for before-images and private copies of the pages that may change, and
    /// for the blob in the journal. Older before-images are freed if necessary. There must be memory to recover from the
    /// journal, too, once this worker has ended.
    ///
    /// # Errors
    /// 1017 without `retry_ms`, because waiting does not help.
    fn require_memory(&self, lineage: &mut Lineage, reachable: u64, blob: u64) -> Result<(), RequestError> {
        let available = u64::from(self.page().get(word::MEMORY_AVAILABLE_KIB)) * 1024;
        let copies = reachable.min(lineage.store().memory().clean_bytes());
        let needed = reachable + copies + blob;
        if needed < SMALL_BYTES || available == 0 {
            return Ok(());
        }
        let (recovery, held) = (lineage.recovery_bytes(reachable, blob), lineage.held_bytes());
        if recovery >= available + held {
            let text = format!(
                "the machine may need {recovery} bytes of memory to make the mutation again after a restart, but {} are available",
                available + held
            );
            return Err(RequestError::new(code::BUSY, text));
        }
        if needed < available {
            return Ok(());
        }
        self.release_past(true);
        self.uploads().drop_spare();
        let freed = lineage.drop_before_images();
        if needed < available + freed {
            return Ok(());
        }
        let text = format!("the mutation may need {needed} bytes of memory, but {available} are available");
        Err(RequestError::new(code::BUSY, text))
    }

    fn carry_out(
        &self,
        lineage: &mut Lineage,
        mutation: &Mutation,
        plan: &Plan<'_>,
        blob: &[u8],
        mut asked: ChangeRequest,
    ) -> Result<MutationOutcome, RequestError> {
        let started_us = monotonic_us();
        let vitals = self.vitals();
        let targets = plan.targets();
        let names: Vec<String> =
            targets.iter().map(|target| lineage.store().tensors()[target.index].name.to_string()).collect();
        let next_generation = lineage.generation() + 1;
        let mut change = lineage.store_mut().memory_mut().begin();
        let applied = apply(plan, &mut change, &|| vitals.make_progress());
        if let Err(error) = applied {
            drop(change);
            let name = &lineage.store().tensors()[error.tensor].name;
            return Err(RequestError::new(code::NOT_FINITE, format!("a value of {name:?} would not be finite")));
        }
        let ranges: Vec<_> = targets.iter().map(|target| target.address..target.address + target.bytes).collect();
        let changed_bytes = change.changed_bytes(&ranges);
        let changed: Vec<usize> = (0..targets.len()).filter(|number| changed_bytes[*number] > 0).collect();
        if changed.is_empty() {
            return Err(RequestError::new(code::NO_CHANGE, "the mutation changes nothing"));
        }
        asked.digest = mutation.digest;
        asked.changed_tensors = changed.len() as u32;
        asked.changed_bytes = changed_bytes.iter().sum();
        let shown = &changed[..changed.len().min(NAMES_LIMIT)];
        if mutation.digest {
            let names = shown.iter().map(|number| names[*number].clone());
            require_line(&mutation.id, next_generation, &asked, names)?;
        }
        self.require_energy(plan.touched_bytes())?;
        let before = change.commit();
        let sha256 = mutation.digest.then(|| {
            lineage.store_mut().drop_digests(before.iter().map(|(page, _)| page));
            let shown: Vec<usize> = shown.iter().map(|number| targets[*number].index).collect();
            Value::from(digests(lineage.store(), &shown, self.page()))
        });
        let reply = sha256.as_ref().map(Value::to_string).unwrap_or_default();
        let lease_until_us = mutation.lease_ms.map(|ms| monotonic_us().saturating_add(ms.saturating_mul(1000)));
        let cost_us = monotonic_us() - started_us;
        let payload = MutationPayload { edits: mutation.edits_json.as_bytes(), reply: reply.as_bytes(), blob };
        lineage.add_mutation(asked, before, lease_until_us, &payload, cost_us)?;
        Ok(MutationOutcome {
            generation: lineage.generation(),
            tensors: asked.changed_tensors,
            bytes: asked.changed_bytes,
            replayed: false,
            sha256,
            durable: false, // it is known after the commit
        })
    }

    /// Queues the event of a change.
    pub(super) fn queue_change(&self, kind: RecordKind, generation: u64, id: &[u8; 16]) {
        let id = (*id != [0; 16]).then(|| hex(id));
        self.queue_event(json!({"kind": "mutation", "generation": generation, "change": kind.name(), "id": id}));
    }
}

/// Checks, before a change is made, that its reply with the digests of these tensors fits a line.
///
/// # Errors
/// -32602 if it does not.
fn require_line(
    id: &[u8; 16],
    generation: u64,
    change: &ChangeRequest,
    names: impl Iterator<Item = String>,
) -> Result<(), RequestError> {
    let any_digest = hex(&[0; 32]);
    let sha256: Map<String, Value> = names.map(|name| (name, any_digest.as_str().into())).collect();
    let outcome = MutationOutcome {
        generation,
        tensors: change.changed_tensors,
        bytes: change.changed_bytes,
        replayed: false,
        sha256: Some(sha256.into()),
        durable: false,
    };
    if outcome.reply(id).fits_a_line() {
        return Ok(());
    }
    let text =
        "the reply with the digests does not fit a line: ask without \"digest\", or change fewer tensors at once";
    Err(RequestError::new(code::INVALID_PARAMS, text))
}

/// The result of a mutation that was made before.
fn replay(lineage: &Lineage, done: &PastChange) -> MutationOutcome {
    let sha256 = || lineage.stored_reply(done.offset).and_then(|reply| serde_json::from_str(&reply).ok());
    MutationOutcome {
        generation: done.generation,
        tensors: done.changed_tensors,
        bytes: done.changed_bytes,
        replayed: true,
        sha256: if done.digest { sha256() } else { None },
        durable: lineage.keeps(done.generation),
    }
}
