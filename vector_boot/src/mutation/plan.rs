//! Judges edits against the tensors there are: what each one touches, or why it is refused.

use super::glob::{is_glob, Glob};
use super::low_rank::Factor;
use super::request::{Edit, Part};
use super::seeded::{Form, Seeded};
use super::sparse::Op;
use super::{noise, supports, Kind};
use crate::gguf::TensorType;
use crate::protocol::Failure;
use crate::tensor::{Store, Tensor};

/// Pixels that fit a slot.
const PIXELS_LIMIT: u64 = 1364;
/// Bytes of a slot.
const SLOT_BYTES: usize = 4096;

/// A tensor that an edit touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target {
    /// Its index in the store.
    pub index: usize,
    /// Where its bytes start.
    pub address: usize,
    /// Its bytes.
    pub bytes: usize,
    /// Type of its elements.
    pub tensor_type: TensorType,
}

/// What one edit does to one tensor.
pub enum Work<'a> {
    /// These bytes go to this offset.
    Bytes {
        /// First byte in the tensor.
        offset: usize,
        /// The bytes.
        bytes: std::borrow::Cow<'a, [u8]>,
    },
    /// Single elements.
    Elements {
        /// What happens to them.
        op: Op,
        /// Their indices, increasing.
        indices: Vec<u64>,
        /// One value each.
        values: Vec<f32>,
    },
    /// A product of two thin matrices.
    Product {
        /// The prepared second matrix.
        factor: Factor,
        /// Bytes of a row of the tensor.
        row_bytes: usize,
        /// The first matrix, `rank` numbers a row.
        a: Vec<f32>,
        /// Columns of both matrices.
        rank: usize,
        /// Factor of the product.
        scale: f32,
    },
    /// Noise.
    Noise(Seeded),
}

/// Edits ready to be applied, in order.
pub struct Plan<'a> {
    /// What each does to which tensor.
    pub steps: Vec<(Target, Work<'a>)>,
}

impl Plan<'_> {
    /// Bytes the edits touch: of the parts where parts say it, else of whole tensors.
    pub fn touched_bytes(&self) -> u64 {
        let touched = |(target, work): &(Target, Work<'_>)| match work {
            Work::Bytes { bytes, .. } => bytes.len() as u64,
            Work::Elements { indices, .. } => indices.len() as u64 * target.tensor_type.block_bytes(),
            Work::Product { .. } | Work::Noise(_) => target.bytes as u64,
        };
        self.steps.iter().map(touched).sum()
    }

    /// Bytes whose pages may change, each tensor's counted once at most.
    pub fn reachable_bytes(&self) -> u64 {
        const PAGE: u64 = crate::tensor::memory::PAGE as u64;
        let mut reached: Vec<(usize, u64, u64)> = Vec::with_capacity(self.steps.len());
        for (target, work) in &self.steps {
            let bytes = match work {
                Work::Bytes { bytes, .. } => bytes.len() as u64 + PAGE,
                Work::Elements { indices, .. } => indices.len() as u64 * PAGE,
                Work::Product { .. } | Work::Noise(_) => target.bytes as u64,
            };
            reached.push((target.index, bytes, target.bytes as u64));
        }
        reached.sort_unstable();
        let tensors = reached.chunk_by(|a, b| a.0 == b.0);
        tensors.map(|steps| steps.iter().map(|step| step.1).sum::<u64>().min(steps[0].2 + 2 * PAGE)).sum()
    }

    /// The tensors, each once, in the store's order.
    pub fn targets(&self) -> Vec<Target> {
        let mut targets: Vec<Target> = self.steps.iter().map(|(target, _)| *target).collect();
        targets.sort_unstable_by_key(|target| target.index);
        targets.dedup();
        targets
    }
}

/// Judges the edits one after the other.
///
/// # Errors
/// 1001, 1002, 1004, 1019 or 1003 of the first edit that cannot be.
pub fn plan<'a>(store: &Store, edits: &[Edit], blob: &'a [u8]) -> Result<Plan<'a>, Failure> {
    let mut steps = Vec::new();
    let mut parts: Vec<Part> = Vec::new();
    for (number, edit) in edits.iter().enumerate() {
        let judged = plan_edit(store, edit, blob, &mut parts, &mut steps);
        judged.map_err(|(code, text)| Failure::new(code, format!("edit {number}: {text}")))?;
    }
    Ok(Plan { steps })
}

type Refusal = (i64, String);

fn plan_edit<'a>(
    store: &Store,
    edit: &Edit,
    blob: &'a [u8],
    parts: &mut Vec<Part>,
    steps: &mut Vec<(Target, Work<'a>)>,
) -> Result<(), Refusal> {
    match edit {
        Edit::Seeded { tensors, seed, form, threshold, scale } => {
            for index in matching(store, tensors)? {
                let (target, tensor) = (target(store, index)?, &store.tensors()[index]);
                require_support(Kind::Seeded(*form), tensor)?;
                let key = noise::key(*seed, &tensor.name);
                let noise = Seeded { key, threshold: *threshold, scale: *scale, form: *form };
                steps.push((target, Work::Noise(noise)));
            }
        }
        Edit::Dense { tensor, offset, part } => {
            let (target, tensor) = named(store, tensor)?;
            let block = tensor.tensor_type.block_bytes();
            if offset % block != 0 || part.len % block != 0 {
                let name = tensor.tensor_type.name();
                return Err((
                    1004,
                    format!("offset and length must be multiples of {block}, the bytes of a {name} block"),
                ));
            }
            let bytes = take(*part, blob, parts)?;
            if offset.checked_add(part.len).is_none_or(|end| end > tensor.bytes) {
                return Err((1003, format!("the bytes leave {:?}, which has {}", tensor.name, tensor.bytes)));
            }
            steps.push((target, Work::Bytes { offset: *offset as usize, bytes: bytes.into() }));
        }
        Edit::Sparse { tensor, add, part } => {
            let (target, tensor) = named(store, tensor)?;
            if part.len % 12 != 0 {
                return Err((1004, "the part must hold 12 bytes for each element: 8 of index, 4 of value".into()));
            }
            require_support(Kind::Sparse, tensor)?;
            let (indices, values) = take(*part, blob, parts)?.split_at(part.len as usize / 12 * 8);
            let indices: Vec<u64> = indices.chunks_exact(8).map(super::request::read_u64).collect();
            let elements = tensor.shape.iter().product::<u64>();
            if let Some(last) = indices.last().filter(|last| **last >= elements) {
                return Err((1003, format!("element {last} lies outside {:?}, which has {elements}", tensor.name)));
            }
            let op = if *add { Op::Add } else { Op::Set };
            steps.push((target, Work::Elements { op, indices, values: floats(values) }));
        }
        Edit::LowRank { tensor, rank, scale, part } => {
            let (target, tensor) = named(store, tensor)?;
            steps.push((target, product(tensor, *rank, *scale, *part, blob, parts)?));
        }
        Edit::Program { tensor, part } => {
            let (target, tensor) = named(store, tensor)?;
            let fits = part.len % 3 == 0 && part.len / 3 <= PIXELS_LIMIT && tensor.bytes == SLOT_BYTES as u64;
            if tensor.tensor_type == TensorType::BYTE && !(tensor.name.starts_with("evolved.") && fits) {
                return Err((
                    1004,
                    "a program is at most 1364 pixels of 3 bytes, for one of evolved.0 to evolved.7".into(),
                ));
            }
            require_support(Kind::Program, tensor)?;
            let pixels = take(*part, blob, parts)?;
            let mut slot = vec![0; SLOT_BYTES];
            slot[..4].copy_from_slice(&(pixels.len() as u32 / 3).to_le_bytes());
            slot[4..4 + pixels.len()].copy_from_slice(pixels);
            steps.push((target, Work::Bytes { offset: 0, bytes: slot.into() }));
        }
    }
    Ok(())
}

fn product<'a>(
    tensor: &Tensor,
    rank: usize,
    scale: f32,
    part: Part,
    blob: &'a [u8],
    parts: &mut Vec<Part>,
) -> Result<Work<'a>, Refusal> {
    let &[columns, rows] = &*tensor.shape else {
        return Err((1004, format!("{:?} has not two dimensions", tensor.name)));
    };
    let wanted = (columns + rows).saturating_mul(4 * rank as u64);
    if part.len != wanted {
        return Err((1004, format!("the part must hold {wanted} bytes: ({columns} + {rows}) * {rank} numbers")));
    }
    require_support(Kind::LowRank, tensor)?;
    let (a, b) = take(part, blob, parts)?.split_at(rows as usize * rank * 4);
    let factor = Factor::new(&floats(b), columns as usize, rank);
    let factor = factor.map_err(|_| (1004, format!("{:?} has no elements", tensor.name)))?;
    let row_bytes = (columns / tensor.tensor_type.block_elements() * tensor.tensor_type.block_bytes()) as usize;
    Ok(Work::Product { factor, row_bytes, a: floats(a), rank, scale })
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|bytes| bytes.try_into().map_or(0.0, f32::from_le_bytes)).collect()
}

/// The tensors a name or pattern means. A tensor that has a pattern for its name is meant by it alone.
fn matching(store: &Store, pattern: &str) -> Result<Vec<usize>, Refusal> {
    if let Some(index) = store.position(pattern) {
        return Ok(vec![index]);
    }
    if !is_glob(pattern) {
        return Err((1001, format!("there is no tensor {pattern:?}")));
    }
    let glob = Glob::new(pattern);
    let meant = |index: &usize| !store.tensors()[*index].protected && glob.matches(&store.tensors()[*index].name);
    let found: Vec<usize> = (0..store.tensors().len()).filter(meant).collect();
    if found.is_empty() {
        return Err((1001, format!("no tensor that may change matches {pattern:?}")));
    }
    Ok(found)
}

fn named<'a>(store: &'a Store, name: &str) -> Result<(Target, &'a Tensor), Refusal> {
    let index = store.position(name).ok_or_else(|| (1001, format!("there is no tensor {name:?}")))?;
    Ok((target(store, index)?, &store.tensors()[index]))
}

fn target(store: &Store, index: usize) -> Result<Target, Refusal> {
    let tensor = &store.tensors()[index];
    match tensor.address().filter(|_| !tensor.protected) {
        Some(address) => Ok(Target { index, address, bytes: tensor.bytes as usize, tensor_type: tensor.tensor_type }),
        None => Err((1002, format!("{:?} is protected", tensor.name))),
    }
}

fn require_support(kind: Kind, tensor: &Tensor) -> Result<(), Refusal> {
    if supports(kind, tensor.tensor_type) {
        return Ok(());
    }
    let edit = match kind {
        Kind::Dense => "dense edit",
        Kind::Sparse => "sparse edit",
        Kind::LowRank => "low-rank edit",
        Kind::Seeded(Form::Normal) => "seeded edit of form normal",
        Kind::Seeded(Form::Step) => "seeded edit of form step",
        Kind::Seeded(Form::Scale) => "seeded edit of form scale",
        Kind::Program => "program",
    };
    Err((1019, format!("{:?} is of type {}, on which there is no {edit}", tensor.name, tensor.tensor_type.name())))
}

/// The bytes of a part that no earlier edit has taken.
fn take<'a>(part: Part, blob: &'a [u8], parts: &mut Vec<Part>) -> Result<&'a [u8], Refusal> {
    let bytes =
        part.of(blob).ok_or_else(|| (1003, format!("the part leaves the blob, which has {} bytes", blob.len())))?;
    // Both lie in the blob: no sum overflows.
    if parts.iter().any(|other| part.offset < other.offset + other.len && other.offset < part.offset + part.len) {
        return Err((1003, "the part overlaps that of an earlier edit".into()));
    }
    parts.push(part);
    Ok(bytes)
}
