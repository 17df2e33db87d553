//! A strict GGUF reader: zero-copy over a byte slice, no panic for any input, linear in the size of the metadata.
//!
//! A file is accepted by the rules R1 to R24 ([`Rule`]). Nothing is allocated before the file's length proves that
//! it can hold what its header counts. Only the container is checked here; what a model means is checked when it is loaded.

mod cursor;
mod error;
mod metadata;
mod tensors;
#[cfg(test)]
pub(crate) mod tests;
mod types;

pub use cursor::{HeadError, METADATA_LIMIT};
pub use error::{Fault, Field, GgufError, Rule};
pub use metadata::{MetadataArray, MetadataEntry, MetadataValue, ValueType, ARRAY_LIMIT, STRING_LIMIT};
pub use tensors::TensorEntry;
pub use types::TensorType;

use cursor::Cursor;

/// More metadata entries, or more tensors, than this are refused (R3).
pub const COUNT_LIMIT: u64 = 65_536;
/// Alignment of a file without `general.alignment`.
pub const DEFAULT_ALIGNMENT: u32 = 32;

const MIN_ENTRY_BYTES: u128 = 13; // R3: a lower bound of key length, key, type and value
const MIN_TENSOR_BYTES: u128 = 24; // R3: a lower bound of name, dimensions, type and offset

/// A checked GGUF, borrowing the bytes it was read from.
#[derive(Debug, Clone, PartialEq)]
pub struct Gguf<'a> {
    /// 2 or 3.
    pub version: u32,
    /// Alignment of each tensor's data, in bytes.
    pub alignment: u32,
    /// Metadata in file order, keys unique.
    pub metadata: Vec<MetadataEntry<'a>>,
    /// Tensors in file order, names unique, data contiguous.
    pub tensors: Vec<TensorEntry<'a>>,
    /// Where the data section starts in the file.
    pub data_offset: u64,
    /// The file's length.
    pub file_len: u64,
}

impl<'a> Gguf<'a> {
    /// Reads a whole file held in memory.
    ///
    /// # Errors
    /// The first rule the file breaks.
    pub fn parse(file: &'a [u8]) -> Result<Self, GgufError> {
        match Self::parse_head(file, file.len() as u64) {
            Ok(gguf) => Ok(gguf),
            Err(HeadError::Invalid(error)) => Err(error),
            // The head is the whole file, so every read either fits or runs off the file.
            Err(HeadError::HeadTooShort) => Err(GgufError {
                rule: Rule::R3,
                field: Field::Data,
                offset: file.len() as u64,
                fault: Fault::Truncated { needed: 1, left: 0 },
            }),
        }
    }

    /// Reads the head of a file of `file_len` bytes; the weights need not be in memory.
    ///
    /// # Errors
    /// [`HeadError::HeadTooShort`] if the metadata continues after `head`, else the first rule the file breaks.
    pub fn parse_head(head: &'a [u8], file_len: u64) -> Result<Self, HeadError> {
        let mut cursor = Cursor::new(head, file_len);
        let (version, tensor_count, metadata_count) = header(&mut cursor)?;
        let metadata = metadata::read(&mut cursor, metadata_count)?;
        let tensors = tensors::read(&mut cursor, tensor_count, file_len)?;
        let alignment = match metadata.iter().find(|entry| entry.key == "general.alignment") {
            Some(MetadataEntry { value: MetadataValue::U32(alignment), .. }) => *alignment,
            _ => DEFAULT_ALIGNMENT,
        };
        // The metadata is limited to 48 MiB and the alignment to 2^31, so this cannot overflow.
        let data_offset = cursor.offset().next_multiple_of(alignment.into());
        tensors::check_layout(&tensors, data_offset, alignment.into(), file_len)?;
        Ok(Gguf { version, alignment, metadata, tensors, data_offset, file_len })
    }

    /// The value of a metadata key.
    pub fn value(&self, key: &str) -> Option<&MetadataValue<'a>> {
        self.metadata.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// The value of a string key; `None` if it is absent or not a string.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        match self.value(key) {
            Some(MetadataValue::Str(text)) => Some(text),
            _ => None,
        }
    }
}

/// Reads magic, version and the two counts (R1 to R3).
fn header(cursor: &mut Cursor<'_>) -> Result<(u32, u64, u64), HeadError> {
    let magic = cursor.take(4, Rule::R1, Field::Magic)?;
    if magic != b"GGUF" {
        let fault = Fault::Bytes { found: error::excerpt(magic), expected: "\"GGUF\"" };
        return Err(GgufError { rule: Rule::R1, field: Field::Magic, offset: 0, fault }.into());
    }
    let version = cursor.u32(Rule::R2, Field::Version)?;
    if !matches!(version, 2 | 3) {
        let fault = Fault::Value { found: version.into(), expected: "version 2 or 3, little-endian" };
        return Err(GgufError { rule: Rule::R2, field: Field::Version, offset: 4, fault }.into());
    }
    let tensor_count = cursor.u64(Rule::R3, Field::TensorCount)?;
    let metadata_count = cursor.u64(Rule::R3, Field::MetadataCount)?;
    let needed = MIN_ENTRY_BYTES * u128::from(metadata_count) + MIN_TENSOR_BYTES * u128::from(tensor_count);
    for (count, field, offset) in [(tensor_count, Field::TensorCount, 8), (metadata_count, Field::MetadataCount, 16)] {
        if needed > u128::from(cursor.left()) && count > 0 {
            let fault = Fault::Truncated { needed, left: cursor.left() };
            return Err(GgufError { rule: Rule::R3, field, offset, fault }.into());
        }
        if count > COUNT_LIMIT {
            let fault = Fault::Value { found: count.into(), expected: "at most 65536" };
            return Err(GgufError { rule: Rule::R3, field, offset, fault }.into());
        }
    }
    Ok((version, tensor_count, metadata_count))
}
