//! The RTS vectors that the Python reader is tested with too: `tests/vectors/rts/README.md` defines them.

use sha2::{Digest, Sha256};

use super::*;
use crate::rts::{hex, Container};

const VECTORS: &str = include_str!("../../../../tests/vectors/rts/vectors.tsv");
const ELF: &str =
    "7f454c4602010100000000000000000002003e000100000000000000000000000000000000000000000000000000000000000000\
                   400038000000400000000000";
const GGUF: &str = "47475546030000000100000000000000010000000000000014000000000000\
                    0067656e6572616c2e6172636869746563747572650800000004000000000000007465737401000000000000007401000000\
                    08000000000000000000000000000000000000000000";
const KEY: &str = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8";

impl ReadAt for Vec<u8> {
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
        let start = offset as usize;
        let found = self.get(start..start + bytes.len()).ok_or(std::io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(found);
        Ok(())
    }
}

fn unhex(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn base(binary_size: usize, sha256: &str) -> Vec<u8> {
    let mut binary = unhex(ELF);
    binary.resize(binary_size, 0);
    let mut gguf = unhex(GGUF);
    gguf.resize(128, 0);
    (0..8).for_each(|_| gguf.extend(1f32.to_le_bytes()));
    let mut file = b"RTS\x01\0\0\0\x01".to_vec();
    for field in [512, binary.len(), 512 + binary.len(), gguf.len()] {
        file.extend((field as u64).to_be_bytes());
    }
    file.extend(Sha256::digest(&binary));
    file.extend(Sha256::digest(&gguf));
    file.resize(512, 0);
    file.extend(binary);
    file.extend(gguf);
    assert_eq!(hex(&Sha256::digest(&file)), sha256);
    file
}

fn edit(file: &mut Vec<u8>, edit: &str) {
    let (what, value) = edit.split_once(':').unwrap();
    match what {
        "truncate" => file.truncate(value.parse().unwrap()),
        "append" => file.extend(unhex(value)),
        offset => {
            let (start, bytes) = (offset.parse::<usize>().unwrap(), unhex(value));
            file[start..start + bytes.len()].copy_from_slice(&bytes);
        }
    }
}

#[test]
fn the_shared_vectors_get_their_verdicts() {
    let mut count = 0;
    for line in VECTORS.lines().skip(1) {
        let [name, base_name, edits, medium, key, verdict, field] =
            line.split('\t').collect::<Vec<_>>().try_into().unwrap();
        let mut file = match base_name {
            "padded" => base(3584, "a373c5f91f76b7057fd3bdc550843e2d5abc0ed6b2311a8b5bf74af77eb81add"),
            _ => base(64, "f969e0d2b8e53d9314d02198a8db8538cb3892f3da127a7fc63efc67b62ec8d7"),
        };
        edits.split(' ').filter(|edits| *edits != "-").for_each(|one| edit(&mut file, one));
        let container = if medium == "file" { Container::File } else { Container::BlockDevice };
        let key = (key == "test").then(|| <[u8; 32]>::try_from(unhex(KEY)).unwrap());
        let file = ContainerFile { len: file.len() as u64, container, source: file };
        match (check_rts(&file, key), verdict) {
            (Ok(summary), "accept" | "accept-no-boot") => {
                assert_eq!(summary.rts.unwrap().header.is_bootable(), verdict == "accept", "{name}");
            }
            (Err(CheckError::Rts(error)), "reject") => {
                assert_eq!(error.field, field, "{name}: {error}");
                assert!(!error.to_string().contains('\n'), "{name}");
            }
            (Ok(_), _) => panic!("{name} was accepted"),
            (Err(CheckError::Rts(error)), _) => panic!("{name} was refused: {error}"),
            (Err(_), _) => panic!("{name} was refused for another reason"),
        }
        count += 1;
    }
    assert!(count > 90);
}
