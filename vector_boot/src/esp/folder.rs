//! Folders of a FAT32 volume: slots of 32 bytes. A file has one with its short name, and before it those of its long name.

use super::volume::{Volume, SECTOR};
use super::{damaged, Device, Result};

/// Bytes of a slot.
pub const SLOT: u64 = 32;
const SLOT_BYTES: usize = SLOT as usize;
const FREE: u8 = 0xE5;
const LONG_NAME: u8 = 0x0F;
const FOLDER: u8 = 0x10;
const VOLUME_LABEL: u8 = 0x08;
const ARCHIVE: u8 = 0x20;
/// Set in the number of the last part of a long name, which comes first.
const LAST: u8 = 0x40;
/// Bits that show a short name in lower case: of its base, of its extension.
const LOWER: [u8; 2] = [0x08, 0x10];
/// 1980-01-01, the first date that there is.
const DATE: [u8; 2] = [0x21, 0x00];
/// Where the 13 characters of a part of a long name are.
const CHARACTERS: [usize; 13] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];

/// A slot and its place on the device.
pub type Placed = (u64, [u8; SLOT_BYTES]);

/// A file or folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name; characters that are not ASCII are `?`.
    pub name: String,
    /// Its short name as it is stored.
    pub short: [u8; 11],
    attributes: u8,
    /// Its first cluster.
    pub cluster: u32,
    /// Bytes of a file.
    pub size: u32,
    /// The places of its slots, that of the short name last.
    slots: Vec<u64>,
}

impl Entry {
    pub fn is_folder(&self) -> bool {
        self.attributes & FOLDER != 0
    }
}

/// The slots in a sector.
pub fn slots(at: u64, sector: &[u8]) -> impl Iterator<Item = Placed> + '_ {
    let placed = move |(number, slot): (usize, &[u8])| {
        let mut bytes = [0; SLOT_BYTES];
        bytes.copy_from_slice(slot);
        (at + number as u64 * SLOT, bytes)
    };
    sector.chunks_exact(SLOT_BYTES).enumerate().map(placed)
}

/// The files and folders in the slots of a folder.
pub fn parse(slots: &[Placed]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut long: Vec<Placed> = Vec::new();
    for (place, slot) in slots.iter().take_while(|(_, slot)| slot[0] != 0) {
        match slot[0] {
            FREE => long.clear(),
            _ if slot[11] == LONG_NAME => {
                if slot[0] & LAST != 0 {
                    long.clear();
                }
                long.push((*place, *slot));
            }
            _ if slot[11] & VOLUME_LABEL != 0 => long.clear(),
            _ => entries.push(entry(*place, slot, &std::mem::take(&mut long))),
        }
    }
    entries
}

fn entry(place: u64, slot: &[u8; SLOT_BYTES], long: &[Placed]) -> Entry {
    let mut short = [0; 11];
    short.copy_from_slice(&slot[..11]);
    let name = long_name(long, checksum(&short));
    let before = if name.is_some() { long } else { &[] };
    let half = |at: usize| u32::from(u16::from_le_bytes([slot[at], slot[at + 1]]));
    Entry {
        name: name.unwrap_or_else(|| shown(&short, slot[12])),
        short,
        attributes: slot[11],
        cluster: half(20) << 16 | half(26),
        size: half(30) << 16 | half(28),
        slots: before.iter().map(|(place, _)| *place).chain([place]).collect(),
    }
}

/// The name in the slots of a long one, if they are complete and belong to the short name with this checksum.
fn long_name(parts: &[Placed], sum: u8) -> Option<String> {
    let count = parts.len();
    let in_order = |(at, (_, part)): (usize, &Placed)| {
        let number = (count - at) as u8 | if at == 0 { LAST } else { 0 };
        part[0] == number && part[13] == sum
    };
    if !(1..=20).contains(&count) || !parts.iter().enumerate().all(in_order) {
        return None;
    }
    let characters = parts.iter().rev().flat_map(|(_, part)| CHARACTERS.map(|at| [part[at], part[at + 1]]));
    let name = characters.take_while(|character| *character != [0, 0]);
    Some(name.map(|[low, high]| if high == 0 && (b' '..0x7F).contains(&low) { char::from(low) } else { '?' }).collect())
}

/// A short name as it is shown.
fn shown(short: &[u8; 11], case: u8) -> String {
    let part = |bytes: &[u8], lower: u8| {
        let text: String = bytes.iter().map(|byte| if byte.is_ascii() { char::from(*byte) } else { '?' }).collect();
        let text = text.trim_end().to_string();
        if case & lower != 0 {
            text.to_ascii_lowercase()
        } else {
            text
        }
    };
    match (part(&short[..8], LOWER[0]), part(&short[8..], LOWER[1])) {
        (base, extension) if extension.is_empty() => base,
        (base, extension) => format!("{base}.{extension}"),
    }
}

fn checksum(short: &[u8; 11]) -> u8 {
    short.iter().fold(0, |sum: u8, byte| sum.rotate_right(1).wrapping_add(*byte))
}

/// The slot of a long name of at most 13 characters.
pub fn long_slot(name: &str, short: &[u8; 11]) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    (slot[0], slot[11], slot[13]) = (LAST | 1, LONG_NAME, checksum(short));
    let ended = name.bytes().map(u16::from).chain([0]).chain(std::iter::repeat(0xFFFF));
    for (at, character) in CHARACTERS.into_iter().zip(ended) {
        slot[at..at + 2].copy_from_slice(&character.to_le_bytes());
    }
    slot
}

impl<D: Device> Volume<D> {
    /// Gives a file another name of at most 13 characters. Its old one takes a slot more than a short name.
    pub fn rename(&mut self, file: &Entry, name: &str, short: [u8; 11]) -> Result<()> {
        let [unused @ .., long, last] = &file.slots[..] else {
            return Err(damaged(format!("{} has no long name", file.name)));
        };
        let mut slot = self.slot(*last)?;
        slot[..11].copy_from_slice(&short);
        slot[12] |= LOWER[0] | LOWER[1]; // until the long name is there, the short one shows the same
        let mut changes = vec![(*last, slot.to_vec()), (*long, long_slot(name, &short).to_vec())];
        changes.extend(unused.iter().map(|place| (*place, vec![FREE])));
        self.change_slots(&changes)
    }

    /// Takes a file out of its folder.
    pub fn remove(&mut self, file: &Entry) -> Result<()> {
        let changes: Vec<(u64, Vec<u8>)> = file.slots.iter().rev().map(|place| (*place, vec![FREE])).collect();
        self.change_slots(&changes)
    }

    /// Puts a file with a name of at most 13 characters into a folder, in one sector.
    pub fn add(&mut self, folder: u32, name: &str, short: [u8; 11], cluster: u32, size: u32) -> Result<()> {
        let (first, gap) = self.two_free_slots(folder)?;
        let mut slot = [0; SLOT_BYTES];
        slot[..11].copy_from_slice(&short);
        slot[11] = ARCHIVE;
        for date in [16, 18, 24] {
            slot[date..date + 2].copy_from_slice(&DATE);
        }
        slot[20..22].copy_from_slice(&((cluster >> 16) as u16).to_le_bytes());
        slot[26..28].copy_from_slice(&(cluster as u16).to_le_bytes());
        slot[28..].copy_from_slice(&size.to_le_bytes());
        let gap: Vec<(u64, Vec<u8>)> = gap.into_iter().map(|place| (place, vec![FREE])).collect();
        self.change_slots(&gap)?; // before it, the folder still ends in front of the new slots
        self.device.flush()?;
        self.change_slots(&[(first, long_slot(name, &short).to_vec()), (first + SLOT, slot.to_vec())])
    }

    fn slot(&self, place: u64) -> Result<[u8; SLOT_BYTES]> {
        let mut slot = [0; SLOT_BYTES];
        self.device.read(place, &mut slot)?;
        Ok(slot)
    }

    /// Writes the beginnings of slots, each sector once, in the order in which they are first named.
    fn change_slots(&mut self, changes: &[(u64, Vec<u8>)]) -> Result<()> {
        let mut sectors: Vec<u64> = Vec::new();
        for (place, _) in changes {
            let sector = place / SECTOR * SECTOR;
            if !sectors.contains(&sector) {
                sectors.push(sector);
            }
        }
        for (number, at) in sectors.into_iter().enumerate() {
            if number > 0 {
                self.device.flush()?; // the order matters
            }
            let mut sector = self.sector(at)?;
            for (place, bytes) in changes.iter().filter(|(place, _)| place / SECTOR * SECTOR == at) {
                let offset = (place - at) as usize;
                sector[offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            self.device.write(at, &sector)?;
        }
        Ok(())
    }

    /// Two free slots in a row in one sector, and the slots in front of them that have to be marked as free because the
    /// folder has ended there so far.
    fn two_free_slots(&self, folder: u32) -> Result<(u64, Vec<u64>)> {
        let mut gap = Vec::new();
        let mut ended = false;
        for at in self.folder_sectors(folder)? {
            let sector = self.sector(at)?;
            let slots: Vec<(u64, bool)> = slots(at, &sector)
                .map(|(place, slot)| {
                    ended |= slot[0] == 0;
                    (place, ended)
                })
                .collect();
            let is_free = |(place, after): &(u64, bool)| *after || sector[(place - at) as usize] == FREE;
            if let Some(pair) = slots.windows(2).position(|pair| pair.iter().all(is_free)) {
                gap.extend(slots[..pair].iter().filter(|(_, after)| *after).map(|(place, _)| *place));
                return Ok((slots[pair].0, gap));
            }
            gap.extend(slots.iter().filter(|(_, after)| *after).map(|(place, _)| *place));
        }
        Err(damaged("the folder EFI/Linux has no room for another entry: remove files that are not the machine's"))
    }
}
