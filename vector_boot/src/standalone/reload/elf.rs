//! Judges an executable by its headers: whether it is complete, static, and made for this machine.

use std::io;

use crate::container_file::{ContainerFile, ReadAt};

const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const SECTION_HEADER_BYTES: u64 = 64;
/// More program headers than any linker writes.
const PROGRAM_HEADERS_LIMIT: u16 = 64;

const EXECUTABLE: u16 = 2;
const POSITION_INDEPENDENT: u16 = 3;
const LOADED: u32 = 1;
const INTERPRETER: u32 = 3;
const CODE: u32 = 1;

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

/// Checks the executable in the first `len` bytes behind `offset`. Bytes behind the end of its sections are ignored.
///
/// # Errors
/// One sentence that says why it cannot run.
pub fn check<R: ReadAt>(file: &ContainerFile<R>, offset: u64, len: u64) -> Result<(), String> {
    let unreadable = |error: io::Error| format!("the executable cannot be read: {error}");
    let header = file.read(offset, len.min(HEADER_BYTES as u64)).map_err(unreadable)?;
    let Some(header) = header.first_chunk::<HEADER_BYTES>().filter(|header| header.starts_with(b"\x7fELF")) else {
        return Err("expected an ELF executable, got something else".into());
    };
    if header[4..7] != [2, 1, 1] {
        return Err("expected an ELF executable of 64 bits, little-endian, version 1".into());
    }
    let (kind, machine) = (short(header, 16), short(header, 18));
    if kind != EXECUTABLE && kind != POSITION_INDEPENDENT {
        return Err(format!("expected an ELF executable, got an ELF file of type {kind}"));
    }
    if machine != MACHINE {
        return Err(format!("expected an executable for machine {MACHINE}, got one for machine {machine}"));
    }
    let inside = |start: u64, size: u64| start.checked_add(size).is_some_and(|end| end <= len);
    let sections = u64::from(short(header, 60)) * SECTION_HEADER_BYTES;
    if !inside(wide(header, 40), sections) {
        return Err(format!("expected a complete executable, got its first {len} bytes"));
    }
    let (start, count) = (wide(header, 32), short(header, 56));
    let bytes = u64::from(count) * PROGRAM_HEADER_BYTES as u64;
    if usize::from(short(header, 54)) != PROGRAM_HEADER_BYTES || count > PROGRAM_HEADERS_LIMIT || !inside(start, bytes)
    {
        return Err("expected an executable with 1 to 64 program headers, got a damaged one".into());
    }
    let headers = file.read(offset + start, bytes).map_err(unreadable)?;
    let segments = || headers.chunks_exact(PROGRAM_HEADER_BYTES);
    if segments().any(|segment| word(segment, 0) == INTERPRETER) {
        return Err("expected a static executable, got one that needs a dynamic linker".into());
    }
    if segments().any(|segment| word(segment, 0) == LOADED && !inside(wide(segment, 8), wide(segment, 32))) {
        return Err(format!("expected a complete executable, got its first {len} bytes"));
    }
    let entry = wide(header, 24);
    let holds_entry = |segment: &[u8]| {
        let (flags, address) = (word(segment, 4), wide(segment, 16));
        let loaded = word(segment, 0) == LOADED && flags & CODE != 0;
        loaded && entry.checked_sub(address).is_some_and(|at| at < wide(segment, 32))
    };
    match segments().any(holds_entry) {
        true => Ok(()),
        false => Err("expected an executable that starts inside its code, got a damaged one".into()),
    }
}

/// A number of the header; callers stay inside, and what would not be is zero.
fn wide(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

fn short(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u16::from_le_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rts::Container;

    struct Bytes(Vec<u8>);

    impl ReadAt for Bytes {
        fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
            let found = usize::try_from(offset).ok().and_then(|at| self.0.get(at..)?.get(..bytes.len()));
            bytes.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }
    }

    fn judge(bytes: Vec<u8>) -> Result<(), String> {
        let len = bytes.len() as u64;
        check(&ContainerFile { source: Bytes(bytes), len, container: Container::File }, 0, len)
    }

    /// An executable of one segment, with one section header at its end.
    fn sound() -> Vec<u8> {
        let mut file = vec![0; 256];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        for (at, value) in [(16, POSITION_INDEPENDENT), (18, MACHINE), (54, 56), (56, 1), (60, 1)] {
            file[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        for (at, value) in [(24, 0x1080u64), (32, 64), (40, 192), (64 + 16, 0x1000), (64 + 32, 0xC0)] {
            file[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        file[64..72].copy_from_slice(&[1, 0, 0, 0, 5, 0, 0, 0]);
        file
    }

    fn changed(at: usize, bytes: &[u8]) -> Result<(), String> {
        let mut file = sound();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        judge(file)
    }

    #[test]
    fn a_complete_static_executable_is_accepted() {
        judge(sound()).unwrap();
        judge([sound(), vec![7; 100]].concat()).unwrap(); // what stands behind it is not part of it
    }

    #[test]
    fn what_cannot_run_is_refused() {
        for (at, bytes, why) in [
            (0, &b"MZ"[..], "something else"),
            (4, &[1], "64 bits"),
            (16, &[1, 0], "type 1"),
            (18, &[40, 0], "machine 40"),
            (64, &[3], "dynamic linker"),
            (56, &[200], "program headers"),
            (54, &[8], "program headers"),
            (32, &[0xFF; 8], "program headers"),
            (40, &[0xF0], "complete"),
            (64 + 8, &[0xFF; 8], "complete"),
            (64 + 32, &[0, 2], "complete"),
            (24, &[0; 8], "damaged"),
            (64 + 4, &[4], "damaged"),
        ] {
            let refused = changed(at, bytes).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
        (0..sound().len()).for_each(|len| assert!(judge(sound()[..len].to_vec()).is_err()));
    }

    proptest! {
        #[test]
        fn any_header_is_harmless(at in 0usize..250, bytes in prop::array::uniform6(any::<u8>())) {
            let _ = changed(at, &bytes);
        }
    }
}
