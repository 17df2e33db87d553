//! Why a file is refused: which rule, which field, at which byte.

use std::fmt;

/// The acceptance rules of a GGUF container. The numbers are part of the contract of `vector_boot check`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The magic is `GGUF`.
    R1 = 1,
    /// The version is 2 or 3.
    R2,
    /// The file can hold as many entries as its header counts.
    R3,
    /// A key has 1 to 65,535 bytes of `[A-Za-z0-9_-]` segments joined by dots.
    R4,
    /// Keys are unique.
    R5,
    /// A value's type is one of 0 to 12.
    R6,
    /// A string ends inside the file.
    R7,
    /// String values are UTF-8.
    R8,
    /// A bool is 0 or 1.
    R9,
    /// Array elements have a valid type other than array.
    R10,
    /// An array ends inside the file.
    R11,
    /// `general.alignment` is one u32, a power of two, at least 8.
    R12,
    /// A tensor's name has 1 to 63 bytes of UTF-8 without NUL.
    R13,
    /// TensorEntry names are unique.
    R14,
    /// A tensor has 1 to 4 dimensions.
    R15,
    /// Every dimension is above 0 and below 2^63.
    R16,
    /// The tensor type is known.
    R17,
    /// A row is a whole number of blocks.
    R18,
    /// Fewer than 2^63 elements, and no more bytes than the file.
    R19,
    /// A tensor's offset is a multiple of the alignment.
    R20,
    /// A tensor ends inside the file.
    R21,
    /// Tensors lie in order, without gap or overlap.
    R22,
    /// Nothing follows the padded data.
    R23,
    /// The model is not split over several files.
    R24,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "R{}", *self as u8)
    }
}

/// The place in the format that broke a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The first four bytes.
    Magic,
    /// The version number.
    Version,
    /// The number of tensors.
    TensorCount,
    /// The number of metadata entries.
    MetadataCount,
    /// One part (`key`, `type`, `value`, `count`, ...) of a metadata entry, counted from 0.
    Metadata(u64, &'static str),
    /// One element of a metadata entry's array.
    Element(u64, u64),
    /// One part (`name`, `dimensions`, `type`, `offset`, ...) of a tensor entry, counted from 0.
    Tensor(u64, &'static str),
    /// The bytes of the weights.
    Data,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Field::Magic => f.write_str("magic"),
            Field::Version => f.write_str("version"),
            Field::TensorCount => f.write_str("tensor_count"),
            Field::MetadataCount => f.write_str("metadata_count"),
            Field::Metadata(index, part) => write!(f, "metadata[{index}].{part}"),
            Field::Element(index, element) => write!(f, "metadata[{index}].value[{element}]"),
            Field::Tensor(index, part) => write!(f, "tensor[{index}].{part}"),
            Field::Data => f.write_str("data"),
        }
    }
}

/// What is wrong there, with the value found and the value expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The file ends before this many bytes could be read.
    Truncated {
        /// Bytes the field takes.
        needed: u128,
        /// Bytes left in the file.
        left: u64,
    },
    /// A number that the format does not allow.
    Value {
        /// The number in the file.
        found: u128,
        /// The allowed values, in words.
        expected: &'static str,
    },
    /// Bytes that differ from what the format requires.
    Bytes {
        /// The bytes, escaped and cut.
        found: String,
        /// What the format requires, in words.
        expected: &'static str,
    },
    /// A name that occurs twice.
    Duplicate {
        /// The name, escaped and cut.
        name: String,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Truncated { needed, left } => write!(f, "needs {needed} bytes, the file has {left} left"),
            Fault::Value { found, expected } => write!(f, "is {found}, expected {expected}"),
            Fault::Bytes { found, expected } => write!(f, "is \"{found}\", expected {expected}"),
            Fault::Duplicate { name } => write!(f, "\"{name}\" occurs twice, expected unique names"),
        }
    }
}

/// Why a file is refused: rule, field and offset for programs, one line of text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufError {
    /// The rule that was broken.
    pub rule: Rule,
    /// Where in the format.
    pub field: Field,
    /// Where in the file, in bytes from the start of the GGUF.
    pub offset: u64,
    /// What was found and what was expected.
    pub fault: Fault,
}

impl fmt::Display for GgufError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: offset {}: {}", self.rule, self.field, self.offset, self.fault)
    }
}

impl std::error::Error for GgufError {}

/// Bytes of a file as a part of one line of text: escaped, and cut after 48 bytes.
pub(crate) fn excerpt(bytes: &[u8]) -> String {
    const SHOWN: usize = 48;
    let mut text: String =
        bytes.iter().take(SHOWN).flat_map(|b| std::ascii::escape_default(*b)).map(char::from).collect();
    if bytes.len() > SHOWN {
        text.push_str("...");
    }
    text
}
