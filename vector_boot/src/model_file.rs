//! Finds the model in a file (a GGUF, or the tensor section of an RTS image) and maps it.

use std::fs::File;
use std::os::fd::AsFd;

use crate::container_file::ContainerFile;
use crate::neural::network::Network;
use crate::neural::NetworkError;
use crate::rts::{Header, HEADER_BYTES};
use crate::sys::memory::Mapping;
use crate::tensor::{Base, Store};

/// A model that can be served.
pub struct Model {
    /// Its tensors.
    pub store: Store,
    /// Its network, or why it has none that can be run.
    pub network: Result<Network, String>,
    /// Whether its image is signed: such a machine serves no faults.
    pub signed: bool,
    /// SHA-256 of the executable its image was built with, if it came in an image that records it.
    pub binary_sha256: Option<[u8; 32]>,
}

/// Maps the model of an open file.
///
/// # Errors
/// One sentence that says why it cannot be served.
pub fn open(file: File) -> Result<Model, String> {
    of_container(ContainerFile::from_open(file).map_err(|error| format!("the model cannot be read: {error}"))?)
}

/// Maps the model of a file or device whose length is known.
///
/// # Errors
/// One sentence that says why it cannot be served.
pub fn of_container(file: ContainerFile) -> Result<Model, String> {
    let start = file.read(0, HEADER_BYTES).map_err(|error| format!("the model cannot be read: {error}"))?;
    let header = start.starts_with(b"RTS").then(|| image(&file, &start)).transpose()?;
    let (offset, len) = header.as_ref().map_or((0, file.len), |header| (header.tensor_offset, header.tensor_size));
    let len = usize::try_from(len).map_err(|_| "the model is larger than the address space".to_string())?;
    let source = file.source;
    let (store, network) = load(Box::new(move || Mapping::private(source.as_fd(), offset, len)))?;
    Ok(Model {
        store,
        network,
        signed: header.as_ref().is_some_and(|header| header.key_id.is_some()),
        binary_sha256: header.and_then(|header| header.binary_sha256),
    })
}

/// The model in these bytes, a GGUF.
///
/// # Errors
/// If it is refused.
pub fn from_memory<B: AsRef<[u8]> + Send + Sync + 'static>(bytes: B) -> Result<Model, String> {
    let copy = move || {
        let bytes = bytes.as_ref();
        let mut memory = Mapping::zeroed(bytes.len())?;
        memory.bytes_mut().copy_from_slice(bytes);
        Ok(memory)
    };
    let (store, network) = load(Box::new(copy))?;
    Ok(Model { store, network, signed: false, binary_sha256: None })
}

/// The tensors and the network; a network that contradicts itself is no model to serve.
fn load(base: Base) -> Result<(Store, Result<Network, String>), String> {
    let (store, network) =
        Store::load_and_judge(base, &mut |gguf| Network::from_gguf(gguf)).map_err(|error| error.to_string())?;
    match network {
        Ok(network) => Ok((store, Ok(network))),
        Err(NetworkError::Unsupported(why)) => Ok((store, Err(why))),
        Err(NetworkError::Invalid(why)) => Err(format!("the model is refused: {why}")),
    }
}

fn image(file: &ContainerFile, start: &[u8]) -> Result<Header, String> {
    let header =
        Header::parse(start, file.len, file.container).map_err(|error| format!("the image is refused: {error}"))?;
    if !header.is_bootable() {
        let text = "the image is refused: RTS: tensor_offset: offset 24: is no multiple of 4096, which mapping needs: repack it";
        return Err(text.to_string());
    }
    Ok(header)
}
