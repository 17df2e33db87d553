//! `vector_boot check`: validates a GGUF file or an RTS image (a container with an executable and a model).

use std::collections::BTreeMap;
use std::path::Path;

use super::capabilities::Capabilities;
use crate::container_file::{ContainerFile, ReadAt};
use crate::gguf::{self, Gguf};
use crate::rts::{self, Header};

/// What an accepted file holds.
pub struct Summary {
    /// Length of the file in bytes.
    pub bytes: u64,
    /// The container around the model, if it is an RTS image.
    pub rts: Option<RtsSummary>,
    /// The model.
    pub gguf: GgufSummary,
}

/// The header of an accepted RTS image.
pub struct RtsSummary {
    /// The fields.
    pub header: Header,
    /// Whether the signature was checked with a key.
    pub signature_verified: bool,
}

/// The model of an accepted file.
pub struct GgufSummary {
    /// Version of the format.
    pub version: u32,
    /// Alignment of the data.
    pub alignment: u32,
    /// Number of metadata entries.
    pub metadata: usize,
    /// Number of tensors.
    pub tensors: usize,
    /// Where the data section starts, from the start of the GGUF.
    pub data_offset: u64,
    /// Bytes of the data section.
    pub data_bytes: u64,
    /// `general.architecture`.
    pub architecture: Option<String>,
    /// `general.name`.
    pub name: Option<String>,
    /// Elements of all tensors.
    pub parameters: u128,
    /// Number of tensors of each type.
    pub types: BTreeMap<&'static str, usize>,
    /// What a machine with the model can do.
    pub capabilities: Capabilities,
}

/// Why a file is not accepted.
pub enum CheckError {
    /// It cannot be read.
    Unreadable(std::io::Error),
    /// The key file is not a key, or there is nothing to verify with it.
    Key(String),
    /// The GGUF breaks a rule.
    Gguf(gguf::GgufError),
    /// The RTS container breaks a rule.
    Rts(rts::RtsError),
}

impl From<std::io::Error> for CheckError {
    fn from(error: std::io::Error) -> Self {
        CheckError::Unreadable(error)
    }
}

impl From<rts::RtsError> for CheckError {
    fn from(error: rts::RtsError) -> Self {
        CheckError::Rts(error)
    }
}

/// Validates the file at `path`; with `key`, the signature of an RTS image too. With `part` only these bytes of the file,
/// the start and the length of a partition with an RTS image, are looked at.
///
/// # Errors
/// The first error found.
pub fn check(path: &Path, key: Option<&Path>, part: Option<(u64, u64)>) -> Result<Summary, CheckError> {
    let key = key.map(read_key).transpose()?;
    let file = ContainerFile::open(path)?;
    if let Some((start, len)) = part {
        return check_rts(&file.part(start, len)?, key);
    }
    if file.read(0, 3)? == b"RTS" || path.extension().is_some_and(|extension| extension == "rts") {
        return check_rts(&file, key);
    }
    if key.is_some() {
        return Err(CheckError::Key("a GGUF file has no signature: omit --key".into()));
    }
    let gguf = file.with_gguf(0, file.len, summarise)?.map_err(CheckError::Gguf)?;
    Ok(Summary { bytes: file.len, rts: None, gguf })
}

fn check_rts<R: ReadAt>(file: &ContainerFile<R>, key: Option<[u8; 32]>) -> Result<Summary, CheckError> {
    let header = Header::parse(&file.read(0, rts::HEADER_BYTES)?, file.len, file.container)?;
    if let Some(key) = key {
        header.verify_signature(&key)?;
    }
    rts::check_elf(&file.read(rts::HEADER_BYTES, header.binary_size.min(16))?)?;
    let gguf = file.with_gguf(header.tensor_offset, header.tensor_size, summarise)?.map_err(|error| {
        let found = format!("refused by {} at {}", error.rule, error.field);
        let expected = format!("an acceptable GGUF: {}", error.fault);
        rts::RtsError::new("tensors", header.tensor_offset + error.offset, found, expected)
    })?;
    if header.binary_sha256.is_some() {
        let computed = file.sha256(rts::HEADER_BYTES, header.binary_size)?;
        rts::check_digest("binary_sha256", 40, header.binary_sha256, computed)?;
    }
    if header.tensor_sha256.is_some() {
        let computed = file.sha256(header.tensor_offset, header.tensor_size)?;
        rts::check_digest("tensor_sha256", 72, header.tensor_sha256, computed)?;
    }
    Ok(Summary { bytes: file.len, rts: Some(RtsSummary { header, signature_verified: key.is_some() }), gguf })
}

fn summarise(gguf: &Gguf<'_>) -> GgufSummary {
    let mut types = BTreeMap::new();
    for tensor in &gguf.tensors {
        *types.entry(tensor.tensor_type.name()).or_default() += 1;
    }
    GgufSummary {
        version: gguf.version,
        alignment: gguf.alignment,
        metadata: gguf.metadata.len(),
        tensors: gguf.tensors.len(),
        data_offset: gguf.data_offset,
        data_bytes: gguf.file_len.saturating_sub(gguf.data_offset),
        architecture: gguf.text("general.architecture").map(shortened),
        name: gguf.text("general.name").map(shortened),
        parameters: gguf.tensors.iter().map(|tensor| u128::from(tensor.elements())).sum(),
        types,
        capabilities: Capabilities::of(gguf),
    }
}

/// The first characters of a text, all that a report shows: a name of megabytes must not multiply the memory of `check`.
fn shortened(text: &str) -> String {
    text.chars().take(4096).collect()
}

/// A public key: 32 raw bytes, or 64 hexadecimal digits with or without a line end.
fn read_key(path: &Path) -> Result<[u8; 32], CheckError> {
    let invalid = || {
        CheckError::Key(format!("{}: expected an Ed25519 public key: 32 raw bytes or 64 hex digits", path.display()))
    };
    let file = ContainerFile::open(path).map_err(|error| CheckError::Key(format!("{}: {error}", path.display())))?;
    let bytes = file.read(0, 128).map_err(|_| invalid())?;
    if let Ok(raw) = <[u8; 32]>::try_from(bytes.as_slice()) {
        return Ok(raw);
    }
    let digits = bytes.trim_ascii_end();
    let mut key = [0; 32];
    if digits.len() != 64 {
        return Err(invalid());
    }
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |d: u8| char::from(d).to_digit(16).ok_or_else(invalid);
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Ok(key)
}

#[cfg(test)]
mod tests;
