//! Judges the boot file of a slot: a unified kernel image, which is a PE executable with the kernel, the initramfs and the
//! command line in sections.

use std::io;

use crate::container_file::{ContainerFile, ReadAt};
use crate::esp::Slot;

const DOS_HEADER_BYTES: u64 = 64;
const PE_HEADER_BYTES: u64 = 24;
const SECTION_BYTES: usize = 40;
/// More sections than any boot file has.
const SECTIONS_LIMIT: u16 = 96;
const COMMAND_LINE_LIMIT: u64 = 4096;
const VERITY_BLOCK: u64 = 4096;
/// Where a Linux kernel has the letters of its boot protocol.
const LINUX_MAGIC: (u64, &[u8]) = (0x202, b"HdrS");

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 0x8664;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 0xAA64;

/// A section: its name, and where it is in the file.
struct Section {
    name: [u8; 8],
    offset: u64,
    bytes: u64,
}

/// Checks the boot file of `slot` in the bytes behind `start`, whose partition gets `slot_bytes`.
///
/// # Errors
/// One sentence that says why it cannot be started.
pub fn check<R: ReadAt>(file: &ContainerFile<R>, start: u64, slot: Slot, slot_bytes: u64) -> Result<(), String> {
    let sections = sections(file, start)?;
    let find = |name: &str| {
        let padded =
            |section: &&Section| section.name.iter().copied().eq(name.bytes().chain(std::iter::repeat(0)).take(8));
        sections.iter().find(padded).ok_or_else(|| format!("the boot file has no section {name}"))
    };
    for name in [".osrel", ".initrd"] {
        find(name)?; // without .osrel the boot loader does not show it
    }
    let linux = find(".linux")?;
    let (at, magic) = LINUX_MAGIC;
    if cfg!(target_arch = "x86_64") && read(file, linux.offset + at, magic.len() as u64)? != magic {
        return Err("the section .linux of the boot file holds no Linux kernel".into());
    }
    let section = find(".cmdline")?;
    let line = read(file, section.offset, section.bytes.min(COMMAND_LINE_LIMIT))?;
    check_command_line(&String::from_utf8_lossy(&line), slot, slot_bytes)
}

fn check_command_line(line: &str, slot: Slot, slot_bytes: u64) -> Result<(), String> {
    let words: Vec<&str> = line.trim_end_matches('\0').split_ascii_whitespace().collect();
    let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key));
    match value("vector_boot.slot=") {
        Some(named) if named == slot.to_string() => (),
        Some(named) => return Err(format!("the boot file is made for slot {named:?}, expected slot {slot}")),
        None => return Err(format!("the boot file names no slot, expected vector_boot.slot={slot}")),
    }
    let Some(verity) = value("vector_boot.verity=") else { return Ok(()) };
    let blocks: Option<u64> = verity.split_once(':').and_then(|(_, blocks)| blocks.parse().ok());
    match blocks.and_then(|blocks| blocks.checked_mul(VERITY_BLOCK)) {
        Some(data) if data < slot_bytes => Ok(()),
        Some(data) => Err(format!(
            "the boot file expects {data} bytes and a hash tree in the partition, but only {slot_bytes} bytes were announced"
        )),
        None => Err(format!("the boot file has vector_boot.verity={verity:?}, expected a root hash and a number of blocks")),
    }
}

fn read<R: ReadAt>(file: &ContainerFile<R>, offset: u64, count: u64) -> Result<Vec<u8>, String> {
    let cannot = |error: io::Error| format!("the boot file cannot be read: {error}");
    let bytes = file.read(offset, count).map_err(cannot)?;
    match bytes.len() as u64 == count {
        true => Ok(bytes),
        false => Err("the boot file is cut off".into()),
    }
}

fn sections<R: ReadAt>(file: &ContainerFile<R>, start: u64) -> Result<Vec<Section>, String> {
    let dos = read(file, start, DOS_HEADER_BYTES)?;
    let pe = u64::from(u32::from_le_bytes([dos[60], dos[61], dos[62], dos[63]]));
    if !dos.starts_with(b"MZ") {
        return Err("expected a PE executable as the boot file, got something else".into());
    }
    let header = read(file, start + pe, PE_HEADER_BYTES)?;
    let short = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    if !header.starts_with(b"PE\0\0") || short(6) > SECTIONS_LIMIT {
        return Err("expected a PE executable as the boot file, got something else".into());
    }
    if short(4) != MACHINE {
        return Err(format!("the boot file is made for machine {:#06x}, expected {MACHINE:#06x}", short(4)));
    }
    let table = start + pe + PE_HEADER_BYTES + u64::from(short(20));
    let bytes = read(file, table, u64::from(short(6)) * SECTION_BYTES as u64)?;
    let section = |entry: &[u8]| {
        let word = |at: usize| u64::from(u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]));
        let mut name = [0; 8];
        name.copy_from_slice(&entry[..8]);
        let (stored, shown) = (word(16), word(8));
        Section { name, offset: start + word(20), bytes: if shown == 0 { stored } else { stored.min(shown) } }
    };
    let sections: Vec<Section> = bytes.chunks_exact(SECTION_BYTES).map(section).collect();
    match sections.iter().find(|section| section.offset + section.bytes > file.len) {
        Some(section) => {
            Err(format!("the boot file is cut off: section {} ends behind it", String::from_utf8_lossy(&section.name)))
        }
        None => Ok(sections),
    }
}
