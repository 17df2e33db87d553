//! The model of the tests, a machine's weights over a disk, and what a change is.

use serde_json::{json, Value};
use vector_boot::journal::device::{DeviceLog, Limits, Opening};
use vector_boot::journal::storage::BlockDevice;
use vector_boot::journal::{EntryHead, Journal, JournalError};
use vector_boot::lineage::{Budget, ChangeRequest, Lineage, LineageError, MutationPayload, Recovery};
use vector_boot::mutation::apply::apply;
use vector_boot::mutation::plan::plan;
use vector_boot::mutation::request::parse_edits;
use vector_boot::sys::allocations::{counted, uncounted};
use vector_boot::sys::memory::Mapping;
use vector_boot::tensor::Store;

use crate::random::Random;

/// Bytes of the only tensor of the model, three pages.
pub const TENSOR: usize = 12 << 10;
/// Blocks of the log area.
pub const AREA_BLOCKS: usize = 62;
/// Bytes of the device.
pub const DEVICE: usize = 8192 + (AREA_BLOCKS << 12);
/// Bytes of a large blob: more than an image and the notes, so that its frame reaches into space that was just freed.
const LARGE: usize = 100 << 10;
/// How the message begins if the model cannot be loaded.
pub const NOT_LOADED: &str = "the model cannot be loaded";
const LIMITS: Limits = Limits { device_least: 16 << 10, reach_step: 40 << 10, zeros_ahead: 8 << 10 };
const FILE: [u8; 32] = [0x5A; 32];

/// A GGUF file with one I8 tensor, `w`.
fn file() -> Vec<u8> {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend(1u64.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.extend(1u64.to_le_bytes());
    file.extend(b"w");
    file.extend(1u32.to_le_bytes());
    file.extend((TENSOR as u64).to_le_bytes());
    file.extend(24u32.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend(base());
    file
}

/// The contents of generation 0.
pub fn base() -> Vec<u8> {
    vec![7; TENSOR]
}

fn store() -> Result<Store, String> {
    let bytes = uncounted(file);
    Store::load(Box::new(move || {
        let mut mapping = Mapping::zeroed(bytes.len())?;
        mapping.bytes_mut().copy_from_slice(&bytes);
        Ok(mapping)
    }))
    .map_err(|error| format!("{NOT_LOADED}: {error}"))
}

/// How a worker opens the device.
#[derive(Debug, Clone, Copy)]
pub struct Boot {
    /// The number of the boot; 0 if the device was not opened in it before.
    pub number: u64,
    /// Distinguishes the openings.
    pub nonce: u64,
    /// The first entry that was never acknowledged, if the device has failed in this boot.
    pub lost_from: Option<u64>,
}

/// The weights, recovered from a device.
///
/// # Errors
/// If the model of the test cannot be loaded.
pub fn recover(device: Box<dyn BlockDevice>, boot: Boot, budget: Budget) -> Result<Lineage, String> {
    let mut random = [3; 64];
    random[48..56].copy_from_slice(&boot.nonce.to_le_bytes());
    let opening = Opening {
        file: FILE,
        model: &|| [0xA5; 32],
        random,
        boot: boot.number,
        writable: boot.lost_from.is_none(),
        beside: false,
    };
    let log = DeviceLog::open_limited(device, &opening, LIMITS);
    let log: Result<Box<dyn Journal>, JournalError> = log.map(|log| Box::new(log) as Box<dyn Journal>);
    let recovery = Recovery {
        budget,
        lost_from: boot.lost_from,
        opened_before: boot.number != 0,
        uptime_us: 0,
        progress: &|| (),
        seen: &mut |_: &EntryHead| (),
    };
    Ok(Lineage::recover(store()?, log, recovery))
}

/// The contents of the tensor.
pub fn contents(lineage: &Lineage) -> &[u8] {
    let store = lineage.store();
    store.find("w").and_then(|tensor| store.bytes(tensor)).unwrap_or_default()
}

/// A request to change the weights.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its id.
    pub id: [u8; 16],
    /// Where it writes, and what.
    pub edits: Vec<(usize, Vec<u8>)>,
    /// When its trial ends, if it opens one.
    pub lease_until_us: Option<u64>,
    /// Bytes of its blob that no edit uses.
    pub unused: usize,
}

impl Request {
    /// A random one, which always changes something: `number` is in its bytes. One in `large_in` has a large blob.
    pub fn draw(random: &mut Random, number: u64, lease_until_us: Option<u64>, large_in: usize) -> Self {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&number.to_le_bytes());
        id[8] = 1;
        // One edit in each half, because edits may not overlap.
        let halves = 1 + usize::from(random.below(3) == 0);
        let edits = (0..halves).map(|half| {
            let len = match random.below(8) {
                0 => 5000,
                1 => 1500,
                _ => 9 + random.below(300),
            };
            let mut bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            (half * TENSOR / 2 + random.below(TENSOR / 2 - len), bytes)
        });
        let edits = edits.collect();
        let unused = if random.below(large_in) == 0 { LARGE } else { 0 };
        Request { id, edits, lease_until_us, unused }
    }

    /// What becomes of these contents.
    pub fn carry_out(&self, contents: &mut [u8]) {
        for (at, bytes) in &self.edits {
            contents[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
    }

    /// Adds it to the open batch of the weights, as a machine does.
    ///
    /// # Errors
    /// [`LineageError`].
    pub fn add(&self, lineage: &mut Lineage) -> Result<(), LineageError> {
        let (mut edits, mut blob): (Vec<Value>, Vec<u8>) = (Vec::new(), Vec::new());
        for (at, bytes) in &self.edits {
            edits.push(json!({"kind": "dense", "tensor": "w", "offset": at, "blob": [blob.len(), bytes.len()]}));
            blob.extend(bytes);
        }
        blob.resize(blob.len() + self.unused, 0xEE);
        let edits = Value::from(edits);
        counted(|| self.add_edits(edits, &blob, lineage))
    }

    fn add_edits(&self, edits: Value, blob: &[u8], lineage: &mut Lineage) -> Result<(), LineageError> {
        let text = edits.to_string();
        let invalid = |why: String| LineageError::UnknownGeneration(format!("the test's edits are refused: {why}"));
        let parsed = parse_edits(edits).map_err(|error| invalid(format!("{error:?}")))?;
        let plan = plan(lineage.store(), &parsed, blob).map_err(|error| invalid(format!("{error:?}")))?;
        lineage.require_log()?;
        lineage.require_room((text.len() + blob.len()) as u64, plan.reachable_bytes())?;
        let mut change = lineage.store_mut().memory_mut().begin();
        apply(&plan, &mut change, &|| ()).map_err(|error| invalid(format!("{error:?}")))?;
        let before = change.commit();
        let asked = ChangeRequest { id: self.id, edits: self.edits.len() as u32, ..ChangeRequest::default() };
        let payload = MutationPayload { edits: text.as_bytes(), reply: b"", blob };
        lineage.add_mutation(asked, before, self.lease_until_us, &payload, 0)
    }
}
