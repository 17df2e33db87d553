#![no_main]
//! A device of any bytes is read or refused without a panic, and what is read can be read again. The bytes are put into
//! frames with right digests, so that they get deep; the last byte says how.

use libfuzzer_sys::fuzz_target;
use std::io;
use std::sync::{Arc, Mutex};
use vector_boot::journal::device::frame::{seed, FrameHead};
use vector_boot::journal::device::superblock::{Place, Superblock};
use vector_boot::journal::device::{DeviceLog, Limits, Opening};
use vector_boot::journal::storage::BlockDevice;
use vector_boot::journal::{EntryHead, EntryKind, Journal};
use xxhash_rust::xxh3::xxh3_128_with_seed;

const BLOCKS: usize = 12;
const SALT: [u8; 32] = [9; 32];

#[derive(Clone)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl BlockDevice for Memory {
    fn size(&self) -> u64 {
        self.0.lock().unwrap().len() as u64
    }
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        buffer.copy_from_slice(&self.0.lock().unwrap()[offset as usize..][..buffer.len()]);
        Ok(())
    }
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap()[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A device whose frames hold pieces of `data` as their contents.
fn device(data: &[u8], how: u8) -> Vec<u8> {
    let mut place = Place { offset: 0, frame: 0, sequence: 0, chain: [0; 32] };
    let area_bytes = (BLOCKS as u64) << 12;
    let superblock = Superblock {
        version: 1,
        least_reader: 1,
        turn: 0,
        device_id: [1; 16],
        salt: SALT,
        model: [2; 32],
        file: [3; 32],
        area_offset: 8192,
        area_bytes,
        start: place,
        reach: area_bytes,
    };
    let mut bytes = vec![0; 8192 + area_bytes as usize];
    bytes[..512].copy_from_slice(&superblock.encode());
    let mut at = 8192;
    for piece in data.chunks(1 + usize::from(how) * 24) {
        let mut content = piece.to_vec();
        if how & 1 == 0 {
            let mut head = plain(place.sequence);
            head.kind = EntryKind::ALL[usize::from(piece[0]) % EntryKind::ALL.len()];
            head.payload_bytes = (piece.len() as u64).wrapping_add(u64::from(how >> 6));
            content = [&head.encode()[..], piece].concat();
        }
        content.resize(content.len().next_multiple_of(8), 0);
        let mut head = FrameHead {
            place,
            entries: 1 + u32::from(how >> 7),
            content_bytes: content.len() as u64,
            content_sum: xxh3_128_with_seed(&content, seed(&SALT)),
            boot: 1,
            nonce: [4; 16],
            digest: [0; 32],
        };
        let frame = [&head.encode(&SALT)[..], &content].concat();
        if at + frame.len() > bytes.len() {
            break;
        }
        bytes[at..at + frame.len()].copy_from_slice(&frame);
        place = head.next();
        at += frame.len().next_multiple_of(4096);
    }
    bytes
}

fn plain(sequence: u64) -> EntryHead {
    EntryHead {
        kind: EntryKind::Mutate,
        digest: false,
        sequence,
        generation: 1,
        fingerprint: 0,
        promoted: 0,
        lease_until_us: 0,
        target: 0,
        id: [0; 16],
        content: Default::default(),
        changed_tensors: 0,
        changed_bytes: 0,
        upload: [0; 16],
        edits: 0,
        origin: [0; 16],
        confidence: 0.0,
        uptime_us: 0,
        payload_bytes: 0,
        payload_sum: 0,
    }
}

fn read(bytes: &[u8]) -> Option<Vec<u64>> {
    let memory = Memory(Arc::new(Mutex::new(bytes.to_vec())));
    let opening =
        Opening { file: [3; 32], model: &|| [2; 32], random: [5; 64], boot: 0, writable: true, beside: false };
    let limits = Limits { device_least: 16 << 10, reach_step: 1 << 14, zeros_ahead: 1 << 13 };
    let mut log = DeviceLog::open_limited(Box::new(memory.clone()), &opening, limits).ok()?;
    let mut found = Vec::new();
    let mut visit = |offset, _: &EntryHead| {
        found.push(offset);
        Ok(())
    };
    log.read_on(&mut visit).ok()?;
    for offset in &found {
        let _ = log.entry(*offset);
    }
    let _ = log.append(plain(0), &[b"more"]).and_then(|_| log.commit());
    Some(found)
}

fuzz_target!(|data: &[u8]| {
    let Some((how, data)) = data.split_last() else { return };
    let mut bytes = device(data, *how);
    let found = read(&bytes);
    assert_eq!(found, read(&bytes));
    // The same bytes without right digests.
    let len = data.len().min(bytes.len() - 8192);
    bytes[8192..8192 + len].copy_from_slice(&data[..len]);
    read(&bytes);
});
