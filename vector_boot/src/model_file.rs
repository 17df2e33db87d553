//! Finds the model in a file (a GGUF, or the tensor section of an RTS container) and maps it.

use std::fs::File;
use std::os::fd::AsFd;

use crate::container_file::ContainerFile;
use crate::gguf::Gguf;
use crate::neural::network::Network;
use crate::neural::NetworkError;
use crate::protocol::MutationKey;
use crate::rts::{hex, Header, HEADER_BYTES};
use crate::sys::memory::Mapping;
use crate::tensor::{Base, Store};

/// Metadata key of the public key that changes of the weights must be signed with.
const MUTATION_KEY: &str = "vector_boot.mutation_key";

/// A model that a machine can serve.
pub struct LoadedModel {
    /// Its tensors.
    pub store: Store,
    /// Its network, or why embeddings cannot be computed.
    pub network: Result<Network, String>,
    /// The public key that changes must be signed with, if the file has one.
    pub mutation_key: Option<MutationKey>,
    /// Whether its image is signed: the machine then refuses the method `fault`.
    pub signed: bool,
    /// SHA-256 of the executable in its image, if there is an image and it records the digest.
    pub binary_sha256: Option<[u8; 32]>,
    /// SHA-256 of the model's file, if it is in an image that records the digest.
    pub file_sha256: Option<[u8; 32]>,
}

/// Which images a machine serves: those signed with a key, and not older than the one it was built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trust {
    /// The Ed25519 public key.
    pub key: [u8; 32],
    /// The least security version.
    pub least_version: u64,
}

impl Trust {
    /// Reads what [`Trust::text`] gives; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (digits, version) = text.split_once(':')?;
        let key = *MutationKey::parse(digits)?.bytes();
        let is_number = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit());
        Some(Trust { key, least_version: version.parse().ok().filter(|_| is_number)? })
    }

    /// The key in hexadecimal, a colon, the version.
    pub fn text(&self) -> String {
        format!("{}:{}", hex(&self.key), self.least_version)
    }

    /// Judges the header of an image, before anything else of it is read.
    fn check(&self, file: &ContainerFile) -> Result<(), String> {
        let start = file.read(0, HEADER_BYTES).map_err(|error| format!("the model cannot be read: {error}"))?;
        if !start.starts_with(b"RTS") {
            return Err("the image is refused: expected one that is signed, got a GGUF file".into());
        }
        let header = image(file, &start)?;
        header.verify_signature(&self.key).map_err(|error| format!("the image is refused: {error}"))?;
        if header.security_version < self.least_version {
            let (got, least) = (header.security_version, self.least_version);
            return Err(format!("the image is refused: expected security version {least} or newer, got {got}"));
        }
        Ok(())
    }
}

/// Maps the model of an open file, if it is an image to be trusted.
///
/// # Errors
/// One sentence that says why it cannot be served.
pub fn open(file: File, trust: Option<&Trust>) -> Result<LoadedModel, String> {
    let file = ContainerFile::from_open(file).map_err(|error| format!("the model cannot be read: {error}"))?;
    if let Some(trust) = trust {
        trust.check(&file)?;
    }
    of_container(file)
}

/// Maps the model of a file or device whose length is known.
///
/// # Errors
/// One sentence that says why it cannot be served.
pub fn of_container(file: ContainerFile) -> Result<LoadedModel, String> {
    let start = file.read(0, HEADER_BYTES).map_err(|error| format!("the model cannot be read: {error}"))?;
    let header = start.starts_with(b"RTS").then(|| image(&file, &start)).transpose()?;
    let (offset, len) = header.as_ref().map_or((0, file.len), |header| (header.tensor_offset, header.tensor_size));
    let len = usize::try_from(len).map_err(|_| "the model is larger than the address space".to_string())?;
    let source = file.source;
    let (store, network, mutation_key) = load(Box::new(move || Mapping::private(source.as_fd(), offset, len)))?;
    Ok(LoadedModel {
        store,
        network,
        mutation_key,
        signed: header.as_ref().is_some_and(|header| header.key_id.is_some()),
        binary_sha256: header.as_ref().and_then(|header| header.binary_sha256),
        file_sha256: header.and_then(|header| header.tensor_sha256),
    })
}

/// Loads the model from the bytes of a GGUF.
///
/// # Errors
/// If it is refused.
pub fn from_memory<B: AsRef<[u8]> + Send + Sync + 'static>(bytes: B) -> Result<LoadedModel, String> {
    let copy = move || {
        let bytes = bytes.as_ref();
        let mut memory = Mapping::zeroed(bytes.len())?;
        memory.bytes_mut().copy_from_slice(bytes);
        Ok(memory)
    };
    let (store, network, mutation_key) = load(Box::new(copy))?;
    Ok(LoadedModel { store, network, mutation_key, signed: false, binary_sha256: None, file_sha256: None })
}

/// The key that changes must be signed with, if the file has one.
///
/// # Errors
/// One sentence if its metadata has something else in place of a key.
pub fn mutation_key(gguf: &Gguf<'_>) -> Result<Option<MutationKey>, String> {
    if gguf.value(MUTATION_KEY).is_none() {
        return Ok(None);
    }
    match gguf.text(MUTATION_KEY).and_then(MutationKey::parse) {
        Some(key) => Ok(Some(key)),
        None => Err(format!("{MUTATION_KEY} must be an Ed25519 public key as a string of 64 lower-case hex digits")),
    }
}

type Loaded = (Store, Result<Network, String>, Option<MutationKey>);

/// The tensors, the network, and the key for signed changes. A network that contradicts itself makes the whole model
/// refused, and so does a key that is none.
fn load(base: Base) -> Result<Loaded, String> {
    let judge = &mut |gguf: &Gguf<'_>| (Network::from_gguf(gguf), mutation_key(gguf));
    let (store, (network, key)) = Store::load_and_judge(base, judge).map_err(|error| error.to_string())?;
    let refused = |why| format!("the model is refused: {why}");
    let key = key.map_err(refused)?;
    match network {
        Ok(network) => Ok((store, Ok(network), key)),
        Err(NetworkError::Unsupported(why)) => Ok((store, Err(why), key)),
        Err(NetworkError::Invalid(why)) => Err(refused(why)),
    }
}

fn image(file: &ContainerFile, start: &[u8]) -> Result<Header, String> {
    let header =
        Header::parse(start, file.len, file.container).map_err(|error| format!("the image is refused: {error}"))?;
    if !header.is_bootable() {
        let text = "the image is refused: RTS: tensor_offset: offset 24: is not a multiple of 4096, as mapping requires: repack it";
        return Err(text.to_string());
    }
    Ok(header)
}
