//! Finds the model in the file handed over (a GGUF, or the tensor section of an RTS image) and maps it.

use std::fs::File;
use std::os::fd::AsFd;

use crate::rts::{Header, HEADER_BYTES};
use crate::standalone::container_file::ContainerFile;
use crate::standalone::EMBEDDED_MODEL;
use crate::sys::memory::Mapping;
use crate::tensor::Store;

/// Maps the model of an open file.
///
/// # Errors
/// One sentence that says why it cannot be served.
pub fn open(file: File) -> Result<Store, String> {
    let file = ContainerFile::from_open(file).map_err(|error| format!("the model cannot be read: {error}"))?;
    let start = file.read(0, HEADER_BYTES).map_err(|error| format!("the model cannot be read: {error}"))?;
    let (offset, len) = if start.starts_with(b"RTS") { section(&file, &start)? } else { (0, file.len) };
    // Judged by reading before it is mapped: a refused file is never touched through memory.
    let verdict = file.with_gguf(offset, len, |_| ()).map_err(|error| format!("the model cannot be read: {error}"))?;
    verdict.map_err(|error| format!("the model is refused: {error}"))?;
    let len = usize::try_from(len).map_err(|_| "the model is larger than the address space".to_string())?;
    let mapping = Mapping::private(file.source.as_fd(), offset, len);
    Store::load(mapping.map_err(|error| format!("the model cannot be mapped: {error}"))?)
        .map_err(|error| error.to_string())
}

/// The model inside the executable.
///
/// # Errors
/// If there is none, or it is refused.
pub fn embedded() -> Result<Store, String> {
    let mut memory = Mapping::zeroed(EMBEDDED_MODEL.len()).map_err(|error| format!("no model is embedded: {error}"))?;
    memory.bytes_mut().copy_from_slice(EMBEDDED_MODEL);
    Store::load(memory).map_err(|error| error.to_string())
}

fn section(file: &ContainerFile, start: &[u8]) -> Result<(u64, u64), String> {
    let header =
        Header::parse(start, file.len, file.container).map_err(|error| format!("the image is refused: {error}"))?;
    if !header.is_bootable() {
        let text = "the image is refused: RTS: tensor_offset: offset 24: is no multiple of 4096, which mapping needs: repack it";
        return Err(text.to_string());
    }
    Ok((header.tensor_offset, header.tensor_size))
}
