//! The tensor entries of a GGUF and where their data lies: rules R13 to R23.

use std::collections::HashSet;

use super::cursor::{Cursor, HeadError};
use super::error::{excerpt, Fault, Field, GgufError, Rule};
use super::types::TensorType;

/// One tensor of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorEntry<'a> {
    /// Unique name.
    pub name: &'a str,
    dims: [u64; 4],
    n_dims: u8,
    /// Type of the elements.
    pub tensor_type: TensorType,
    /// Where the data starts, in bytes from the start of the data section.
    pub offset: u64,
    /// Bytes of data, without padding.
    pub bytes: u64,
    entry_offset: u64,
}

impl TensorEntry<'_> {
    /// Elements along each dimension, the fastest first.
    pub fn shape(&self) -> &[u64] {
        &self.dims[..usize::from(self.n_dims)]
    }

    /// Number of elements, below 2^63.
    pub fn elements(&self) -> u64 {
        self.shape().iter().product()
    }
}

/// Reads `count` entries; `count` has been compared with the file's length (R3).
pub(super) fn read<'a>(cursor: &mut Cursor<'a>, count: u64, file_len: u64) -> Result<Vec<TensorEntry<'a>>, HeadError> {
    let mut tensors = Vec::with_capacity(count as usize);
    let mut names = HashSet::with_capacity(count as usize);
    for index in 0..count {
        let offset = cursor.offset();
        let tensor = entry(cursor, index, file_len)?;
        if !names.insert(tensor.name) {
            let fault = Fault::Duplicate { name: excerpt(tensor.name.as_bytes()) };
            return Err(GgufError { rule: Rule::R14, field: Field::Tensor(index, "name"), offset, fault }.into());
        }
        tensors.push(tensor);
    }
    Ok(tensors)
}

fn entry<'a>(cursor: &mut Cursor<'a>, index: u64, file_len: u64) -> Result<TensorEntry<'a>, HeadError> {
    let name = name(cursor, index)?;
    let dims_offset = cursor.offset() + 4;
    let (dims, n_dims) = dimensions(cursor, index)?;
    let (tensor_type, bytes) = type_and_size(cursor, index, &dims, file_len, dims_offset)?;
    let entry_offset = cursor.offset();
    let offset = cursor.u64(Rule::R3, Field::Tensor(index, "offset"))?;
    Ok(TensorEntry { name, dims, n_dims, tensor_type, offset, bytes, entry_offset })
}

fn name<'a>(cursor: &mut Cursor<'a>, index: u64) -> Result<&'a str, HeadError> {
    let field = Field::Tensor(index, "name");
    let offset = cursor.offset();
    let len = cursor.u64(Rule::R13, field)?;
    if !(1..=63).contains(&len) {
        let fault = Fault::Value { found: len.into(), expected: "a length of 1 to 63" };
        return Err(GgufError { rule: Rule::R13, field, offset, fault }.into());
    }
    let bytes = cursor.take(len.into(), Rule::R13, field)?;
    match std::str::from_utf8(bytes) {
        Ok(name) if !bytes.contains(&0) => Ok(name),
        _ => {
            let fault = Fault::Bytes { found: excerpt(bytes), expected: "UTF-8 text without NUL" };
            Err(GgufError { rule: Rule::R13, field, offset: offset + 8, fault }.into())
        }
    }
}

fn dimensions(cursor: &mut Cursor<'_>, index: u64) -> Result<([u64; 4], u8), HeadError> {
    let field = Field::Tensor(index, "dimensions");
    let offset = cursor.offset();
    let n_dims = cursor.u32(Rule::R15, field)?;
    if !(1..=4).contains(&n_dims) {
        let fault = Fault::Value { found: n_dims.into(), expected: "1 to 4 dimensions" };
        return Err(GgufError { rule: Rule::R15, field, offset, fault }.into());
    }
    let mut dims = [1; 4];
    for dim in dims.iter_mut().take(n_dims as usize) {
        let offset = cursor.offset();
        *dim = cursor.u64(Rule::R16, field)?;
        if *dim == 0 || *dim >= 1 << 63 {
            let fault = Fault::Value { found: (*dim).into(), expected: "a dimension above 0 and below 2^63" };
            return Err(GgufError { rule: Rule::R16, field, offset, fault }.into());
        }
    }
    Ok((dims, n_dims as u8))
}

/// Reads the type and checks that the size of the tensor is possible (R17 to R19).
fn type_and_size(
    cursor: &mut Cursor<'_>,
    index: u64,
    dims: &[u64; 4],
    file_len: u64,
    dims_offset: u64,
) -> Result<(TensorType, u64), HeadError> {
    let field = Field::Tensor(index, "type");
    let type_offset = cursor.offset();
    let id = cursor.u32(Rule::R17, field)?;
    let refuse = |rule, part, found, expected| {
        let offset = if part == "type" { type_offset } else { dims_offset };
        let fault = Fault::Value { found, expected };
        HeadError::from(GgufError { rule, field: Field::Tensor(index, part), offset, fault })
    };
    let tensor_type =
        TensorType::from_id(id).ok_or_else(|| refuse(Rule::R17, "type", id.into(), "a known tensor type"))?;
    if !dims[0].is_multiple_of(tensor_type.block_elements()) {
        return Err(refuse(Rule::R18, "dimensions", dims[0].into(), "a row of whole blocks of its type"));
    }
    let elements = dims.iter().fold(1u128, |all, dim| all.saturating_mul(u128::from(*dim)));
    if elements >= 1 << 63 {
        return Err(refuse(Rule::R19, "dimensions", elements, "fewer than 2^63 elements"));
    }
    let bytes = elements / u128::from(tensor_type.block_elements()) * u128::from(tensor_type.block_bytes());
    match u64::try_from(bytes) {
        Ok(bytes) if bytes <= file_len => Ok((tensor_type, bytes)),
        _ => Err(refuse(Rule::R19, "size", bytes, "no more bytes than the file has")),
    }
}

/// Checks that the data is aligned, inside the file, in order and without gaps (R20 to R23).
pub(super) fn check_layout(
    tensors: &[TensorEntry<'_>],
    data_offset: u64,
    alignment: u64,
    file_len: u64,
) -> Result<(), GgufError> {
    let mut expected_offset = 0u128;
    for (index, tensor) in (0..).zip(tensors) {
        let refuse = |rule, found, expected| {
            let fault = Fault::Value { found, expected };
            Err(GgufError { rule, field: Field::Tensor(index, "offset"), offset: tensor.entry_offset, fault })
        };
        if !tensor.offset.is_multiple_of(alignment) {
            return refuse(Rule::R20, tensor.offset.into(), "a multiple of the alignment");
        }
        let end = u128::from(data_offset) + u128::from(tensor.offset) + u128::from(tensor.bytes);
        if end > u128::from(file_len) {
            return refuse(Rule::R21, tensor.offset.into(), "data that ends inside the file");
        }
        if u128::from(tensor.offset) != expected_offset {
            return refuse(Rule::R22, tensor.offset.into(), "the end of the tensor before it, padded to the alignment");
        }
        expected_offset += u128::from(tensor.bytes).next_multiple_of(u128::from(alignment));
    }
    let end = u128::from(data_offset) + expected_offset;
    if u128::from(file_len) > end {
        let offset = end as u64; // below file_len
        let fault = Fault::Value { found: u128::from(file_len) - end, expected: "0 bytes after the padded data" };
        return Err(GgufError { rule: Rule::R23, field: Field::Data, offset, fault });
    }
    Ok(())
}
