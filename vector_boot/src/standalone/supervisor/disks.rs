//! Finds the disks of the image and of the state: virtio disks by serial number, partitions of other disks by their types.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::devices::{entries_with, open_device, wait_for};
use super::state_file::{self, StateFile};
use super::worker_process::{own_executable, WORKER_USER};
use crate::esp::Slot;
use crate::partition_table::{self, Partitions};
use crate::sys::device_mapper::{Verity, VerityDevice};
use crate::sys::process;

const BLOCK_DEVICES: &str = "/sys/block";
const RTS_SERIAL: &str = "vb-rts";
const STATE_SERIAL: &str = "vb-state";
/// How long a disk is waited for. Disks on USB take seconds.
const PATIENCE: Duration = Duration::from_secs(3);
const PATIENCE_WITH_SLOTS: Duration = Duration::from_secs(20);
/// The name of the device that checks the image.
const DEVICE_NAME: &str = "vb-rts";
/// The numbers that the child answers with, each of 4 bytes.
const ANSWER_BYTES: usize = 16;

/// The disks that were found.
pub struct Disks {
    /// The disk or partition that holds the image, or the device that checks it.
    pub rts: File,
    /// The device that checks it, if it has a hash tree.
    pub checked: Option<VerityDevice>,
    /// The disk or partition for the state, or why it cannot be opened.
    pub state: Option<io::Result<StateFile>>,
    /// What an update needs, if the image is in a slot and the disk has an EFI system partition.
    pub slots: Option<Slots>,
}

/// The devices of a disk with slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slots {
    /// The slot that runs.
    pub own: Slot,
    /// The EFI system partition.
    pub esp: PathBuf,
    /// The partition of the other slot, if there is one.
    pub other: Option<PathBuf>,
}

/// Waits for the disk that carries the image. `slot` is the one to boot, 1 for A or 2 for B; with 0 the disks have no slots, or
/// A is meant. The state is on the same disk as a slot; a virtio disk of its own has precedence. With `verity` only a disk is
/// taken that has the hash tree with this root: another one may carry an appliance too.
///
/// # Errors
/// Why there is none.
pub fn find(slot: u32, verity: Option<&Verity>) -> Result<Disks, String> {
    let mut search = Search { slot, verity, examined: Vec::new(), refused: Vec::new() };
    let patience = if slot == 0 { PATIENCE } else { PATIENCE_WITH_SLOTS };
    wait_for(patience, || search.by_serial().or_else(|| search.in_slot())).ok_or_else(|| search.why_not())
}

/// The search for the image.
struct Search<'a> {
    slot: u32,
    verity: Option<&'a Verity>,
    /// Disks are examined once: their tables do not change while the machine starts.
    examined: Vec<PathBuf>,
    /// Why disks that might carry the image do not.
    refused: Vec<String>,
}

impl Search<'_> {
    fn by_serial(&mut self) -> Option<Disks> {
        let path =
            entries_with(BLOCK_DEVICES, "serial", RTS_SERIAL).into_iter().find(|path| !self.examined.contains(path))?;
        let disk = open_device(&path, false)?;
        self.examined.push(path.clone());
        let (rts, checked) = self.checked(disk, &path)?;
        Some(Disks { rts, checked, state: state_by_serial(), slots: None })
    }

    /// The slot on the first disk that has it.
    fn in_slot(&mut self) -> Option<Disks> {
        let mut disks: Vec<PathBuf> = fs::read_dir(BLOCK_DEVICES).ok()?.flatten().map(|entry| entry.path()).collect();
        disks.retain(|disk| !self.examined.contains(disk) && is_disk(disk));
        disks.sort();
        for disk in disks {
            let partitions = examine(&disk);
            self.examined.push(disk.clone());
            let number = partitions.map_or(0, |found| found.slots[self.slot.saturating_sub(1) as usize % 2]);
            let Some(path) = partition(&disk, number) else { continue };
            let Some((rts, checked)) = open_device(&path, false).and_then(|file| self.checked(file, &path)) else {
                continue;
            };
            let state = state_by_serial().or_else(|| {
                let path = partition(&disk, partitions?.state)?;
                Some(state_file::open(&Path::new("/dev").join(path.file_name()?)))
            });
            let slots = Slot::of_number(self.slot).zip(partitions).and_then(|(own, found)| slots_of(&disk, own, found));
            return Some(Disks { rts, checked, state, slots });
        }
        None
    }

    /// The device through which a disk is read: itself, or one that checks it. The first block is read, so that a disk with
    /// another image is not taken.
    fn checked(&mut self, disk: File, path: &Path) -> Option<(File, Option<VerityDevice>)> {
        let Some(verity) = self.verity else { return Some((disk, None)) };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let opened = VerityDevice::create(DEVICE_NAME, &disk, verity).and_then(|device| {
            let file = File::open(device.node()).and_then(|file| {
                file.read_exact_at(&mut [0; 512], 0)?;
                Ok(file)
            });
            file.inspect_err(|_| device.remove()).map(|file| (file, Some(device)))
        });
        opened
            .inspect_err(|error| self.refused.push(format!("{name} does not have the stated root hash ({error})")))
            .ok()
    }

    fn why_not(&self) -> String {
        let wanted = if self.slot == 2 { "no partition is slot B" } else { "no partition is a slot" };
        match &self.refused[..] {
            [] => format!("no disk has the serial number vb-rts, and {wanted}; found {}", describe()),
            refused => refused.join("; "),
        }
    }
}

/// The state disk, which is not waited for: disks appear together, and the one with the image was found before.
pub fn state_by_serial() -> Option<io::Result<StateFile>> {
    let disk = entries_with(BLOCK_DEVICES, "serial", STATE_SERIAL).first()?.file_name()?.to_owned();
    Some(state_file::open(&Path::new("/dev").join(disk)))
}

fn slots_of(disk: &Path, own: Slot, found: Partitions) -> Option<Slots> {
    let node = |number| Some(Path::new("/dev").join(partition(disk, number)?.file_name()?));
    let other = node(found.slots[own.other().number() as usize - 1]);
    Some(Slots { own, esp: node(found.esp)?, other })
}

/// Whether it may hold partitions: RAM disks and loop devices do not, and a drive without a medium has no bytes.
fn is_disk(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let bytes = fs::read_to_string(path.join("size")).unwrap_or_default();
    let virtual_disk = ["loop", "ram", "zram", "dm-", "nbd", "sr", "fd"].iter().any(|kind| name.starts_with(kind));
    !virtual_disk && !matches!(bytes.trim(), "" | "0")
}

/// The folder in /sys of a disk's partition; `None` for number 0, or while the kernel has not made it.
fn partition(disk: &Path, number: u32) -> Option<PathBuf> {
    let folder = disk.to_str().filter(|_| number != 0)?;
    entries_with(folder, "partition", &number.to_string()).into_iter().next()
}

/// What a child without rights finds in the partition table of a disk.
fn examine(disk: &Path) -> Option<Partitions> {
    let file = open_device(disk, false)?;
    let (mut answer, to_parent) = io::pipe().ok()?;
    let mut command = own_executable();
    command.arg("--find-partitions");
    let mut child = process::spawn(&mut command, &[file.as_fd(), to_parent.as_fd()], Some(WORKER_USER)).ok()?;
    drop(to_parent);
    let mut bytes = [0; ANSWER_BYTES];
    let answered = answer.read_exact(&mut bytes);
    let _ = child.wait();
    answered.ok()?;
    let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    Some(Partitions { slots: [number(0), number(4)], state: number(8), esp: number(12) })
}

/// Runs the child: it reads the table of the disk at descriptor 3 and writes four numbers to descriptor 4.
///
/// # Errors
/// If there is no table with a slot, or a descriptor fails.
pub fn examine_main() -> io::Result<()> {
    let disk = File::from(process::inherited(process::FIRST_INHERITED)?);
    let mut out = File::from(process::inherited(process::FIRST_INHERITED + 1)?);
    let mut head = vec![0; partition_table::HEAD_BYTES];
    disk.read_exact_at(&mut head, 0)?;
    let found = partition_table::find(&head).ok_or(io::ErrorKind::InvalidData)?;
    let numbers = [found.slots[0], found.slots[1], found.state, found.esp];
    out.write_all(&numbers.map(u32::to_le_bytes).concat())
}

/// The disks of the machine with their serial numbers, for the message that none carries the image.
fn describe() -> String {
    let Ok(entries) = fs::read_dir(BLOCK_DEVICES) else { return "no disks".into() };
    let mut disks: Vec<String> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| is_disk(path))
        .map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let serial = fs::read_to_string(path.join("serial")).unwrap_or_default();
            format!("{name} (serial \"{}\")", serial.trim())
        })
        .collect();
    disks.sort();
    if disks.is_empty() {
        "no disks".into()
    } else {
        disks.join(", ")
    }
}
