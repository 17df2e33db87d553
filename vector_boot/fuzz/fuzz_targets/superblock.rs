#![no_main]
//! A superblock of any bytes is right or not without a panic, and a right one is written as it was read. Its digest is
//! mended, so that its numbers are looked at.

use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};
use vector_boot::journal::device::superblock::Superblock;
use vector_boot::journal::format::{superblock as at, SUPERBLOCK_BYTES, SUPERBLOCK_MAGIC};

fuzz_target!(|data: &[u8]| {
    let _ = Superblock::decode(data);
    let mut bytes = [0; SUPERBLOCK_BYTES as usize];
    let len = data.len().min(at::DIGEST);
    bytes[..len].copy_from_slice(&data[..len]);
    bytes[..8].copy_from_slice(&SUPERBLOCK_MAGIC);
    let digest: [u8; 32] = Sha256::digest(&bytes[..at::DIGEST]).into();
    bytes[at::DIGEST..].copy_from_slice(&digest);
    let superblock = Superblock::decode(&bytes).unwrap();
    if superblock.is_sound() {
        assert!(superblock.start.offset <= superblock.reach);
    }
    assert_eq!(Superblock::decode(&superblock.encode()), Some(superblock));
});
