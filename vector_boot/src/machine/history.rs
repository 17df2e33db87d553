//! The request `history`: the records in the ring, a page at a time.

use serde_json::{json, Value};

use super::{Machine, LINE_MARGIN};
use crate::journal::ring::{Record, Ring};
use crate::protocol::{code, Reply, Request, RequestError, HISTORY_DEFAULT, LINE_LIMIT, VERDICTS};
use crate::rts::hex;
use crate::vitals::RING_WORD;

impl Machine {
    /// The ring of the newest records.
    pub(super) fn ring(&self) -> Ring<'_> {
        Ring::new(self.shared.words().get(RING_WORD..).unwrap_or(&[]))
    }

    pub(super) fn history(&self, request: &Request) -> Result<Reply, RequestError> {
        let mut params = request.params.clone();
        let from = params.integer("from")?.unwrap_or(0);
        let limit = params.integer("limit")?.unwrap_or(HISTORY_DEFAULT as u64);
        params.finish()?;
        if limit == 0 {
            return Err(RequestError::new(code::INVALID_PARAMS, "parameter \"limit\" must be at least 1"));
        }
        request.no_blob()?;
        let ring = self.ring();
        let (mut records, mut bytes) = (Vec::new(), LINE_MARGIN);
        for number in from.max(ring.oldest())..ring.written() {
            let Some(row) = ring.record(number).map(|record| describe(&record)) else { continue };
            bytes += row.to_string().len() + 1;
            if records.len() as u64 == limit || bytes > LINE_LIMIT {
                return Ok(json!({"records": records, "next": number}).into());
            }
            records.push(row);
        }
        Ok(json!({"records": records, "next": null}).into())
    }
}

fn describe(record: &Record) -> Value {
    json!({
        "generation": record.generation,
        "kind": record.kind.name(),
        "verdict": VERDICTS[usize::from(record.code != 0)],
        "code": record.code,
        "id": (record.id != [0; 16]).then(|| hex(&record.id)),
        "origin": record.origin,
        "confidence": record.confidence,
        "edits": record.edits,
        "changed_bytes": record.changed_bytes,
        "uptime_us": record.uptime_us,
        "restored": record.restored,
    })
}
