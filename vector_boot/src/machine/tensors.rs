//! The requests that read tensors: `tensors`, `read` and `digest`.

use serde_json::{json, Map, Value};

use super::{Machine, LINE_MARGIN};
use crate::hw_mmio::Page;
use crate::protocol::{self, code, required, Reply, Request, RequestError, BLOB_LIMIT, NAMES_LIMIT};
use crate::rts::hex;
use crate::tensor::{Store, Tensor};

impl Machine {
    pub(super) fn tensors(&self, request: &Request) -> Result<Reply, RequestError> {
        let mut params = request.params.clone();
        let prefix = params.text("prefix")?.unwrap_or_default();
        let cursor = params.text("cursor")?.unwrap_or_default();
        params.finish()?;
        let refused =
            || RequestError::new(code::INVALID_PARAMS, "parameter \"cursor\" must be the \"next\" of a reply");
        let first = if cursor.is_empty() { 0 } else { cursor.parse::<usize>().map_err(|_| refused())? };
        request.no_blob()?;
        let mut page = Vec::new();
        let mut bytes = LINE_MARGIN;
        let lineage = self.lineage()?;
        let all = lineage.store().tensors();
        for (index, tensor) in all.iter().enumerate().skip(first).filter(|(_, t)| t.name.starts_with(&prefix)) {
            let row = describe(tensor);
            bytes += row.to_string().len() + 1;
            if bytes > protocol::LINE_LIMIT {
                return Ok(json!({"tensors": page, "next": index.to_string()}).into());
            }
            page.push(row);
        }
        Ok(json!({"tensors": page, "next": null}).into())
    }

    pub(super) fn read(&self, request: &Request) -> Result<Reply, RequestError> {
        let mut params = request.params.clone();
        let name = required("tensor", params.text("tensor")?)?;
        let offset = params.integer("offset")?.unwrap_or(0);
        let bytes = required("bytes", params.integer("bytes")?)?;
        let wanted = params.integer("generation")?;
        params.finish()?;
        if bytes == 0 {
            return Err(RequestError::new(code::INVALID_PARAMS, "parameter \"bytes\" must be at least 1"));
        }
        request.no_blob()?;
        if bytes > BLOB_LIMIT as u64 {
            return Err(RequestError::new(
                code::UNUSABLE_BLOB,
                format!("{bytes} bytes do not fit a blob: read at most {BLOB_LIMIT} at once"),
            ));
        }
        let lineage = self.lineage()?;
        let store = lineage.store();
        let tensor = &store.tensors()[find(store, &name)?];
        if offset + bytes > tensor.bytes {
            let text = format!("bytes {offset} to {} leave {name:?}, which has {} bytes", offset + bytes, tensor.bytes);
            return Err(RequestError::new(code::OUT_OF_BOUNDS, text));
        }
        // The range lies inside the tensor, which is in memory: both ends fit usize.
        let (range, page) = (offset as usize..(offset + bytes) as usize, self.page());
        let generation = wanted.unwrap_or(lineage.generation());
        let blob = match generation == lineage.generation() {
            true => store.read(tensor, range, page),
            false => self.with_past(&lineage, generation, |past| store.read_in(&past.memory, tensor, range, page))?,
        };
        let result = json!({"tensor": name, "offset": offset, "bytes": bytes, "generation": generation});
        Ok(Reply { result, blob })
    }

    pub(super) fn digest(&self, request: &Request) -> Result<Reply, RequestError> {
        let mut params = request.params.clone();
        let names = params.texts("tensors", NAMES_LIMIT)?;
        let wanted = params.integer("generation")?;
        params.finish()?;
        request.no_blob()?;
        let lineage = self.lineage()?;
        let store = lineage.store();
        let tensors: Vec<usize> = match &names {
            Some(names) => names.iter().map(|name| find(store, name)).collect::<Result<_, _>>()?,
            None => store.positions_in_name_order().take(NAMES_LIMIT).collect(),
        };
        let (page, generation) = (self.page(), wanted.unwrap_or(lineage.generation()));
        let answer = |sha256: &dyn Fn(usize) -> [u8; 32]| {
            let model = hex(&store.model_sha256_of(sha256));
            let named = |index: &usize| (store.tensors()[*index].name.to_string(), hex(&sha256(*index)).into());
            let digests: Map<String, Value> = tensors.iter().map(named).collect();
            json!({"generation": generation, "model": model, "sha256": digests}).into()
        };
        if generation == lineage.generation() {
            return Ok(answer(&|index| store.sha256(index, page)));
        }
        let vitals = self.vitals();
        self.with_past(&lineage, generation, |past| {
            answer(&|index| {
                vitals.make_progress();
                past.sha256(index, || store.sha256_in(&past.memory, index, page))
            })
        })
    }
}

fn find(store: &Store, name: &str) -> Result<usize, RequestError> {
    store.position(name).ok_or_else(|| RequestError::new(code::UNKNOWN_TENSOR, format!("there is no tensor {name:?}")))
}

/// SHA-256 by name of the tensors at these indices.
pub(super) fn digests(store: &Store, tensors: &[usize], page: Page<'_>) -> Map<String, Value> {
    let digest = |index: &usize| (store.tensors()[*index].name.to_string(), hex(&store.sha256(*index, page)).into());
    tensors.iter().map(digest).collect()
}

fn describe(tensor: &Tensor) -> Value {
    json!({
        "name": &*tensor.name,
        "type": tensor.tensor_type.name(),
        "shape": &*tensor.shape,
        "bytes": tensor.bytes,
        "protected": tensor.protected,
    })
}
