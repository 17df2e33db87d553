//! Writing the boot file of a slot: its contents, then the table, then its entry. Before the entry is written, nothing on
//! the volume refers to what was written, so a power cut leaves at most clusters that belong to nothing.

use super::volume::{Volume, END_OF_CHAIN, SECTOR, VALUE};
use super::{damaged, name, Device, Esp, EspError, Result, Slot};

/// How often a new slot may be started before it is found good.
pub const TRIES: u32 = 3;
/// Bytes that are copied and compared at a time.
const PIECE: u64 = 1 << 20;

/// A source of the contents: fills the bytes from an offset on.
pub type Source<'a> = &'a dyn Fn(u64, &mut [u8]) -> std::io::Result<()>;

/// A place on the device and the bytes of the contents that belong there.
type Piece = (u64, u64, u64);

impl<D: Device> Esp<D> {
    /// Checks that a boot file of this size finds room once the entries of its slot are gone.
    ///
    /// # Errors
    /// [`EspError::Full`] if it does not; else if the volume cannot be read.
    pub fn check_room(&self, slot: Slot, bytes: u64) -> Result<()> {
        let mut used = self.volume.used()?;
        for entry in self.of_slot(slot)? {
            let chain = self.volume.chain(entry.file.cluster, used.len() as u64);
            chain.iter().for_each(|cluster| used[*cluster as usize] = false);
        }
        self.volume.free(&used, bytes).map(|_| ())
    }

    /// Writes the contents of a slot's boot file, reads them back and compares, and adds its entry with all tries. The slot
    /// must have no entry.
    ///
    /// # Errors
    /// If there is no room, if the device fails, or if it does not give back what was written.
    pub fn install(&mut self, slot: Slot, bytes: u64, source: Source<'_>) -> Result<()> {
        let entries = self.volume.entries(self.folder)?;
        let taken = |short: &[u8; 11]| entries.iter().any(|entry| entry.short == *short);
        let short = name::fresh_short(slot, taken).ok_or_else(|| damaged("EFI/Linux has no free name"))?;
        let size = u32::try_from(bytes).map_err(|_| damaged("a boot file of 4 GiB or more fits no FAT32 volume"))?;
        let used = self.volume.used()?;
        let clusters = self.volume.free(&used, bytes)?;
        let pieces = self.volume.pieces(&clusters, bytes)?;
        self.volume.copy(&pieces, source)?;
        self.volume.device.flush()?;
        self.volume.compare(&pieces, source)?;
        self.volume.write_table(&used, &clusters)?;
        self.volume.device.flush()?;
        let first = clusters.first().copied().ok_or_else(|| damaged("a boot file has no contents"))?;
        self.volume.add(self.folder, &name::fresh(slot, TRIES), short, first, size)?;
        Ok(self.volume.device.flush()?)
    }
}

impl<D: Device> Volume<D> {
    /// Clusters for so many bytes that nothing uses, ascending.
    fn free(&self, used: &[bool], bytes: u64) -> Result<Vec<u32>> {
        let needed = bytes.div_ceil(self.cluster_bytes);
        let is_free = |cluster: &u32| !used[*cluster as usize] && !self.is_bad(*cluster);
        let free: Vec<u32> = (2..self.fat.len() as u32).filter(is_free).collect();
        if (free.len() as u64) < needed {
            return Err(EspError::Full { needed: bytes, free: free.len() as u64 * self.cluster_bytes });
        }
        Ok(free[..needed as usize].to_vec())
    }

    /// The pieces of the contents: clusters that follow each other on the device together.
    fn pieces(&self, clusters: &[u32], bytes: u64) -> Result<Vec<Piece>> {
        let mut pieces: Vec<Piece> = Vec::new();
        for (number, cluster) in clusters.iter().enumerate() {
            let (place, offset) = (self.place(*cluster)?, number as u64 * self.cluster_bytes);
            let len = self.cluster_bytes.min(bytes - offset);
            match pieces.last_mut() {
                Some((start, _, so_far)) if *start + *so_far == place && *so_far + len <= PIECE => *so_far += len,
                _ => pieces.push((place, offset, len)),
            }
        }
        Ok(pieces)
    }

    fn copy(&mut self, pieces: &[Piece], source: Source<'_>) -> Result<()> {
        for (place, offset, len) in pieces {
            // Whole sectors: the rest of the last one is zero.
            let mut bytes = vec![0; len.next_multiple_of(SECTOR) as usize];
            source(*offset, &mut bytes[..*len as usize])?;
            self.device.write(*place, &bytes)?;
        }
        Ok(())
    }

    fn compare(&self, pieces: &[Piece], source: Source<'_>) -> Result<()> {
        for (place, offset, len) in pieces {
            let (mut written, mut expected) = (vec![0; *len as usize], vec![0; *len as usize]);
            self.device.read(*place, &mut written)?;
            source(*offset, &mut expected)?;
            if written != expected {
                let why = format!("the device does not give back what was written at byte {place}");
                return Err(damaged(why));
            }
        }
        Ok(())
    }

    /// Writes the table anew: the chain of the new file, and nothing for clusters that belong to nothing.
    fn write_table(&mut self, used: &[bool], chain: &[u32]) -> Result<()> {
        let mut fat = self.fat.clone();
        for (cluster, value) in fat.iter_mut().enumerate().skip(2) {
            if !used[cluster] && !self.is_bad(cluster as u32) {
                *value &= !VALUE;
            }
        }
        let following = chain.iter().skip(1).copied().chain([END_OF_CHAIN]);
        for (cluster, next) in chain.iter().zip(following) {
            let value = &mut fat[*cluster as usize];
            *value = *value & !VALUE | next;
        }
        let per_sector = (SECTOR / 4) as usize;
        let old = std::mem::take(&mut self.fat);
        for (number, (new, old)) in fat.chunks(per_sector).zip(old.chunks(per_sector)).enumerate() {
            if new != old {
                let bytes: Vec<u8> = new.iter().flat_map(|value| value.to_le_bytes()).collect();
                for copy in 0..self.fats {
                    let at = self.fat_start + copy * self.fat_bytes + number as u64 * SECTOR;
                    self.edit_table(at, &bytes)?;
                }
            }
        }
        self.fat = fat;
        self.count_free()
    }

    fn edit_table(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        match bytes.len() as u64 {
            SECTOR => Ok(self.device.write(at, bytes)?),
            _ => self.edit(at, bytes),
        }
    }

    /// Notes the number of free clusters where other programs look for it.
    fn count_free(&mut self) -> Result<()> {
        let free = self.fat.iter().skip(2).filter(|value| **value & VALUE == 0).count() as u32;
        match self.info {
            Some(info) => self.edit(info + 488, &free.to_le_bytes()),
            None => Ok(()),
        }
    }
}
