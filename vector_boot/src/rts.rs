//! The RTS container, version 1: a 512-byte header, the executable, the model. Integers are big-endian.
//!
//! No input or output: the header is checked from its bytes and the file's length; the caller hashes the sections.

use std::fmt;

use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};

/// Bytes of the header, and where the binary section starts.
pub const HEADER_BYTES: u64 = 512;
const MAGIC: [u8; 4] = *b"RTS\x01";
const VERSION: u32 = 1;
const SIGNED_BYTES: usize = 144;
const ABSENT: [u8; 32] = [0; 32];

/// Why a container is refused: the field, its offset, what it holds and what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RtsError {
    /// Name of the field or section.
    pub field: &'static str,
    /// Its offset in the file.
    pub offset: u64,
    /// What is there.
    pub value: String,
    /// What should be there.
    pub expected: String,
}

impl RtsError {
    /// An error in `field` at `offset`.
    pub fn new(field: &'static str, offset: u64, value: impl Into<String>, expected: impl Into<String>) -> Self {
        RtsError { field, offset, value: value.into(), expected: expected.into() }
    }
}

impl fmt::Display for RtsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RTS: {}: offset {}: is {}, expected {}", self.field, self.offset, self.value, self.expected)
    }
}

impl std::error::Error for RtsError {}

/// A header whose fields agree with each other and with the file's length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the binary section, padding included.
    pub binary_size: u64,
    /// Where the tensor section starts.
    pub tensor_offset: u64,
    /// Bytes of the tensor section.
    pub tensor_size: u64,
    /// SHA-256 of the binary section, if recorded.
    pub binary_sha256: Option<[u8; 32]>,
    /// SHA-256 of the tensor section, if recorded.
    pub tensor_sha256: Option<[u8; 32]>,
    /// SHA-256 of the public key that signed the header, if it is signed.
    pub key_id: Option<[u8; 32]>,
    /// Rollback protection: an update must not lower it.
    pub security_version: u64,
    signature: [u8; 64],
    signed: [u8; SIGNED_BYTES],
}

/// What may follow the tensor section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// A regular file: it ends where the tensor section ends.
    File,
    /// A block device: the bytes that follow are not part of the container.
    BlockDevice,
}

impl Header {
    /// Reads the header from the first bytes of a container of `len` bytes.
    ///
    /// # Errors
    /// The first field that breaks the format.
    pub fn parse(head: &[u8], len: u64, container: Container) -> Result<Self, RtsError> {
        let Some(head) = head.first_chunk::<{ HEADER_BYTES as usize }>() else {
            return Err(RtsError::new("header", 0, format!("{} bytes", head.len()), "512 bytes"));
        };
        check_fixed_fields(head)?;
        let (binary_size, tensor_size) = check_sections(head, len, container)?;
        check_unused(head)?;
        let digest = |at: usize| Some(array::<32>(head, at)).filter(|digest| *digest != ABSENT);
        Ok(Header {
            binary_size,
            tensor_offset: HEADER_BYTES + binary_size,
            tensor_size,
            binary_sha256: digest(40),
            tensor_sha256: digest(72),
            key_id: digest(104),
            security_version: u64_at(head, 136),
            signature: array(head, 144),
            signed: array(head, 0),
        })
    }

    /// Whether the tensor section starts at a multiple of 4096 bytes, as booting requires.
    pub fn is_bootable(&self) -> bool {
        self.tensor_offset.is_multiple_of(4096)
    }

    /// Checks the signature with the raw Ed25519 public key.
    ///
    /// # Errors
    /// If the image is unsigned or signed by another key, if the signature is wrong, or if a section has no digest.
    pub fn verify_signature(&self, public_key: &[u8; 32]) -> Result<(), RtsError> {
        let id: [u8; 32] = Sha256::digest(public_key).into();
        if self.key_id != Some(id) {
            let found = self.key_id.map_or_else(|| "all zero (unsigned)".to_string(), |id| hex(&id));
            return Err(RtsError::new("key_id", 104, found, format!("{}, the id of the given key", hex(&id))));
        }
        for (field, offset, digest) in
            [("binary_sha256", 40, self.binary_sha256), ("tensor_sha256", 72, self.tensor_sha256)]
        {
            if digest.is_none() {
                return Err(RtsError::new(
                    field,
                    offset,
                    "all zero (absent)",
                    "a digest, because the signature covers the header alone",
                ));
            }
        }
        let valid = VerifyingKey::from_bytes(public_key)
            .and_then(|key| key.verify_strict(&self.signed, &Signature::from_bytes(&self.signature)));
        valid.map_err(|_| {
            let found = format!("{}...", hex(&self.signature[..8]));
            RtsError::new("signature", 144, found, "a valid Ed25519 signature of header bytes 0..144")
        })
    }
}

/// Compares a recorded digest with the one computed over a section.
///
/// # Errors
/// If one is recorded and differs.
pub fn check_digest(
    field: &'static str,
    offset: u64,
    recorded: Option<[u8; 32]>,
    computed: [u8; 32],
) -> Result<(), RtsError> {
    match recorded {
        Some(digest) if digest != computed => {
            Err(RtsError::new(field, offset, hex(&digest), format!("{}, the section's digest", hex(&computed))))
        }
        _ => Ok(()),
    }
}

/// Checks that a binary section starts as an ELF file does.
///
/// # Errors
/// If it does not.
pub fn check_elf(section_start: &[u8]) -> Result<(), RtsError> {
    let expected = "an ELF file (7f 45 4c 46, at least 16 bytes)";
    if section_start.len() >= 16 && section_start.starts_with(b"\x7fELF") {
        return Ok(());
    }
    let found = hex(&section_start[..section_start.len().min(4)]);
    Err(RtsError::new("binary", HEADER_BYTES, format!("\"{found}\""), expected))
}

fn check_fixed_fields(head: &[u8; 512]) -> Result<(), RtsError> {
    if head[..4] != MAGIC {
        return Err(RtsError::new("magic", 0, hex(&head[..4]), "52545301"));
    }
    let version = u32::from_be_bytes(array(head, 4));
    if version != VERSION {
        return Err(RtsError::new("version", 4, version.to_string(), "1"));
    }
    let binary_offset = u64_at(head, 8);
    if binary_offset != HEADER_BYTES {
        return Err(RtsError::new("binary_offset", 8, binary_offset.to_string(), "512"));
    }
    Ok(())
}

fn check_sections(head: &[u8; 512], len: u64, container: Container) -> Result<(u64, u64), RtsError> {
    let (binary_size, tensor_offset, tensor_size) = (u64_at(head, 16), u64_at(head, 24), u64_at(head, 32));
    let leaves = |field, offset, size: u64| {
        Err(RtsError::new(field, offset, size.to_string(), format!("a section inside the {len} bytes")))
    };
    let Some(binary_end) = HEADER_BYTES.checked_add(binary_size) else { return leaves("binary_size", 16, binary_size) };
    if tensor_offset != binary_end {
        let expected = format!("{binary_end}, the end of the binary section");
        return Err(RtsError::new("tensor_offset", 24, tensor_offset.to_string(), expected));
    }
    let Some(end) = tensor_offset.checked_add(tensor_size) else { return leaves("tensor_size", 32, tensor_size) };
    if binary_end > len {
        return leaves("binary_size", 16, binary_size);
    }
    if end > len {
        return leaves("tensor_size", 32, tensor_size);
    }
    if container == Container::File && end != len {
        return Err(RtsError::new("trailing", end, format!("{} bytes", len - end), "the end of the file"));
    }
    Ok((binary_size, tensor_size))
}

fn check_unused(head: &[u8; 512]) -> Result<(), RtsError> {
    let signed = array::<32>(head, 104) != ABSENT;
    let has_signature = head[144..208].iter().any(|byte| *byte != 0);
    match (signed, has_signature) {
        (false, true) => {
            return Err(RtsError::new(
                "signature",
                144,
                "present",
                "all zero, because the key id is all zero (unsigned)",
            ));
        }
        (true, false) => {
            return Err(RtsError::new("signature", 144, "all zero", "a signature, because a key id is given"))
        }
        _ => (),
    }
    match (208..512).find(|at| head[*at] != 0) {
        Some(at) => Err(RtsError::new("reserved", at as u64, head[at].to_string(), "0")),
        None => Ok(()),
    }
}

fn array<const N: usize>(head: &[u8; 512], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&head[at..at + N]);
    bytes
}

fn u64_at(head: &[u8; 512], at: usize) -> u64 {
    u64::from_be_bytes(array(head, at))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
