//! The parameters of a `mutate` request, and the edits in them.

use serde_json::{Map, Value};

use super::seeded::{threshold, Form};
use super::{EditError, EditErrorKind};
use crate::protocol::{required, ParameterError, Params, RANK_LIMIT};

/// The part of the blob that belongs to an edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobPart {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

impl BlobPart {
    /// Its bytes; `None` if it leaves the blob.
    pub fn of<'a>(&self, blob: &'a [u8]) -> Option<&'a [u8]> {
        let start = usize::try_from(self.offset).ok()?;
        blob.get(start..start.checked_add(usize::try_from(self.len).ok()?)?)
    }
}

/// One edit as requested.
#[derive(Debug, Clone, PartialEq)]
pub enum Edit {
    /// Bytes in the tensor's storage type.
    Dense {
        /// The tensor.
        tensor: String,
        /// First byte in the tensor.
        offset: u64,
        /// The bytes.
        part: BlobPart,
    },
    /// Values of single elements.
    Sparse {
        /// The tensor.
        tensor: String,
        /// Whether the values are added to what is there, or replace it.
        add: bool,
        /// n u64 indices, then n f32 values.
        part: BlobPart,
    },
    /// Adds the product of two matrices of low rank.
    LowRank(LowRank),
    /// Adds noise that the machine generates.
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
        part: BlobPart,
    },
}

/// An edit that adds scale * A * transposed B to a tensor of two dimensions.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRank {
    /// The tensor.
    pub tensor: String,
    /// Columns of both matrices.
    pub rank: usize,
    /// Factor of the product.
    pub scale: f32,
    /// A: ne1 * rank f32, then B: ne0 * rank f32.
    pub part: BlobPart,
}

impl Edit {
    /// Its part of the blob.
    pub fn part(&self) -> Option<BlobPart> {
        match self {
            Edit::Dense { part, .. }
            | Edit::Sparse { part, .. }
            | Edit::LowRank(LowRank { part, .. })
            | Edit::Program { part, .. } => Some(*part),
            Edit::Seeded { .. } => None,
        }
    }

    /// Refuses indices that do not increase. Indices that cannot be read are left to [`super::plan::plan`].
    ///
    /// # Errors
    /// [`EditErrorKind::Malformed`].
    pub fn check_indices(&self, number: usize, blob: &[u8]) -> Result<(), EditError> {
        let Edit::Sparse { part, .. } = self else { return Ok(()) };
        let Some(bytes) = part.of(blob).filter(|bytes| bytes.len().is_multiple_of(12)) else { return Ok(()) };
        let indices = bytes[..bytes.len() / 12 * 8].chunks_exact(8).map(read_u64);
        if indices.is_sorted_by(|a, b| a < b) {
            return Ok(());
        }
        Err(malformed("the indices are not strictly increasing").of_edit(number))
    }
}

/// A little-endian number of 8 bytes.
pub fn read_u64(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

/// A `mutate` request.
#[derive(Debug, Clone, PartialEq)]
pub struct Mutation {
    /// Id of the change, chosen by the client.
    pub id: [u8; 16],
    /// Generation it was made for.
    pub base_generation: u64,
    /// Its confidence; `None` if it is not a number from 0 to 1.
    pub confidence: Option<f64>,
    /// Who made it.
    pub origin: String,
    /// The edits as JSON, for the journal.
    pub edits_json: String,
    /// The edits, in order.
    pub edits: Vec<Edit>,
    /// How long its trial lasts, in milliseconds; `None` for no trial.
    pub lease_ms: Option<u64>,
    /// Whether the reply has the digests of the changed tensors.
    pub digest: bool,
}

impl Mutation {
    /// Reads the parameters.
    ///
    /// # Errors
    /// [`EditErrorKind::Malformed`].
    pub fn parse(mut params: Params) -> Result<Self, EditError> {
        let id = required("id", params.hex("id")?)?;
        let base_generation = required("base_generation", params.integer("base_generation")?)?;
        let confidence = required("confidence", params.value("confidence"))?;
        let origin = params.text("origin")?.unwrap_or_default();
        let edits = required("edits", params.value("edits"))?;
        let lease_ms = params.integer("lease_ms")?;
        let digest = params.boolean("digest")?.unwrap_or(false);
        params.finish()?;
        if lease_ms == Some(0) {
            return Err(malformed("parameter \"lease_ms\" must be at least 1"));
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
/// [`EditErrorKind::Malformed`]; the sentence names the edit.
pub fn parse_edits(edits: Value) -> Result<Vec<Edit>, EditError> {
    let Value::Array(items) = edits else {
        return Err(malformed("parameter \"edits\" must be a list of objects"));
    };
    let parse = |(number, item)| match item {
        Value::Object(members) => parse_edit(members).map_err(|error| error.of_edit(number)),
        _ => Err(malformed(format!("edit {number} is not an object"))),
    };
    items.into_iter().enumerate().map(parse).collect()
}

fn malformed(text: impl Into<String>) -> EditError {
    EditError::new(EditErrorKind::Malformed, text)
}

fn parse_edit(members: Map<String, Value>) -> Result<Edit, EditError> {
    let mut params = Params::new(members);
    let kind = required("kind", params.text("kind")?)?;
    let tensor = |params: &mut Params| -> Result<String, ParameterError> { required("tensor", params.text("tensor")?) };
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
                op => return Err(malformed(format!("op must be set or add, not {op:?}"))),
            };
            Edit::Sparse { tensor, add, part: part(&mut params)? }
        }
        "low_rank" => {
            let tensor = tensor(&mut params)?;
            let rank = required("rank", params.integer("rank")?)?;
            if !(1..=RANK_LIMIT as u64).contains(&rank) {
                return Err(malformed(format!("parameter \"rank\" must be 1 to {RANK_LIMIT}")));
            }
            let scale = required("scale", params.number("scale")?)? as f32;
            Edit::LowRank(LowRank { tensor, rank: rank as usize, scale, part: part(&mut params)? })
        }
        "seeded" => seeded(&mut params)?,
        "program" => Edit::Program { tensor: tensor(&mut params)?, part: part(&mut params)? },
        kind => {
            let text = format!("kind must be dense, sparse, low_rank, seeded or program, not {kind:?}");
            return Err(malformed(text));
        }
    };
    params.finish()?;
    Ok(edit)
}

fn seeded(params: &mut Params) -> Result<Edit, EditError> {
    let tensors = required("tensors", params.text("tensors")?)?;
    let seed = required("seed", params.hex("seed")?)?;
    let form = match required("form", params.text("form")?)?.as_str() {
        "normal" => Form::Normal,
        "step" => Form::Step,
        "scale" => Form::Scale,
        form => return Err(malformed(format!("form must be normal, step or scale, not {form:?}"))),
    };
    let density = required("density", params.number("density")?)?;
    if !(0.0..=1.0).contains(&density) {
        return Err(malformed("parameter \"density\" must be 0 to 1"));
    }
    let scale = match (form, params.number("scale")?) {
        (Form::Step, None | Some(1.0)) => 1.0,
        (Form::Step, Some(_)) => return Err(malformed("parameter \"scale\" must be 1 for the form step")),
        (_, scale) => required("scale", scale)?,
    };
    Ok(Edit::Seeded { tensors, seed, form, threshold: threshold(density), scale: scale as f32 })
}

fn part(params: &mut Params) -> Result<BlobPart, EditError> {
    let refused = || malformed("\"blob\" must be [offset, length] in bytes");
    let numbers = match required("blob", params.value("blob"))? {
        Value::Array(items) => items.iter().map(Value::as_u64).collect::<Option<Vec<u64>>>(),
        _ => None,
    };
    match numbers.as_deref() {
        Some(&[offset, len]) => Ok(BlobPart { offset, len }),
        _ => Err(refused()),
    }
}
