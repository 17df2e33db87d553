//! Values as bytes, for a worker that takes over from another one. A value comes back exactly, every bit of a float
//! included; bytes that no worker has written give `None`, never a panic.

use serde_json::{Map, Number, Value};

use super::{Blob, Method, Params, Request};

/// Deepest nesting of a value: the parser of JSON refuses more.
const DEPTH_LIMIT: usize = 128;

/// A value that can be written as bytes and read back.
pub trait Packed: Sized {
    /// Appends the value.
    fn pack(&self, out: &mut Vec<u8>);
    /// Reads a value and removes its bytes; `None` if they are not valid.
    fn unpack(bytes: &mut &[u8]) -> Option<Self>;
}

impl Packed for u64 {
    fn pack(&self, out: &mut Vec<u8>) {
        out.extend(self.to_le_bytes());
    }

    fn unpack(bytes: &mut &[u8]) -> Option<Self> {
        let (number, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        Some(u64::from_le_bytes(*number))
    }
}

impl Packed for usize {
    fn pack(&self, out: &mut Vec<u8>) {
        (*self as u64).pack(out);
    }

    fn unpack(bytes: &mut &[u8]) -> Option<Self> {
        usize::try_from(u64::unpack(bytes)?).ok()
    }
}

impl Packed for bool {
    fn pack(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn unpack(bytes: &mut &[u8]) -> Option<Self> {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        (*byte < 2).then_some(*byte == 1)
    }
}

impl Packed for [u8; 16] {
    fn pack(&self, out: &mut Vec<u8>) {
        out.extend(self);
    }

    fn unpack(bytes: &mut &[u8]) -> Option<Self> {
        let (found, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        Some(*found)
    }
}

impl Packed for Vec<u8> {
    fn pack(&self, out: &mut Vec<u8>) {
        pack_bytes(self, out);
    }

    fn unpack(bytes: &mut &[u8]) -> Option<Self> {
        let len = usize::unpack(bytes)?;
        let (found, rest) = bytes.split_at_checked(len)?;
        *bytes = rest;
        Some(found.to_vec())
    }
}

impl Packed for String {
    fn pack(&self, out: &mut Vec<u8>) {
        pack_bytes(self.as_bytes(), out);
    }

    fn unpack(bytes: &mut &[u8]) -> Option<Self> {
        String::from_utf8(Vec::unpack(bytes)?).ok()
    }
}

impl<T: Packed> Packed for Option<T> {
    fn pack(&self, out: &mut Vec<u8>) {
        self.is_some().pack(out);
        if let Some(value) = self {
            value.pack(out);
        }
    }

    fn unpack(bytes: &mut &[u8]) -> Option<Self> {
        match bool::unpack(bytes)? {
            true => T::unpack(bytes).map(Some),
            false => Some(None),
        }
    }
}

/// Appends bytes as [`Packed`] for a vector of them does.
pub fn pack_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    bytes.len().pack(out);
    out.extend_from_slice(bytes);
}

/// Appends values one after another, their number first.
pub fn pack_all<'a, T: Packed + 'a>(values: impl ExactSizeIterator<Item = &'a T>, out: &mut Vec<u8>) {
    values.len().pack(out);
    values.for_each(|value| value.pack(out));
}

/// Reads what [`pack_all`] has written.
pub fn unpack_all<T: Packed>(bytes: &mut &[u8]) -> Option<Vec<T>> {
    let count = usize::unpack(bytes)?;
    (0..count).map(|_| T::unpack(bytes)).collect() // ends at the first one that is missing
}

/// What stands in front of a JSON value.
mod tag {
    pub const NULL: u8 = 0;
    pub const FALSE: u8 = 1;
    pub const TRUE: u8 = 2;
    pub const NATURAL: u8 = 3;
    pub const INTEGER: u8 = 4;
    pub const FLOAT: u8 = 5;
    pub const TEXT: u8 = 6;
    pub const LIST: u8 = 7;
    pub const OBJECT: u8 = 8;
}

impl Packed for Value {
    fn pack(&self, out: &mut Vec<u8>) {
        match self {
            Value::Null => out.push(tag::NULL),
            Value::Bool(truth) => out.push(if *truth { tag::TRUE } else { tag::FALSE }),
            Value::Number(number) => {
                let (kind, bits) = match (number.as_u64(), number.as_i64()) {
                    (Some(natural), _) => (tag::NATURAL, natural),
                    (None, Some(integer)) => (tag::INTEGER, integer as u64),
                    (None, None) => (tag::FLOAT, number.as_f64().unwrap_or_default().to_bits()),
                };
                out.push(kind);
                bits.pack(out);
            }
            Value::String(text) => {
                out.push(tag::TEXT);
                text.pack(out);
            }
            Value::Array(items) => {
                out.push(tag::LIST);
                pack_all(items.iter(), out);
            }
            Value::Object(members) => {
                out.push(tag::OBJECT);
                members.pack(out);
            }
        }
    }

    fn unpack(bytes: &mut &[u8]) -> Option<Self> {
        unpack_value(bytes, DEPTH_LIMIT)
    }
}

fn unpack_value(bytes: &mut &[u8], depth: usize) -> Option<Value> {
    let (kind, rest) = bytes.split_first()?;
    *bytes = rest;
    let inner = depth.checked_sub(1);
    Some(match *kind {
        tag::NULL => Value::Null,
        tag::FALSE | tag::TRUE => Value::Bool(*kind == tag::TRUE),
        tag::NATURAL => u64::unpack(bytes)?.into(),
        tag::INTEGER => (u64::unpack(bytes)? as i64).into(),
        tag::FLOAT => Value::Number(Number::from_f64(f64::from_bits(u64::unpack(bytes)?))?),
        tag::TEXT => Value::String(String::unpack(bytes)?),
        tag::LIST => {
            let count = usize::unpack(bytes)?;
            Value::Array((0..count).map(|_| unpack_value(bytes, inner?)).collect::<Option<_>>()?)
        }
        tag::OBJECT => Value::Object(unpack_members(bytes, inner?)?),
        _ => return None,
    })
}

impl Packed for Map<String, Value> {
    fn pack(&self, out: &mut Vec<u8>) {
        self.len().pack(out);
        for (name, value) in self {
            name.pack(out);
            value.pack(out);
        }
    }

    fn unpack(bytes: &mut &[u8]) -> Option<Self> {
        unpack_members(bytes, DEPTH_LIMIT)
    }
}

fn unpack_members(bytes: &mut &[u8], depth: usize) -> Option<Map<String, Value>> {
    let count = usize::unpack(bytes)?;
    (0..count).map(|_| Some((String::unpack(bytes)?, unpack_value(bytes, depth)?))).collect()
}

impl Packed for Blob {
    fn pack(&self, out: &mut Vec<u8>) {
        let (kind, bytes): (u64, &[u8]) = match self {
            Blob::None => (0, &[]),
            Blob::Bytes(bytes) => (1, bytes),
            Blob::Upload(id) => (2, id.as_bytes()),
            Blob::ChecksumWrong => (3, &[]),
            Blob::Stalled => (4, &[]),
            Blob::TooLarge => (5, &[]),
            Blob::Malformed => (6, &[]),
        };
        kind.pack(out);
        pack_bytes(bytes, out);
    }

    fn unpack(bytes: &mut &[u8]) -> Option<Self> {
        let (kind, found) = (u64::unpack(bytes)?, Vec::unpack(bytes)?);
        Some(match kind {
            0 => Blob::None,
            1 => Blob::Bytes(found.into()),
            2 => Blob::Upload(String::from_utf8(found).ok()?),
            3 => Blob::ChecksumWrong,
            4 => Blob::Stalled,
            5 => Blob::TooLarge,
            6 => Blob::Malformed,
            _ => return None,
        })
    }
}

/// A request that waits: its signature is verified when its turn comes, so it has no seal yet.
impl Packed for Request {
    fn pack(&self, out: &mut Vec<u8>) {
        self.id.pack(out);
        self.method.name().to_string().pack(out);
        self.params.members().pack(out);
        self.blob.pack(out);
    }

    fn unpack(bytes: &mut &[u8]) -> Option<Self> {
        let (id, method) = (Value::unpack(bytes)?, Method::parse(&String::unpack(bytes)?)?);
        Some(Request::new(id, method, Params::new(Map::unpack(bytes)?), Blob::unpack(bytes)?))
    }
}

#[cfg(test)]
mod tests;
