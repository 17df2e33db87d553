//! The parameters of a `mutate` request, and the edits it lists.

use serde_json::{Map, Value};

use super::seeded::{threshold, Form};
use crate::protocol::{required, Failure, Params};

/// Most factors of a low-rank edit.
const RANK_LIMIT: u64 = 64;

/// Which part of the blob an edit takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

impl Part {
    /// Its bytes; `None` if it leaves the blob.
    pub fn of<'a>(&self, blob: &'a [u8]) -> Option<&'a [u8]> {
        let start = usize::try_from(self.offset).ok()?;
        blob.get(start..start.checked_add(usize::try_from(self.len).ok()?)?)
    }
}

/// One edit as it was asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Edit {
    /// Bytes in the tensor's storage type.
    Dense {
        /// The tensor.
        tensor: String,
        /// First byte in the tensor.
        offset: u64,
        /// The bytes.
        part: Part,
    },
    /// Values of single elements.
    Sparse {
        /// The tensor.
        tensor: String,
        /// Whether the values are added to what is there, or replace it.
        add: bool,
        /// n u64 indices, then n f32 values.
        part: Part,
    },
    /// A product of two thin matrices, added.
    LowRank {
        /// The tensor.
        tensor: String,
        /// Columns of both matrices.
        rank: usize,
        /// Factor of the product.
        scale: f32,
        /// ne1 * rank f32, then ne0 * rank f32.
        part: Part,
    },
    /// Noise made here.
    Seeded {
        /// A name, or a pattern of names.
        tensors: String,
        /// Seed of the noise.
        seed: [u8; 8],
        /// What the noise does.
        form: Form,
        /// An element is selected when the low half of its word is below this.
        threshold: u64,
        /// Size of the noise.
        scale: f32,
    },
    /// A pixel program for one of the slots.
    Program {
        /// The slot.
        tensor: String,
        /// The pixels.
        part: Part,
    },
}

impl Edit {
    /// The part of the blob it takes.
    pub fn part(&self) -> Option<Part> {
        match self {
            Edit::Dense { part, .. }
            | Edit::Sparse { part, .. }
            | Edit::LowRank { part, .. }
            | Edit::Program { part, .. } => Some(*part),
            Edit::Seeded { .. } => None,
        }
    }

    /// Refuses indices that do not increase, as far as they can be read.
    ///
    /// # Errors
    /// -32602.
    pub fn check_indices(&self, number: usize, blob: &[u8]) -> Result<(), Failure> {
        let Edit::Sparse { part, .. } = self else { return Ok(()) };
        let Some(bytes) = part.of(blob).filter(|bytes| bytes.len().is_multiple_of(12)) else { return Ok(()) };
        let indices = bytes[..bytes.len() / 12 * 8].chunks_exact(8).map(read_u64);
        if indices.is_sorted_by(|a, b| a < b) {
            return Ok(());
        }
        Err(Failure::new(-32602, format!("edit {number}: the indices are not strictly increasing")))
    }
}

/// A little-endian number of 8 bytes.
pub fn read_u64(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

/// A `mutate` request.
#[derive(Debug, Clone, PartialEq)]
pub struct Mutation {
    /// Name of the change, chosen by who asks for it.
    pub id: [u8; 16],
    /// Generation it was made for.
    pub base_generation: u64,
    /// How sure its maker is; `None` if that is no number from 0 to 1.
    pub confidence: Option<f64>,
    /// Who asks.
    pub origin: String,
    /// The edits as JSON, as they go into the journal.
    pub edits_json: String,
    /// The edits, in order.
    pub edits: Vec<Edit>,
    /// For how long it is on trial.
    pub lease_ms: Option<u64>,
    /// Whether the answer tells the digests of the changed tensors.
    pub digest: bool,
}

impl Mutation {
    /// Reads the parameters.
    ///
    /// # Errors
    /// -32602.
    pub fn parse(mut params: Params) -> Result<Self, Failure> {
        let id = required("id", params.hex("id")?)?;
        let base_generation = required("base_generation", params.integer("base_generation")?)?;
        let confidence = required("confidence", params.value("confidence"))?;
        let origin = params.text("origin")?.unwrap_or_default();
        let edits = required("edits", params.value("edits"))?;
        let lease_ms = params.integer("lease_ms")?;
        let digest = params.boolean("digest")?.unwrap_or(false);
        params.finish()?;
        if lease_ms == Some(0) {
            return Err(Failure::new(-32602, "parameter \"lease_ms\" must be at least 1"));
        }
        Ok(Mutation {
            id,
            base_generation,
            confidence: confidence.as_f64().filter(|confidence| (0.0..=1.0).contains(confidence)),
            origin,
            edits_json: edits.to_string(),
            edits: parse_edits(edits)?,
            lease_ms,
            digest,
        })
    }
}

/// Reads a list of edits.
///
/// # Errors
/// -32602 that names the edit.
pub fn parse_edits(edits: Value) -> Result<Vec<Edit>, Failure> {
    let Value::Array(items) = edits else {
        return Err(Failure::new(-32602, "parameter \"edits\" must be a list of objects"));
    };
    let parse = |(number, item)| match item {
        Value::Object(members) => parse_edit(members).map_err(|mut failure| {
            failure.message = format!("edit {number}: {}", failure.message);
            failure
        }),
        _ => Err(Failure::new(-32602, format!("edit {number} is not an object"))),
    };
    items.into_iter().enumerate().map(parse).collect()
}

fn parse_edit(members: Map<String, Value>) -> Result<Edit, Failure> {
    let mut params = Params::new(members);
    let kind = required("kind", params.text("kind")?)?;
    let tensor = |params: &mut Params| required("tensor", params.text("tensor")?);
    let edit = match kind.as_str() {
        "dense" => Edit::Dense {
            tensor: tensor(&mut params)?,
            offset: required("offset", params.integer("offset")?)?,
            part: part(&mut params)?,
        },
        "sparse" => {
            let tensor = tensor(&mut params)?;
            let add = match required("op", params.text("op")?)?.as_str() {
                "set" => false,
                "add" => true,
                op => return Err(Failure::new(-32602, format!("there is no op {op:?}: set, add"))),
            };
            Edit::Sparse { tensor, add, part: part(&mut params)? }
        }
        "low_rank" => {
            let tensor = tensor(&mut params)?;
            let rank = required("rank", params.integer("rank")?)?;
            if !(1..=RANK_LIMIT).contains(&rank) {
                return Err(Failure::new(-32602, "parameter \"rank\" must be 1 to 64"));
            }
            let scale = required("scale", params.number("scale")?)? as f32;
            Edit::LowRank { tensor, rank: rank as usize, scale, part: part(&mut params)? }
        }
        "seeded" => seeded(&mut params)?,
        "program" => Edit::Program { tensor: tensor(&mut params)?, part: part(&mut params)? },
        kind => {
            let text = format!("there is no kind {kind:?}: dense, sparse, low_rank, seeded, program");
            return Err(Failure::new(-32602, text));
        }
    };
    params.finish()?;
    Ok(edit)
}

fn seeded(params: &mut Params) -> Result<Edit, Failure> {
    let tensors = required("tensors", params.text("tensors")?)?;
    let seed = required("seed", params.hex("seed")?)?;
    let form = match required("form", params.text("form")?)?.as_str() {
        "normal" => Form::Normal,
        "step" => Form::Step,
        "scale" => Form::Scale,
        form => return Err(Failure::new(-32602, format!("there is no form {form:?}: normal, step, scale"))),
    };
    let density = required("density", params.number("density")?)?;
    if !(0.0..=1.0).contains(&density) {
        return Err(Failure::new(-32602, "parameter \"density\" must be 0 to 1"));
    }
    let scale = match (form, params.number("scale")?) {
        (Form::Step, None | Some(1.0)) => 1.0,
        (Form::Step, Some(_)) => return Err(Failure::new(-32602, "parameter \"scale\" must be 1 for steps")),
        (_, scale) => required("scale", scale)?,
    };
    Ok(Edit::Seeded { tensors, seed, form, threshold: threshold(density), scale: scale as f32 })
}

fn part(params: &mut Params) -> Result<Part, Failure> {
    let refused = || Failure::new(-32602, "\"blob\" must be [offset, length] in bytes");
    let numbers = match required("blob", params.value("blob"))? {
        Value::Array(items) => items.iter().map(Value::as_u64).collect::<Option<Vec<u64>>>(),
        _ => None,
    };
    match numbers.as_deref() {
        Some(&[offset, len]) => Ok(Part { offset, len }),
        _ => Err(refused()),
    }
}
