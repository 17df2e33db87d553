//! The EFI system partition as the update of a machine uses it (`spec/update.md`): a FAT32 volume with one boot entry a slot.
//!
//! The file system of the kernel is not used: its renaming is two writes of a folder in any order, between which an entry
//! can be missing, and this module writes each change of a folder as one sector. It works on a [`Device`] alone.

mod folder;
mod install;
mod name;
mod volume;

use std::fmt;
use std::io;

use folder::Entry;
pub use name::{Slot, Tries};
use volume::Volume;

/// Where the boot entries are.
const ENTRIES: [&str; 2] = ["EFI", "Linux"];
/// The settings of the boot loader.
const LOADER: [&str; 2] = ["loader", "loader.conf"];
/// The longest settings that are read.
const LOADER_LIMIT: u32 = 4096;
/// What stands before the letter of the slot that is booted by default.
const DEFAULT: &[u8] = b"default vb-";

/// Bytes that can be read and written at any offset: a partition, or a part of a file.
pub trait Device {
    /// Its bytes.
    fn size(&self) -> u64;

    /// Fills `bytes` from `offset` on.
    ///
    /// # Errors
    /// If they cannot be read.
    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Writes whole sectors.
    ///
    /// # Errors
    /// If they cannot be written.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Returns when what was written is on stable storage; reads come from there afterwards.
    ///
    /// # Errors
    /// If that fails.
    fn flush(&mut self) -> io::Result<()>;
}

/// Why something cannot be done on the partition.
#[derive(Debug)]
pub enum EspError {
    /// The device failed.
    Io(io::Error),
    /// What is on it is not sound, or not what is expected.
    Damaged(String),
    /// There is no room for a file of so many bytes.
    Full {
        /// Its bytes.
        needed: u64,
        /// The bytes that are free.
        free: u64,
    },
}

impl fmt::Display for EspError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EspError::Io(error) => write!(out, "the ESP cannot be read or written: {error}"),
            EspError::Damaged(why) => write!(out, "the ESP is not usable: {why}"),
            EspError::Full { needed, free } => {
                write!(out, "the ESP is full: the boot file needs {needed} bytes, and {free} are free")
            }
        }
    }
}

impl From<io::Error> for EspError {
    fn from(error: io::Error) -> Self {
        EspError::Io(error)
    }
}

fn damaged(why: impl Into<String>) -> EspError {
    EspError::Damaged(why.into())
}

type Result<T> = std::result::Result<T, EspError>;

/// A boot entry of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
struct BootEntry {
    slot: Slot,
    tries: Tries,
    file: Entry,
}

/// How the boot loader came to the slot that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootState {
    /// What is left of the own slot's tries; `Tries::Blessed` once it is trusted.
    pub tries: Tries,
    /// Why another slot than the default one runs, if it does.
    pub fell_back: Option<String>,
    /// Whether the boot loader would start the other slot if this one were out of tries.
    pub alternative: bool,
}

/// The open partition.
pub struct Esp<D> {
    volume: Volume<D>,
    /// First cluster of the folder with the boot entries.
    folder: u32,
}

impl<D: Device> Esp<D> {
    /// Reads the structures of the partition.
    ///
    /// # Errors
    /// If they are not those of a FAT32 volume with a folder for boot entries.
    pub fn open(device: D) -> Result<Self> {
        let volume = Volume::open(device)?;
        let missing = || damaged("there is no folder EFI/Linux");
        let folder = volume.find(&ENTRIES)?.filter(Entry::is_folder).ok_or_else(missing)?.cluster;
        Ok(Esp { volume, folder })
    }

    /// The device, back.
    pub fn into_device(self) -> D {
        self.volume.device
    }

    fn boot_entries(&self) -> Result<Vec<BootEntry>> {
        let files = self.volume.entries(self.folder)?;
        let entry = |file: Entry| {
            let (slot, tries) = name::parse(&file.name).filter(|_| !file.is_folder())?;
            Some(BootEntry { slot, tries, file })
        };
        Ok(files.into_iter().filter_map(entry).collect())
    }

    fn of_slot(&self, slot: Slot) -> Result<Vec<BootEntry>> {
        Ok(self.boot_entries()?.into_iter().filter(|entry| entry.slot == slot).collect())
    }

    /// The tries of a slot; `None` if it has no entry. Of two entries, which a power cut can leave, the better one counts.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn tries(&self, slot: Slot) -> Result<Option<Tries>> {
        Ok(self.of_slot(slot)?.into_iter().map(|entry| entry.tries).min())
    }

    /// How the boot loader came to `own`, the slot that runs.
    ///
    /// # Errors
    /// If the partition cannot be read, or the slot that runs has no entry on it.
    pub fn boot_state(&self, own: Slot) -> Result<BootState> {
        let none = || damaged(format!("slot {own} runs, but EFI/Linux has no entry for it"));
        let tries = self.tries(own)?.ok_or_else(none)?;
        let other = self.tries(own.other())?;
        let default = self.default_slot()?;
        let alternative = other.is_some_and(|other| !matches!(other, Tries::Left { left: 0, .. }));
        Ok(BootState { tries, fell_back: why_fell_back(own, tries, other, default), alternative })
    }

    /// The slot that the boot loader starts unless it is out of tries.
    ///
    /// # Errors
    /// If its settings cannot be read or name no slot.
    pub fn default_slot(&self) -> Result<Slot> {
        self.default_letter().map(|(slot, _)| slot)
    }

    /// The slot that is booted by default, and where its letter is on the device.
    fn default_letter(&self) -> Result<(Slot, u64)> {
        let missing = || damaged("loader/loader.conf has no line \"default vb-a...\" or \"default vb-b...\"");
        let file = self.volume.find(&LOADER)?.filter(|file| file.size <= LOADER_LIMIT).ok_or_else(missing)?;
        let text = self.volume.read_file(&file)?;
        let start = |at: usize| at == 0 || text[at - 1] == b'\n';
        let line = text.windows(DEFAULT.len()).enumerate().find(|(at, part)| start(*at) && *part == DEFAULT);
        let at = line.ok_or_else(missing)?.0 + DEFAULT.len();
        let slot = text.get(at).copied().and_then(Slot::of_letter).ok_or_else(missing)?;
        Ok((slot, self.volume.place_in_file(&file, at as u64)?))
    }

    /// Has the boot loader start `slot` by default. One sector changes.
    ///
    /// # Errors
    /// If that cannot be read or written.
    pub fn set_default(&mut self, slot: Slot) -> Result<()> {
        let (current, place) = self.default_letter()?;
        if current != slot {
            self.volume.edit(place, &[slot.letter()])?;
        }
        Ok(self.volume.device.flush()?)
    }

    /// Trusts a slot: its entry loses its counter. One sector changes, or two in an order in which the entry always exists.
    ///
    /// # Errors
    /// If the slot has no entry, or that cannot be written.
    pub fn bless(&mut self, slot: Slot) -> Result<()> {
        let entries = self.of_slot(slot)?;
        if entries.iter().any(|entry| entry.tries == Tries::Blessed) {
            return Ok(());
        }
        let best = entries.into_iter().min_by_key(|entry| entry.tries);
        let best = best.ok_or_else(|| damaged(format!("slot {slot} has no entry to bless")))?;
        self.volume.rename(&best.file, &name::blessed(slot), name::short(slot))?;
        Ok(self.volume.device.flush()?)
    }

    /// Takes the entries of a slot away, so that it is not booted.
    ///
    /// # Errors
    /// If that cannot be read or written.
    pub fn remove(&mut self, slot: Slot) -> Result<()> {
        for entry in self.of_slot(slot)? {
            self.volume.remove(&entry.file)?;
        }
        Ok(self.volume.device.flush()?)
    }
}

/// Why `own` runs although it is not what the boot loader should have started, or the loader had nothing better.
fn why_fell_back(own: Slot, tries: Tries, other: Option<Tries>, default: Slot) -> Option<String> {
    let spent = |tries: Option<Tries>| matches!(tries, Some(Tries::Left { left: 0, .. }));
    let alternative = own.other();
    match other {
        // The boot loader starts an exhausted slot only when there is nothing else.
        _ if spent(Some(tries)) && (other.is_none() || spent(other)) => {
            Some(format!("no slot is left that was found good or has tries: slot {own} was started once more"))
        }
        _ if default == own => None,
        None => Some(format!("slot {alternative} should run and has no entry: its update was not finished")),
        Some(Tries::Left { left: 0, done }) => {
            Some(format!("slot {alternative} was started {done} times and never found good"))
        }
        Some(_) => Some(format!("slot {alternative} should run, and the boot loader started slot {own}")),
    }
}

#[cfg(test)]
mod tests;
