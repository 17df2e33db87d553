//! The slots of the disk: short-lived children without rights that read and change the ESP through a descriptor which the
//! supervisor opened for them.

pub mod device;
pub mod entries;
