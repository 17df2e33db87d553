//! FAT32: the boot sector, the table, chains of clusters.

use super::folder::{self, Entry};
use super::{damaged, Device, Result};

pub const SECTOR: u64 = 512;
/// The largest table that is read: an ESP of 2 GiB with clusters of 512 bytes.
const FAT_LIMIT: u64 = 16 << 20;
/// The largest folder that is read.
const FOLDER_LIMIT: u64 = 256 << 10;
/// Entries that a walk over the whole volume visits at most.
const WALK_LIMIT: usize = 65_536;
const FIRST_CLUSTER: u32 = 2;
/// From here on a value ends a chain.
const END: u32 = 0x0FFF_FFF8;
pub const END_OF_CHAIN: u32 = 0x0FFF_FFFF;
const BAD: u32 = 0x0FFF_FFF7;
/// The upper four bits of a value are kept as they are.
pub const VALUE: u32 = 0x0FFF_FFFF;

/// A volume whose table is in memory.
pub struct Volume<D> {
    pub device: D,
    pub cluster_bytes: u64,
    /// Where the tables begin, the bytes of each, and how many there are.
    pub fat_start: u64,
    pub fat_bytes: u64,
    pub fats: u64,
    data_start: u64,
    root: u32,
    /// Where the count of free clusters is, if there is one.
    pub info: Option<u64>,
    /// The values of the table; the first two stand for no cluster.
    pub fat: Vec<u32>,
}

fn u16_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

impl<D: Device> Volume<D> {
    pub fn open(device: D) -> Result<Self> {
        let mut boot = [0; SECTOR as usize];
        device.read(0, &mut boot)?;
        let (per_cluster, reserved, fats) = (u64::from(boot[13]), u16_at(&boot, 14), u64::from(boot[16]));
        let (sectors, fat_sectors) = (u64::from(u32_at(&boot, 32)), u64::from(u32_at(&boot, 36)));
        let is_fat32 = boot[510..] == [0x55, 0xAA] && u16_at(&boot, 17) == 0 && u16_at(&boot, 22) == 0;
        if !is_fat32 || u16_at(&boot, 11) != SECTOR || !per_cluster.is_power_of_two() || !(1..=2).contains(&fats) {
            return Err(damaged("it is not a FAT32 volume with sectors of 512 bytes"));
        }
        let data = reserved + fats * fat_sectors;
        let clusters = sectors.saturating_sub(data) / per_cluster;
        let fat_bytes = fat_sectors * SECTOR;
        let fits = sectors * SECTOR <= device.size() && (clusters + 2) * 4 <= fat_bytes && fat_bytes <= FAT_LIMIT;
        if reserved == 0 || clusters == 0 || !fits {
            return Err(damaged("its boot sector contradicts itself or the size of the partition"));
        }
        let mut bytes = vec![0; ((clusters + 2) * 4) as usize];
        device.read(reserved * SECTOR, &mut bytes)?;
        let info = Some(u16_at(&boot, 48)).filter(|info| (1..reserved).contains(info));
        let mut volume = Volume {
            device,
            cluster_bytes: per_cluster * SECTOR,
            fat_start: reserved * SECTOR,
            fat_bytes,
            fats,
            data_start: data * SECTOR,
            root: u32_at(&boot, 44),
            info: info.map(|sector| sector * SECTOR),
            fat: bytes.chunks_exact(4).map(|value| u32_at(value, 0)).collect(),
        };
        volume.info = volume.info.filter(|at| volume.is_info(*at));
        Ok(volume)
    }

    fn is_info(&self, at: u64) -> bool {
        let mut sector = [0; SECTOR as usize];
        self.device.read(at, &mut sector).is_ok() && sector.starts_with(b"RRaA") && &sector[484..488] == b"rrAa"
    }

    /// Where a cluster begins on the device.
    pub fn place(&self, cluster: u32) -> Result<u64> {
        if !self.is_cluster(cluster) {
            return Err(damaged(format!("it refers to cluster {cluster}, which does not exist")));
        }
        Ok(self.data_start + u64::from(cluster - FIRST_CLUSTER) * self.cluster_bytes)
    }

    pub fn is_cluster(&self, cluster: u32) -> bool {
        cluster >= FIRST_CLUSTER && (cluster as usize) < self.fat.len()
    }

    pub fn is_bad(&self, cluster: u32) -> bool {
        self.fat[cluster as usize] & VALUE == BAD
    }

    /// The clusters of a chain, `limit` at most; it ends early at a cluster that does not exist.
    pub fn chain(&self, first: u32, limit: u64) -> Vec<u32> {
        let mut chain = Vec::new();
        let mut next = first;
        while self.is_cluster(next) && (chain.len() as u64) < limit {
            chain.push(next);
            next = self.fat[next as usize] & VALUE;
            if next >= END {
                break;
            }
        }
        chain
    }

    fn clusters_for(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.cluster_bytes)
    }

    /// The 512-byte sectors of a folder, in order.
    pub fn folder_sectors(&self, first: u32) -> Result<Vec<u64>> {
        let first = if first == 0 { self.root } else { first }; // as in ".." of a folder in the root
        let chain = self.chain(first, self.clusters_for(FOLDER_LIMIT));
        if chain.is_empty() {
            return Err(damaged(format!("a folder begins at cluster {first}, which does not exist")));
        }
        let mut sectors = Vec::new();
        for cluster in chain {
            let start = self.place(cluster)?;
            sectors.extend((0..self.cluster_bytes / SECTOR).map(|sector| start + sector * SECTOR));
        }
        Ok(sectors)
    }

    /// The files and folders of a folder.
    pub fn entries(&self, folder: u32) -> Result<Vec<Entry>> {
        let mut slots = Vec::new();
        for sector in self.folder_sectors(folder)? {
            slots.extend(folder::slots(sector, &self.sector(sector)?));
        }
        Ok(folder::parse(&slots))
    }

    pub fn sector(&self, at: u64) -> Result<[u8; SECTOR as usize]> {
        let mut sector = [0; SECTOR as usize];
        self.device.read(at, &mut sector)?;
        Ok(sector)
    }

    /// The file or folder at a path.
    pub fn find(&self, path: &[&str]) -> Result<Option<Entry>> {
        let mut folder = self.root;
        let mut found = None;
        for (depth, name) in path.iter().enumerate() {
            found = self.entries(folder)?.into_iter().find(|entry| entry.name.eq_ignore_ascii_case(name));
            match &found {
                Some(entry) if entry.is_folder() => folder = entry.cluster,
                Some(_) if depth + 1 == path.len() => (),
                _ => return Ok(None),
            }
        }
        Ok(found)
    }

    /// Where byte `at` of a file is on the device.
    pub fn place_in_file(&self, file: &Entry, at: u64) -> Result<u64> {
        let index = at / self.cluster_bytes;
        let chain = self.chain(file.cluster, index + 1);
        let cluster = chain.get(index as usize).ok_or_else(|| damaged(format!("{} is cut off", file.name)))?;
        Ok(self.place(*cluster)? + at % self.cluster_bytes)
    }

    /// The contents of a small file.
    pub fn read_file(&self, file: &Entry) -> Result<Vec<u8>> {
        let mut bytes = vec![0; file.size as usize];
        for (index, piece) in bytes.chunks_mut(self.cluster_bytes as usize).enumerate() {
            let place = self.place_in_file(file, index as u64 * self.cluster_bytes)?;
            self.device.read(place, piece)?;
        }
        Ok(bytes)
    }

    /// Which clusters belong to a file or folder that is there. Others are free whatever the table says: a power cut leaves
    /// clusters behind that belong to nothing.
    pub fn used(&self) -> Result<Vec<bool>> {
        let mut used = vec![false; self.fat.len()];
        let mut folders = vec![self.root];
        let mut visited = 0;
        while let Some(folder) = folders.pop() {
            let chain = self.chain(folder, self.clusters_for(FOLDER_LIMIT));
            if chain.iter().any(|cluster| std::mem::replace(&mut used[*cluster as usize], true)) {
                return Err(damaged("two folders share a cluster"));
            }
            for entry in self.entries(folder)?.iter().filter(|entry| entry.name != "." && entry.name != "..") {
                visited += 1;
                if visited > WALK_LIMIT {
                    return Err(damaged("it holds more than 65536 files"));
                }
                match entry.is_folder() {
                    true => folders.push(entry.cluster),
                    false => {
                        let chain = self.chain(entry.cluster, self.clusters_for(u64::from(entry.size)));
                        chain.iter().for_each(|cluster| used[*cluster as usize] = true);
                    }
                }
            }
        }
        Ok(used)
    }

    /// Writes bytes that lie in one sector, with what else is in it.
    pub fn edit(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let start = at / SECTOR * SECTOR;
        let mut sector = self.sector(start)?;
        let offset = (at - start) as usize;
        let place = sector.get_mut(offset..offset + bytes.len()).ok_or_else(|| damaged("a change crosses a sector"))?;
        place.copy_from_slice(bytes);
        Ok(self.device.write(start, &sector)?)
    }
}
