#![no_main]
//! Any header is accepted or refused without a panic; the sections of an accepted one lie inside the file.

use libfuzzer_sys::fuzz_target;
use vector_boot::rts::{check_elf, Container, Header};

fuzz_target!(|data: &[u8]| {
    let len = data.len() as u64;
    for container in [Container::File, Container::BlockDevice] {
        if let Ok(header) = Header::parse(data, len, container) {
            assert!(header.tensor_offset + header.tensor_size <= len);
            let _ = check_elf(&data[512..][..header.binary_size.min(16) as usize]);
            let _ = header.verify_signature(&[7; 32]);
        }
    }
});
