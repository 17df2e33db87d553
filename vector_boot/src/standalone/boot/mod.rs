//! The slots of the disk: short-lived children without rights that read and change the ESP, and write the other slot,
//! through descriptors which the supervisor opened for them.

pub mod boot_file;
pub mod device;
pub mod entries;
pub mod judge;
pub mod offline;
pub mod writer;

use crate::protocol::UpdateReason;

/// Bytes in front of the boot file in what an update brings: the header of the RTS image.
pub const BUNDLE_HEADER: u64 = crate::rts::HEADER_BYTES;

/// Why an update is refused or has failed: the reason and a sentence.
pub type Refusal = (UpdateReason, String);
