//! Reads little-endian fields from the head of a file. Every length is compared with the bytes that are left before it is used.

use super::error::{Fault, Field, GgufError, Rule};

/// Header, metadata and tensor entries together may take this many bytes.
pub const METADATA_LIMIT: u64 = 48 << 20;

/// Why parsing stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeadError {
    /// The file breaks a rule.
    Invalid(GgufError),
    /// The file may be sound, but its metadata continues after the given bytes: call again with more of them.
    HeadTooShort,
}

impl From<GgufError> for HeadError {
    fn from(error: GgufError) -> Self {
        HeadError::Invalid(error)
    }
}

/// A position in the head of a file whose whole length is known.
pub(super) struct Cursor<'a> {
    head: &'a [u8],
    position: usize,
    file_len: u64,
}

impl<'a> Cursor<'a> {
    /// `head` holds the first bytes of a file of `file_len` bytes.
    pub(super) fn new(head: &'a [u8], file_len: u64) -> Self {
        let usable = usize::try_from(file_len).map_or(head.len(), |len| len.min(head.len()));
        Cursor { head: &head[..usable], position: 0, file_len }
    }

    pub(super) fn offset(&self) -> u64 {
        self.position as u64
    }

    /// The current position, for [`Cursor::since`].
    pub(super) fn mark(&self) -> usize {
        self.position
    }

    /// The bytes read since `mark`.
    pub(super) fn since(&self, mark: usize) -> &'a [u8] {
        &self.head[mark..self.position]
    }

    /// Bytes between here and the end of the file.
    pub(super) fn left(&self) -> u64 {
        self.file_len - self.offset()
    }

    /// The next `count` bytes. If the file ends before them, `rule` is broken at `field`.
    pub(super) fn take(&mut self, count: u128, rule: Rule, field: Field) -> Result<&'a [u8], HeadError> {
        if count > u128::from(self.left()) {
            let fault = Fault::Truncated { needed: count, left: self.left() };
            return Err(GgufError { rule, field, offset: self.offset(), fault }.into());
        }
        let end = u128::from(self.offset()) + count;
        if end > u128::from(METADATA_LIMIT) {
            let fault =
                Fault::Value { found: end, expected: "at most 50331648 bytes of header, metadata and tensor entries" };
            return Err(GgufError { rule: Rule::R3, field, offset: self.offset(), fault }.into());
        }
        // Both bounds hold, so the sum fits a usize.
        let bytes = self.head.get(self.position..end as usize).ok_or(HeadError::HeadTooShort)?;
        self.position = end as usize;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, rule: Rule, field: Field) -> Result<[u8; N], HeadError> {
        let bytes = self.take(N as u128, rule, field)?;
        let mut array = [0; N];
        array.copy_from_slice(bytes);
        Ok(array)
    }

    pub(super) fn u32(&mut self, rule: Rule, field: Field) -> Result<u32, HeadError> {
        Ok(u32::from_le_bytes(self.array(rule, field)?))
    }

    pub(super) fn u64(&mut self, rule: Rule, field: Field) -> Result<u64, HeadError> {
        Ok(u64::from_le_bytes(self.array(rule, field)?))
    }
}
