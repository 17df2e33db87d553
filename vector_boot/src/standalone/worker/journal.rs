//! Opens the journal of a worker: on the state device if there is one, else in memory.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{Options, StateAccess};
use crate::hw_mmio::Page;
use crate::journal::device::{described, DeviceLog, Opening};
use crate::journal::log::Log;
use crate::journal::state_device::StateDevice;
use crate::journal::storage::BlockDevice;
use crate::journal::{Journal, JournalError, JournalReason};
use crate::model_file::LoadedModel;
use crate::sys;
use crate::sys::memory::SharedWords;
use crate::vitals::Vitals;

/// Bytes that are hashed between two signs of life.
const HASH_PIECE: usize = 4 << 20;

/// Opens the journal. `memory` is the file of one in memory, `state` the device. `progress` is called regularly.
///
/// # Errors
/// Why it cannot be used.
pub fn open(
    options: &Options,
    memory: OwnedFd,
    state: Option<OwnedFd>,
    model: &LoadedModel,
    shared: &Arc<SharedWords>,
    progress: &dyn Fn(),
) -> Result<Box<dyn Journal>, JournalError> {
    if options.without_journal {
        return Err(JournalError::new(JournalReason::Damaged, "workers died while they replayed the journal"));
    }
    let Some(state) = state else { return Log::in_memory(memory) };
    let vitals = Vitals::new(shared.words());
    let opening = Opening {
        file: file_sha256(model, vitals, progress),
        model: &|| {
            model.store.model_sha256_of(|index| {
                progress();
                model.store.sha256(index, Page::new(shared.words()))
            })
        },
        random: sys::random()?,
        boot: vitals.boot(),
        // A device that has failed in this boot is not written again, nor one that the worker that serves cannot write.
        writable: options.state == StateAccess::Write
            && vitals.journal_loss().is_none()
            && (!options.standby || vitals.boot() != 0),
        beside: options.standby,
    };
    // The vitals are those of the worker that serves.
    let (words, serves) = (Arc::clone(shared), !options.standby);
    let alive = move || {
        if serves {
            Vitals::new(words.words()).make_progress();
        }
    };
    let device = StateDevice::new(File::from(state), vitals.state_bytes(), Box::new(alive));
    let device = Box::new(device.map_err(|error| described(error.into()))?);
    if serves {
        vitals.set_state_bytes(device.size());
    }
    DeviceLog::open(device, &opening).map(|log| Box::new(log) as Box<dyn Journal>)
}

/// SHA-256 of the model's file: that of its image's head, or else computed once in a boot.
fn file_sha256(model: &LoadedModel, vitals: Vitals<'_>, progress: &dyn Fn()) -> [u8; 32] {
    let compute = || {
        let mut hash = Sha256::new();
        for piece in model.store.memory().weights().chunks(HASH_PIECE) {
            hash.update(piece);
            progress();
        }
        let digest = hash.finalize().into();
        vitals.set_model_file_sha256(&digest);
        digest
    };
    model.file_sha256.or(vitals.model_file_sha256()).unwrap_or_else(compute)
}
