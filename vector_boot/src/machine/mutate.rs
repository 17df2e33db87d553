//! The gate: every check of a mutation in its order, then the change, then the reply.

use serde_json::{json, Value};

use super::uploads::Upload;
use super::{digests, Machine};
use crate::hw_mmio::word;
use crate::journal::ring::{self, Record};
use crate::journal::{Content, Kind};
use crate::lineage::ids::Done;
use crate::lineage::{Asked, Lineage, Refusal};
use crate::mutation::apply::apply;
use crate::mutation::plan::{plan, Plan, Target};
use crate::mutation::request::Mutation;
use crate::protocol::{Blob, Failure, Reply, Request, EDIT_LIMIT};
use crate::rts::hex;
use crate::sys::monotonic_us;

/// Confidence that is not enough.
const CONFIDENCE_NEEDED: f64 = 0.8;
/// Digests a reply tells at most.
const DIGESTS_LIMIT: usize = 256;
/// Mutations that need less memory need not ask for it first.
const SMALL_BYTES: u64 = 4 << 20;

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unknown(text) => Failure::new(1014, text),
            Refusal::Journal(why) => Failure::new(1015, format!("no mutations until the journal is repaired: {why}")),
        }
    }
}

/// Refuses to go on with a change whose id was used for another one; tells what was done when it is the same.
pub(super) fn earlier<'a>(
    lineage: &'a Lineage,
    id: &[u8; 16],
    kind: Kind,
    content: Content,
) -> Result<Option<&'a Done>, Failure> {
    match lineage.ids().find(id) {
        None => Ok(None),
        Some(done) if done.kind == kind && done.content == content => Ok(Some(done)),
        Some(_) => Err(Failure::new(1020, format!("id {} was used for another change", hex(id)))),
    }
}

/// What a request's parameters and blob are told apart by.
pub(super) fn content(request: &Request, blob: &[u8]) -> Content {
    let params = request.params.canonical();
    Content {
        params_crc: crc32c::crc32c(params.as_bytes()),
        blob_crc: crc32c::crc32c(blob),
        bytes: (params.len() + blob.len()) as u64,
    }
}

/// Where a mutation's bytes come from.
enum Source<'a> {
    Message(&'a [u8]),
    Upload(Upload),
}

impl Source<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Source::Message(bytes) => bytes,
            Source::Upload(upload) => upload.bytes().unwrap_or_default(),
        }
    }

    fn upload_id(&self) -> [u8; 16] {
        match self {
            Source::Message(_) => [0; 16],
            Source::Upload(upload) => upload.id,
        }
    }
}

/// What a mutation did.
struct Outcome {
    generation: u64,
    tensors: u32,
    bytes: u64,
    replayed: bool,
    sha256: Option<Value>,
}

impl Machine {
    pub(super) fn mutate(&self, request: &Request) -> Result<Reply, Failure> {
        let mut record = Record::plain(ring::Kind::Mutate, self.generation(), self.uptime_us());
        let result = self.judge(request, &mut record);
        let page = self.page();
        match &result {
            Ok(outcome) if outcome.replayed => (),
            Ok(outcome) => {
                record.generation = outcome.generation;
                record.changed_bytes = u32::try_from(outcome.bytes).unwrap_or(u32::MAX);
                self.ring().push(&record);
                page.set(word::MUTATIONS_ACCEPTED, page.get(word::MUTATIONS_ACCEPTED).wrapping_add(1));
                self.tell_change(record.kind, outcome.generation, &record.id);
            }
            Err(failure) => {
                record.code = i16::try_from(failure.code).unwrap_or(i16::MIN);
                self.ring().push(&record);
                page.set(word::MUTATIONS_REFUSED, page.get(word::MUTATIONS_REFUSED).wrapping_add(1));
            }
        }
        let outcome = result?;
        let mut reply = json!({
            "id": hex(&record.id),
            "generation": outcome.generation,
            "changed": {"tensors": outcome.tensors, "bytes": outcome.bytes},
            "durable": false,
            "replayed": outcome.replayed,
        });
        if let Some(sha256) = outcome.sha256 {
            reply["sha256"] = sha256;
        }
        Ok(reply.into())
    }

    /// Parameters and blob; then the weights.
    fn judge(&self, request: &Request, record: &mut Record) -> Result<Outcome, Failure> {
        let mutation = Mutation::parse(request.params.clone())?;
        record.id = mutation.id;
        record.origin.clone_from(&mutation.origin);
        record.confidence = mutation.confidence;
        record.edits = mutation.edits.len() as u32;
        let source = match self.source(request, &mutation) {
            Err(failure) => return self.lost_upload(request, &mutation).ok_or(failure),
            Ok(source) => source,
        };
        let result = self.change(request, &mutation, &source);
        match (source, &result) {
            // A refused mutation may be sent again without its bytes.
            (Source::Upload(upload), Err(_)) => self.uploads().put_back(upload),
            (Source::Upload(upload), Ok(outcome)) if outcome.replayed => self.uploads().put_back(upload),
            _ => (),
        }
        result
    }

    fn source<'a>(&self, request: &'a Request, mutation: &Mutation) -> Result<Source<'a>, Failure> {
        let unknown = || Failure::new(1012, "there is no such upload, or some of it is missing");
        match &request.blob {
            Blob::Bytes(bytes) => Ok(Source::Message(bytes)),
            Blob::Upload(id) => {
                let id = crate::protocol::parse_hex(id).ok_or_else(unknown)?;
                self.uploads().take(&id).map(Source::Upload).ok_or_else(unknown)
            }
            _ => {
                request.no_blob()?;
                let needed = mutation.edits.iter().any(|edit| edit.part().is_some_and(|part| part.len > 0));
                match needed {
                    true => Err(Failure::new(1012, "the blob is missing: an edit takes bytes of it")),
                    false => Ok(Source::Message(&[])),
                }
            }
        }
    }

    /// The old reply to a mutation sent again whose upload is gone because it was used.
    fn lost_upload(&self, request: &Request, mutation: &Mutation) -> Option<Outcome> {
        let Blob::Upload(upload) = &request.blob else { return None };
        let lineage = self.lineage().ok()?;
        let done = lineage.ids().find(&mutation.id)?;
        let content = content(request, &[]);
        let same = done.kind == Kind::Mutate
            && done.content.params_crc == content.params_crc
            && crate::protocol::parse_hex(upload) == Some(done.upload);
        same.then(|| replay(&lineage, done))
    }

    fn change(&self, request: &Request, mutation: &Mutation, source: &Source<'_>) -> Result<Outcome, Failure> {
        let blob = source.bytes();
        for (number, edit) in mutation.edits.iter().enumerate() {
            edit.check_indices(number, blob)?;
        }
        let mut lineage = self.lineage_mut()?;
        lineage.require_log()?;
        let content = content(request, blob);
        if let Some(done) = earlier(&lineage, &mutation.id, Kind::Mutate, content)? {
            return Ok(replay(&lineage, done));
        }
        let generation = lineage.generation();
        if mutation.base_generation != generation {
            let text =
                format!("the mutation was made for generation {}, this is {generation}", mutation.base_generation);
            return Err(Failure::new(1007, text).with(json!({"generation": generation})));
        }
        if mutation.confidence.is_none_or(|confidence| confidence <= CONFIDENCE_NEEDED) {
            return Err(Failure::new(1006, "confidence must be a number above 0.8 and at most 1"));
        }
        if mutation.edits.len() > EDIT_LIMIT {
            let text = format!("{} edits are too many: at most {EDIT_LIMIT}", mutation.edits.len());
            return Err(Failure::new(1013, text).with(json!({"limit": EDIT_LIMIT})));
        }
        let plan = plan(lineage.store(), &mutation.edits, blob)?;
        self.require_memory(&mut lineage, plan.reachable_bytes(), blob.len() as u64)?;
        let payload_bytes = blob.len() as u64 + mutation.edits_json.len() as u64;
        if !lineage.has_room(payload_bytes) {
            lineage.make_room();
        }
        if !lineage.has_room(payload_bytes) {
            return Err(Failure::new(1015, "the journal is full: promote or roll back what is on trial"));
        }
        let asked = Asked { id: mutation.id, content, upload: source.upload_id(), ..Asked::default() };
        let outcome = self.carry_out(&mut lineage, mutation, &plan, blob, asked)?;
        self.spend_energy(plan.touched_bytes());
        self.show(&lineage);
        Ok(outcome)
    }

    /// Refuses what would need more memory than there is: before-images of what changes, a private copy where there is
    /// none yet, and the blob once more in the journal. Older before-images make room first.
    fn require_memory(&self, lineage: &mut Lineage, reachable: u64, blob: u64) -> Result<(), Failure> {
        let available = u64::from(self.page().get(word::MEMORY_AVAILABLE_KIB)) * 1024;
        let copies = reachable.min(lineage.store().memory().clean_bytes());
        let needed = reachable + copies + blob;
        if needed < SMALL_BYTES || available == 0 || needed < available {
            return Ok(());
        }
        let freed = lineage.forget_before_images();
        if needed < available + freed {
            return Ok(());
        }
        let text = format!("the mutation may need {needed} bytes of memory, and {available} are there");
        Err(Failure::new(1017, text)) // waiting does not help, so no retry_ms
    }

    fn carry_out(
        &self,
        lineage: &mut Lineage,
        mutation: &Mutation,
        plan: &Plan<'_>,
        blob: &[u8],
        mut asked: Asked,
    ) -> Result<Outcome, Failure> {
        let started_us = monotonic_us();
        let vitals = self.vitals();
        let mut change = lineage.store_mut().memory_mut().begin();
        let applied = apply(plan, &mut change, &|| vitals.make_progress());
        if let Err(index) = applied {
            drop(change);
            let name = &lineage.store().tensors()[index].name;
            return Err(Failure::new(1005, format!("a value of {name:?} would not be finite")));
        }
        let targets = plan.targets();
        let ranges: Vec<(usize, usize)> = targets.iter().map(|target| (target.address, target.bytes)).collect();
        let changed_bytes = change.changed_bytes(&ranges);
        let changed: Vec<&Target> =
            targets.iter().zip(&changed_bytes).filter(|(_, bytes)| **bytes > 0).map(|(target, _)| target).collect();
        if changed.is_empty() {
            return Err(Failure::new(1008, "the mutation changes nothing"));
        }
        self.require_energy(plan.touched_bytes())?;
        let before = change.commit();
        asked.digest = mutation.digest;
        asked.changed_tensors = changed.len() as u32;
        asked.changed_bytes = changed_bytes.iter().sum();
        let sha256 = mutation.digest.then(|| {
            lineage.store_mut().forget_digests(before.iter().map(|(page, _)| page));
            let told: Vec<usize> = changed.iter().take(DIGESTS_LIMIT).map(|target| target.index).collect();
            Value::from(digests(lineage.store(), &told, self.page()))
        });
        let reply = sha256.as_ref().map(Value::to_string).unwrap_or_default();
        let lease_until_us = mutation.lease_ms.map(|ms| monotonic_us().saturating_add(ms.saturating_mul(1000)));
        let cost_us = monotonic_us() - started_us;
        lineage.keep(asked, before, lease_until_us, (&mutation.edits_json, &reply, blob), cost_us)?;
        Ok(Outcome {
            generation: lineage.generation(),
            tensors: asked.changed_tensors,
            bytes: asked.changed_bytes,
            replayed: false,
            sha256,
        })
    }

    /// Queues the event of a change.
    pub(super) fn tell_change(&self, kind: ring::Kind, generation: u64, id: &[u8; 16]) {
        let id = (*id != [0; 16]).then(|| hex(id));
        self.tell(json!({"kind": "mutation", "generation": generation, "change": kind.name(), "id": id}));
    }
}

/// The outcome of a mutation that was made before.
fn replay(lineage: &Lineage, done: &Done) -> Outcome {
    let told = || lineage.noted_reply(done.offset).and_then(|reply| serde_json::from_str(&reply).ok());
    Outcome {
        generation: done.generation,
        tensors: done.changed_tensors,
        bytes: done.changed_bytes,
        replayed: true,
        sha256: if done.digest { told() } else { None },
    }
}
