//! Devices of Linux's device mapper that check every block by a hash tree (dm-verity), made without its tools.
//!
//! Linux, include/uapi/linux/dm-ioctl.h and Documentation/admin-guide/device-mapper/verity.rst.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::check;

const CONTROL: &str = "/dev/mapper/control";
const BLOCK: u64 = 4096;
const SECTOR: u64 = 512;

const CREATE: u64 = 3;
const REMOVE: u64 = 4;
const SUSPEND: u64 = 6; // without its flag: resume
const LOAD: u64 = 9;
const STATUS: u64 = 12;
const READ_ONLY: u32 = 1;

const HEAD_BYTES: usize = 312;
const TARGET_BYTES: usize = 40;
const REQUEST_BYTES: usize = 1024;
/// Offsets in the head: size of the data, where they begin, targets, flags, device, name.
const SIZE_AT: usize = 12;
const START_AT: usize = 16;
const TARGETS_AT: usize = 20;
const FLAGS_AT: usize = 28;
const DEVICE_AT: usize = 40;
const NAME_AT: usize = 48;
const NAME_BYTES: usize = 127;

/// What dm-verity checks a device with: the root of the hash tree, and how many blocks of 4096 bytes lie before the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verity {
    /// The root hash.
    pub root: [u8; 32],
    /// The blocks of data.
    pub data_blocks: u64,
}

/// A device of the device mapper, by its name. It stays when this is dropped.
pub struct VerityDevice {
    control: File,
    name: String,
    number: u64,
}

impl VerityDevice {
    /// Makes a device over `disk`, which has data and hash tree: SHA-256, no salt, no superblock.
    ///
    /// # Errors
    /// Whatever the device mapper says, and if this kernel has none.
    pub fn create(name: &str, disk: &File, verity: &Verity) -> io::Result<Self> {
        let control = OpenOptions::new().read(true).write(true).open(CONTROL)?;
        let made = Request::new(name, READ_ONLY).send(&control, CREATE)?;
        let device = VerityDevice { control, name: name.into(), number: made.u64_at(DEVICE_AT) };
        device.start(disk, verity).inspect_err(|_| device.remove())?;
        Ok(device)
    }

    fn start(&self, disk: &File, Verity { root, data_blocks }: &Verity) -> io::Result<()> {
        let number = disk.metadata()?.rdev();
        let place = format!("{}:{}", libc::major(number), libc::minor(number));
        let root: String = root.iter().map(|byte| format!("{byte:02x}")).collect();
        let table = format!("1 {place} {place} {BLOCK} {BLOCK} {data_blocks} {data_blocks} sha256 {root} -");
        let sectors = data_blocks.checked_mul(BLOCK / SECTOR).ok_or(io::ErrorKind::InvalidInput)?;
        Request::new(&self.name, READ_ONLY).with_target(sectors, "verity", &table)?.send(&self.control, LOAD)?;
        Request::new(&self.name, 0).send(&self.control, SUSPEND)?;
        Ok(())
    }

    /// Its node in /dev.
    pub fn node(&self) -> PathBuf {
        // As the kernel packs a number into 64 bits: 8 bits of the minor number, 12 of the major one, the rest of the minor.
        let minor = (self.number & 0xFF) | (self.number >> 12 & 0xFFF_FF00);
        PathBuf::from(format!("/dev/dm-{minor}"))
    }

    /// Whether a block was read that does not have its hash. The device goes on to refuse such blocks.
    ///
    /// # Errors
    /// Whatever the device mapper says.
    pub fn is_damaged(&self) -> io::Result<bool> {
        let status = Request::new(&self.name, 0).send(&self.control, STATUS)?;
        Ok(status.0.get(HEAD_BYTES + TARGET_BYTES) == Some(&b'C'))
    }

    /// Removes it again, if nobody has it open.
    pub fn remove(&self) {
        let _ = Request::new(&self.name, 0).send(&self.control, REMOVE);
    }
}

/// A request to the device mapper, and its answer.
struct Request(Box<[u8; REQUEST_BYTES]>);

impl Request {
    fn new(name: &str, flags: u32) -> Self {
        let mut request = Request(Box::new([0; REQUEST_BYTES]));
        request.put(0, &4u32.to_ne_bytes()); // the interface's major version
        request.put(SIZE_AT, &(REQUEST_BYTES as u32).to_ne_bytes());
        request.put(START_AT, &(HEAD_BYTES as u32).to_ne_bytes());
        request.put(FLAGS_AT, &flags.to_ne_bytes());
        let name = name.as_bytes();
        request.put(NAME_AT, &name[..name.len().min(NAME_BYTES)]);
        request
    }

    /// The same with one target over the whole device. An error if its table is too long.
    fn with_target(mut self, sectors: u64, kind: &str, table: &str) -> io::Result<Self> {
        if HEAD_BYTES + TARGET_BYTES + table.len() >= REQUEST_BYTES || kind.len() >= 16 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.put(TARGETS_AT, &1u32.to_ne_bytes());
        self.put(HEAD_BYTES + 8, &sectors.to_ne_bytes());
        self.put(HEAD_BYTES + 24, kind.as_bytes());
        self.put(HEAD_BYTES + TARGET_BYTES, table.as_bytes());
        Ok(self)
    }

    fn send(mut self, control: &File, number: u64) -> io::Result<Self> {
        let code = 3 << 30 | (HEAD_BYTES as u64) << 16 | 0xFD << 8 | number;
        // SAFETY: the kernel reads and writes at most the number of bytes that stands in the request: those of the live array.
        check(unsafe { libc::ioctl(control.as_raw_fd(), code as _, self.0.as_mut_ptr()) })?;
        Ok(self)
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn u64_at(&self, at: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[at..at + 8]);
        u64::from_ne_bytes(bytes)
    }
}
