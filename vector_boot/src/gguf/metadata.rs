//! The key-value part of a GGUF: rules R4 to R12 and R24.

use std::collections::HashSet;
use std::fmt;

use super::cursor::{Cursor, HeadError};
use super::error::{excerpt, Fault, Field, GgufError, Rule};

/// More elements than this in one array are refused (R11).
pub const ARRAY_LIMIT: u64 = 4 << 20;
/// A longer string value is refused (R7). The limit of the head bounds all strings of a file together.
pub const STRING_LIMIT: u64 = 64 << 20;

/// Type of a value or of an array's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ValueType {
    U8 = 0,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Str,
    Array,
    U64,
    I64,
    F64,
}

const VALUE_TYPES: [ValueType; 13] = {
    use ValueType::*;
    [U8, I8, U16, I16, U32, I32, F32, Bool, Str, Array, U64, I64, F64]
};

impl ValueType {
    fn from_id(id: u32) -> Option<Self> {
        VALUE_TYPES.get(usize::try_from(id).ok()?).copied()
    }

    /// Bytes of one value; for a string, of the smallest one.
    fn min_bytes(self) -> u8 {
        match self {
            ValueType::U8 | ValueType::I8 | ValueType::Bool => 1,
            ValueType::U16 | ValueType::I16 => 2,
            ValueType::U32 | ValueType::I32 | ValueType::F32 => 4,
            ValueType::U64 | ValueType::I64 | ValueType::F64 | ValueType::Str => 8,
            ValueType::Array => 12,
        }
    }
}

/// An array value, still in the file's bytes; every element has been checked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MetadataArray<'a> {
    /// Type of each element, never [`ValueType::Array`].
    pub element_type: ValueType,
    /// Number of elements.
    pub len: u64,
    bytes: &'a [u8],
}

impl<'a> MetadataArray<'a> {
    /// The packed elements as they stand in the file.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The elements of an array of strings; nothing for another type.
    pub fn strings(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut rest = if self.element_type == ValueType::Str { self.bytes } else { &[] };
        std::iter::from_fn(move || {
            let (len, tail) = rest.split_first_chunk::<8>()?;
            let (text, tail) = tail.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
            rest = tail;
            std::str::from_utf8(text).ok()
        })
    }
}

/// A metadata value.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub enum MetadataValue<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(&'a str),
    Array(MetadataArray<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl MetadataValue<'_> {
    /// The value of any integer type; `None` for the others.
    pub fn integer(&self) -> Option<i128> {
        Some(match *self {
            MetadataValue::U8(v) => v.into(),
            MetadataValue::I8(v) => v.into(),
            MetadataValue::U16(v) => v.into(),
            MetadataValue::I16(v) => v.into(),
            MetadataValue::U32(v) => v.into(),
            MetadataValue::I32(v) => v.into(),
            MetadataValue::U64(v) => v.into(),
            MetadataValue::I64(v) => v.into(),
            _ => return None,
        })
    }
}

impl fmt::Display for MetadataValue<'_> {
    /// A number in full; of a string or an array only the kind and the length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MetadataValue::F32(v) => write!(f, "{v}"),
            MetadataValue::F64(v) => write!(f, "{v}"),
            MetadataValue::Bool(v) => write!(f, "{v}"),
            MetadataValue::Str(v) => write!(f, "a string of {} bytes", v.len()),
            MetadataValue::Array(v) => write!(f, "an array of {} elements", v.len),
            integer => write!(f, "{}", integer.integer().unwrap_or_default()),
        }
    }
}

/// One metadata entry.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MetadataEntry<'a> {
    /// The key, ASCII.
    pub key: &'a str,
    /// Its value.
    pub value: MetadataValue<'a>,
    /// Where the entry starts in the file.
    pub offset: u64,
}

/// Reads `count` entries; `count` has been compared with the file's length (R3).
pub(super) fn read<'a>(cursor: &mut Cursor<'a>, count: u64) -> Result<Vec<MetadataEntry<'a>>, HeadError> {
    let mut entries = Vec::with_capacity(count as usize);
    let mut keys = HashSet::with_capacity(count as usize);
    for index in 0..count {
        let offset = cursor.offset();
        let key = key(cursor, index)?;
        if !keys.insert(key) {
            let fault = Fault::Duplicate { name: excerpt(key.as_bytes()) };
            return Err(GgufError { rule: Rule::R5, field: Field::Metadata(index, "key"), offset, fault }.into());
        }
        let value_offset = cursor.offset();
        let value = value(cursor, index)?;
        check_alignment_and_splits(key, &value, index, value_offset)?;
        entries.push(MetadataEntry { key, value, offset });
    }
    Ok(entries)
}

fn key<'a>(cursor: &mut Cursor<'a>, index: u64) -> Result<&'a str, HeadError> {
    let field = Field::Metadata(index, "key");
    let offset = cursor.offset();
    let len = cursor.u64(Rule::R4, field)?;
    if !(1..=65_535).contains(&len) {
        let fault = Fault::Value { found: len.into(), expected: "a length of 1 to 65535" };
        return Err(GgufError { rule: Rule::R4, field, offset, fault }.into());
    }
    let bytes = cursor.take(len.into(), Rule::R7, field)?;
    let refused = || {
        let expected = "segments of A-Z a-z 0-9 _ - joined by single dots";
        GgufError { rule: Rule::R4, field, offset: offset + 8, fault: Fault::Bytes { found: excerpt(bytes), expected } }
    };
    if !is_key(bytes) {
        return Err(refused().into());
    }
    std::str::from_utf8(bytes).map_err(|_| refused().into())
}

fn is_key(bytes: &[u8]) -> bool {
    let mut previous = b'.';
    for &byte in bytes {
        let fits = byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') || (byte == b'.' && previous != b'.');
        if !fits {
            return false;
        }
        previous = byte;
    }
    previous != b'.'
}

fn value<'a>(cursor: &mut Cursor<'a>, index: u64) -> Result<MetadataValue<'a>, HeadError> {
    let field = Field::Metadata(index, "value");
    let value_type = value_type(cursor, Rule::R6, Field::Metadata(index, "type"))?;
    let bits = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |all, byte| all << 8 | u64::from(*byte));
    if value_type == ValueType::Str {
        return Ok(MetadataValue::Str(string(cursor, field)?));
    }
    if value_type == ValueType::Array {
        return Ok(MetadataValue::Array(array(cursor, index)?));
    }
    let offset = cursor.offset();
    let raw = bits(cursor.take(value_type.min_bytes().into(), Rule::R3, field)?);
    Ok(match value_type {
        ValueType::U8 => MetadataValue::U8(raw as u8),
        ValueType::I8 => MetadataValue::I8(raw as i8),
        ValueType::U16 => MetadataValue::U16(raw as u16),
        ValueType::I16 => MetadataValue::I16(raw as i16),
        ValueType::U32 => MetadataValue::U32(raw as u32),
        ValueType::I32 => MetadataValue::I32(raw as i32),
        ValueType::F32 => MetadataValue::F32(f32::from_bits(raw as u32)),
        ValueType::I64 => MetadataValue::I64(raw as i64),
        ValueType::F64 => MetadataValue::F64(f64::from_bits(raw)),
        ValueType::Bool => MetadataValue::Bool(boolean(raw as u8, field, offset)?),
        ValueType::U64 | ValueType::Str | ValueType::Array => MetadataValue::U64(raw),
    })
}

fn value_type(cursor: &mut Cursor<'_>, rule: Rule, field: Field) -> Result<ValueType, HeadError> {
    let offset = cursor.offset();
    let id = cursor.u32(rule, field)?;
    ValueType::from_id(id).ok_or_else(|| {
        let fault = Fault::Value { found: id.into(), expected: "a value type of 0 to 12" };
        GgufError { rule, field, offset, fault }.into()
    })
}

fn boolean(byte: u8, field: Field, offset: u64) -> Result<bool, HeadError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => {
            let fault = Fault::Value { found: byte.into(), expected: "a bool of 0 or 1" };
            Err(GgufError { rule: Rule::R9, field, offset, fault }.into())
        }
    }
}

fn string<'a>(cursor: &mut Cursor<'a>, field: Field) -> Result<&'a str, HeadError> {
    let offset = cursor.offset();
    let len = cursor.u64(Rule::R7, field)?;
    if len <= cursor.left() && len > STRING_LIMIT {
        let fault = Fault::Value { found: len.into(), expected: "a string of at most 67108864 bytes" };
        return Err(GgufError { rule: Rule::R7, field, offset, fault }.into());
    }
    let bytes = cursor.take(len.into(), Rule::R7, field)?;
    std::str::from_utf8(bytes).map_err(|_| {
        let fault = Fault::Bytes { found: excerpt(bytes), expected: "UTF-8 text" };
        GgufError { rule: Rule::R8, field, offset: offset + 8, fault }.into()
    })
}

fn array<'a>(cursor: &mut Cursor<'a>, index: u64) -> Result<MetadataArray<'a>, HeadError> {
    let type_offset = cursor.offset();
    let type_field = Field::Metadata(index, "element_type");
    let element_type = value_type(cursor, Rule::R10, type_field)?;
    if element_type == ValueType::Array {
        let fault = Fault::Value { found: ValueType::Array as u128, expected: "an element type other than array" };
        return Err(GgufError { rule: Rule::R10, field: type_field, offset: type_offset, fault }.into());
    }
    let offset = cursor.offset();
    let field = Field::Metadata(index, "count");
    let len = cursor.u64(Rule::R11, field)?;
    let min_bytes = u128::from(len) * u128::from(element_type.min_bytes());
    if min_bytes > u128::from(cursor.left()) {
        let fault = Fault::Truncated { needed: min_bytes, left: cursor.left() };
        return Err(GgufError { rule: Rule::R11, field, offset, fault }.into());
    }
    if len > ARRAY_LIMIT {
        let fault = Fault::Value { found: len.into(), expected: "at most 4194304 elements" };
        return Err(GgufError { rule: Rule::R11, field, offset, fault }.into());
    }
    let bytes = match element_type {
        ValueType::Str => strings(cursor, index, len)?,
        ValueType::Bool => booleans(cursor, index, len)?,
        _ => cursor.take(min_bytes, Rule::R11, field)?,
    };
    Ok(MetadataArray { element_type, len, bytes })
}

/// Checks `len` strings and returns the bytes they take.
fn strings<'a>(cursor: &mut Cursor<'a>, index: u64, len: u64) -> Result<&'a [u8], HeadError> {
    let start = cursor.mark();
    for element in 0..len {
        string(cursor, Field::Element(index, element))?;
    }
    Ok(cursor.since(start))
}

fn booleans<'a>(cursor: &mut Cursor<'a>, index: u64, len: u64) -> Result<&'a [u8], HeadError> {
    let offset = cursor.offset();
    let bytes = cursor.take(len.into(), Rule::R11, Field::Metadata(index, "value"))?;
    for (element, byte) in (0..).zip(bytes) {
        boolean(*byte, Field::Element(index, element), offset + element)?;
    }
    Ok(bytes)
}

fn check_alignment_and_splits(key: &str, value: &MetadataValue<'_>, index: u64, offset: u64) -> Result<(), GgufError> {
    let (rule, sound, expected) = match key {
        "general.alignment" => {
            let sound = matches!(value, MetadataValue::U32(a) if *a >= 8 && a.is_power_of_two());
            (Rule::R12, sound, "one u32, a power of two, at least 8")
        }
        "split.count" => {
            let sound = matches!(value.integer(), Some(0 | 1));
            (Rule::R24, sound, "a model in one file (split.count at most 1): merge the parts first")
        }
        _ => return Ok(()),
    };
    if sound {
        return Ok(());
    }
    let found = format!("{key} = {value}");
    let field = Field::Metadata(index, "value");
    Err(GgufError { rule, field, offset, fault: Fault::Bytes { found, expected } })
}
