//! Checks edits against the tensors of the store, and plans what each one does to which tensor.

use super::glob::{is_glob, Glob};
use super::low_rank::Factor;
use super::request::{BlobPart, Edit, LowRank};
use super::seeded::{Form, Seeded};
use super::sparse::SparseOp;
use super::{noise, supports, EditError, EditErrorKind, EditKind};
use crate::gguf::TensorType;
use crate::protocol::PROGRAM_PIXELS_LIMIT;
use crate::tensor::{Store, Tensor};

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
    /// Writes these bytes at this offset.
    Bytes {
        /// First byte in the tensor.
        offset: usize,
        /// The bytes.
        bytes: std::borrow::Cow<'a, [u8]>,
    },
    /// Changes single elements.
    Elements {
        /// How a value changes its element.
        op: SparseOp,
        /// Their indices, increasing.
        indices: Vec<u64>,
        /// One value each.
        values: Vec<f32>,
    },
    /// Adds the product of two matrices.
    Product {
        /// The second matrix, laid out for the product.
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
    /// Adds noise.
    Noise(Seeded),
}

/// What an edit does to one of its tensors.
pub struct PlanStep<'a> {
    /// The tensor.
    pub target: Target,
    /// What is done to it.
    pub work: Work<'a>,
}

/// Checked edits, ready to be applied.
pub struct Plan<'a> {
    /// The steps, in the order of the edits.
    pub steps: Vec<PlanStep<'a>>,
}

impl Plan<'_> {
    /// Bytes that the edits write: those of the blob where an edit has a part of it, else whole tensors.
    pub fn touched_bytes(&self) -> u64 {
        let touched = |PlanStep { target, work }: &PlanStep<'_>| match work {
            Work::Bytes { bytes, .. } => bytes.len() as u64,
            Work::Elements { indices, .. } => indices.len() as u64 * target.tensor_type.block_bytes(),
            Work::Product { .. } | Work::Noise(_) => target.bytes as u64,
        };
        self.steps.iter().map(touched).sum()
    }

    /// Bytes of the pages that may change; those of a tensor are counted once at most.
    pub fn reachable_bytes(&self) -> u64 {
        const PAGE: u64 = crate::tensor::memory::PAGE as u64;
        let mut reached: Vec<(usize, u64, u64)> = Vec::with_capacity(self.steps.len());
        for PlanStep { target, work } in &self.steps {
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
        let mut targets: Vec<Target> = self.steps.iter().map(|step| step.target).collect();
        targets.sort_unstable_by_key(|target| target.index);
        targets.dedup();
        targets
    }
}

/// Checks the edits one after the other, each in the order of the protocol: unknown tensor, protected tensor, mismatch,
/// unsupported type, out of bounds.
///
/// # Errors
/// The first thing that is wrong with the first edit that is refused.
pub fn plan<'a>(store: &Store, edits: &[Edit], blob: &'a [u8]) -> Result<Plan<'a>, EditError> {
    let mut planner = Planner { store, blob, taken: Vec::new(), steps: Vec::new() };
    for (number, edit) in edits.iter().enumerate() {
        planner.add(edit).map_err(|error| error.of_edit(number))?;
    }
    Ok(Plan { steps: planner.steps })
}

/// What the edits so far do.
struct Planner<'a, 's> {
    store: &'s Store,
    blob: &'a [u8],
    /// Parts of the blob that belong to an edit.
    taken: Vec<BlobPart>,
    steps: Vec<PlanStep<'a>>,
}

impl<'a> Planner<'a, '_> {
    fn add(&mut self, edit: &Edit) -> Result<(), EditError> {
        match edit {
            Edit::Seeded { tensors, seed, form, threshold, scale } => {
                for index in matching(self.store, tensors)? {
                    let (target, tensor) = (target(self.store, index)?, &self.store.tensors()[index]);
                    require_support(EditKind::Seeded(*form), tensor)?;
                    let key = noise::key(*seed, &tensor.name);
                    let noise = Seeded { key, threshold: *threshold, scale: *scale, form: *form };
                    self.steps.push(PlanStep { target, work: Work::Noise(noise) });
                }
                Ok(())
            }
            Edit::Dense { tensor, offset, part } => self.add_dense(tensor, *offset, *part),
            Edit::Sparse { tensor, add, part } => self.add_sparse(tensor, *add, *part),
            Edit::LowRank(edit) => self.add_low_rank(edit),
            Edit::Program { tensor, part } => self.add_program(tensor, *part),
        }
    }

    fn add_dense(&mut self, name: &str, offset: u64, part: BlobPart) -> Result<(), EditError> {
        let (target, tensor) = named(self.store, name)?;
        let block = tensor.tensor_type.block_bytes();
        if !offset.is_multiple_of(block) || !part.len.is_multiple_of(block) {
            let name = tensor.tensor_type.name();
            return refuse(
                EditErrorKind::Mismatch,
                format!("offset and length must be multiples of {block}, the bytes of a {name} block"),
            );
        }
        let bytes = self.take(part)?;
        if offset.checked_add(part.len).is_none_or(|end| end > tensor.bytes) {
            let text = format!("the bytes leave {:?}, which has {} bytes", tensor.name, tensor.bytes);
            return refuse(EditErrorKind::OutOfBounds, text);
        }
        self.steps.push(PlanStep { target, work: Work::Bytes { offset: offset as usize, bytes: bytes.into() } });
        Ok(())
    }

    fn add_sparse(&mut self, name: &str, add: bool, part: BlobPart) -> Result<(), EditError> {
        let (target, tensor) = named(self.store, name)?;
        if !part.len.is_multiple_of(12) {
            let text = "the part must hold 12 bytes for each element: 8 of index, 4 of value";
            return refuse(EditErrorKind::Mismatch, text);
        }
        require_support(EditKind::Sparse, tensor)?;
        let (indices, values) = self.take(part)?.split_at(part.len as usize / 12 * 8);
        let indices: Vec<u64> = indices.chunks_exact(8).map(super::request::read_u64).collect();
        let elements = tensor.shape.iter().product::<u64>();
        if let Some(last) = indices.last().filter(|last| **last >= elements) {
            let text = format!("element {last} lies outside {:?}, which has {elements} elements", tensor.name);
            return refuse(EditErrorKind::OutOfBounds, text);
        }
        let op = if add { SparseOp::Add } else { SparseOp::Set };
        self.steps.push(PlanStep { target, work: Work::Elements { op, indices, values: floats(values) } });
        Ok(())
    }

    fn add_low_rank(&mut self, edit: &LowRank) -> Result<(), EditError> {
        let &LowRank { ref tensor, rank, scale, part } = edit;
        let (target, tensor) = named(self.store, tensor)?;
        let &[columns, rows] = &*tensor.shape else {
            return refuse(EditErrorKind::Mismatch, format!("{:?} does not have two dimensions", tensor.name));
        };
        let wanted = (columns + rows).saturating_mul(4 * rank as u64);
        if part.len != wanted {
            let text = format!("the part must hold {wanted} bytes: ({columns} + {rows}) * {rank} numbers");
            return refuse(EditErrorKind::Mismatch, text);
        }
        require_support(EditKind::LowRank, tensor)?;
        let (a, b) = self.take(part)?.split_at(rows as usize * rank * 4);
        let factor = Factor::new(&floats(b), columns as usize, rank);
        let empty = || EditError::new(EditErrorKind::Mismatch, format!("{:?} has no elements", tensor.name));
        let factor = factor.map_err(|_| empty())?;
        let row_bytes = (columns / tensor.tensor_type.block_elements() * tensor.tensor_type.block_bytes()) as usize;
        self.steps.push(PlanStep { target, work: Work::Product { factor, row_bytes, a: floats(a), rank, scale } });
        Ok(())
    }

    fn add_program(&mut self, name: &str, part: BlobPart) -> Result<(), EditError> {
        let (target, tensor) = named(self.store, name)?;
        let is_program = part.len.is_multiple_of(3) && part.len / 3 <= PROGRAM_PIXELS_LIMIT as u64;
        let is_slot = tensor.bytes == SLOT_BYTES as u64 && tensor.name.starts_with("evolved.");
        // A tensor of another type is left to the check of the type.
        if !is_program || (tensor.tensor_type == TensorType::BYTE && !is_slot) {
            let limit = PROGRAM_PIXELS_LIMIT;
            let text = format!("a program is at most {limit} pixels of 3 bytes, for one of evolved.0 to evolved.7");
            return refuse(EditErrorKind::Mismatch, text);
        }
        require_support(EditKind::Program, tensor)?;
        let pixels = self.take(part)?;
        let mut slot = vec![0; SLOT_BYTES];
        slot[..4].copy_from_slice(&(pixels.len() as u32 / 3).to_le_bytes());
        slot[4..4 + pixels.len()].copy_from_slice(pixels);
        self.steps.push(PlanStep { target, work: Work::Bytes { offset: 0, bytes: slot.into() } });
        Ok(())
    }

    /// The bytes of a part that no earlier edit has taken. An empty part overlaps no other.
    fn take(&mut self, part: BlobPart) -> Result<&'a [u8], EditError> {
        let refused = |text| EditError::new(EditErrorKind::OutOfBounds, text);
        let leaves = || refused(format!("the part leaves the blob, which has {} bytes", self.blob.len()));
        let bytes = part.of(self.blob).ok_or_else(leaves)?;
        if bytes.is_empty() {
            return Ok(bytes);
        }
        // Both parts lie in the blob: no sum overflows.
        let overlaps =
            |other: &BlobPart| part.offset < other.offset + other.len && other.offset < part.offset + part.len;
        if self.taken.iter().any(overlaps) {
            return Err(refused("the part overlaps that of an earlier edit".into()));
        }
        self.taken.push(part);
        Ok(bytes)
    }
}

fn refuse<T>(kind: EditErrorKind, text: impl Into<String>) -> Result<T, EditError> {
    Err(EditError::new(kind, text))
}

fn unknown(name: &str) -> EditError {
    EditError::new(EditErrorKind::UnknownTensor, format!("there is no tensor {name:?}"))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|bytes| bytes.try_into().map_or(0.0, f32::from_le_bytes)).collect()
}

/// Indices of the tensors with this name, or matching this pattern. If a tensor has the pattern for its name, it alone
/// is meant.
fn matching(store: &Store, pattern: &str) -> Result<Vec<usize>, EditError> {
    if let Some(index) = store.position(pattern) {
        return Ok(vec![index]);
    }
    if !is_glob(pattern) {
        return Err(unknown(pattern));
    }
    let glob = Glob::new(pattern);
    let meant = |index: &usize| !store.tensors()[*index].protected && glob.matches(&store.tensors()[*index].name);
    let found: Vec<usize> = (0..store.tensors().len()).filter(meant).collect();
    if found.is_empty() {
        return refuse(EditErrorKind::UnknownTensor, format!("no unprotected tensor matches {pattern:?}"));
    }
    Ok(found)
}

fn named<'s>(store: &'s Store, name: &str) -> Result<(Target, &'s Tensor), EditError> {
    let index = store.position(name).ok_or_else(|| unknown(name))?;
    Ok((target(store, index)?, &store.tensors()[index]))
}

fn target(store: &Store, index: usize) -> Result<Target, EditError> {
    let tensor = &store.tensors()[index];
    match tensor.address().filter(|_| !tensor.protected) {
        Some(address) => Ok(Target { index, address, bytes: tensor.bytes as usize, tensor_type: tensor.tensor_type }),
        None => refuse(EditErrorKind::ProtectedTensor, format!("{:?} is protected", tensor.name)),
    }
}

fn require_support(kind: EditKind, tensor: &Tensor) -> Result<(), EditError> {
    if supports(kind, tensor.tensor_type) {
        return Ok(());
    }
    let edit = match kind {
        EditKind::Dense => "dense edit",
        EditKind::Sparse => "sparse edit",
        EditKind::LowRank => "low_rank edit",
        EditKind::Seeded(Form::Normal) => "seeded edit of form normal",
        EditKind::Seeded(Form::Step) => "seeded edit of form step",
        EditKind::Seeded(Form::Scale) => "seeded edit of form scale",
        EditKind::Program => "program edit",
    };
    let (name, kind) = (&tensor.name, tensor.tensor_type.name());
    refuse(EditErrorKind::Unsupported, format!("{name:?} is of type {kind}, which a {edit} does not support"))
}
