use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::*;

/// A small volume in memory that remembers its writes, and can fail one.
#[derive(Clone, Default)]
pub struct Disk {
    bytes: Vec<u8>,
    log: Arc<Mutex<Vec<Event>>>,
    fail_at: Option<usize>,
}

#[derive(Clone, Debug)]
enum Event {
    Write(u64, Vec<u8>),
    Flush,
}

impl Device for Disk {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let end = offset as usize + bytes.len();
        bytes.copy_from_slice(self.bytes.get(offset as usize..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        assert_eq!((offset % 512, bytes.len() % 512), (0, 0), "whole sectors");
        self.event(Event::Write(offset, bytes.to_vec()))?;
        self.bytes[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.event(Event::Flush)
    }
}

impl Disk {
    fn event(&mut self, event: Event) -> io::Result<()> {
        let mut log = self.log.lock().unwrap();
        if self.fail_at == Some(log.len()) {
            return Err(io::Error::other("injected"));
        }
        log.push(event);
        Ok(())
    }

    /// The same contents without a history.
    fn fresh(&self) -> Self {
        Disk { bytes: self.bytes.clone(), ..Disk::default() }
    }

    /// An ESP of 750 KiB with one cluster a sector, the folders, the settings, and these boot files.
    fn with(default: char, files: &[(&str, &[u8])]) -> Self {
        let clusters = 1_500u32;
        let fat_sectors = ((clusters + 2) * 4).div_ceil(512);
        let sectors = 32 + 2 * fat_sectors + clusters;
        let mut disk = Disk { bytes: vec![0; sectors as usize * 512], ..Disk::default() };
        let boot = &mut disk.bytes;
        boot[11..17].copy_from_slice(&[0, 2, 1, 32, 0, 2]);
        boot[32..36].copy_from_slice(&sectors.to_le_bytes());
        boot[36..40].copy_from_slice(&fat_sectors.to_le_bytes());
        boot[44..50].copy_from_slice(&[2, 0, 0, 0, 1, 0]);
        boot[510..512].copy_from_slice(&[0x55, 0xAA]);
        boot[512..516].copy_from_slice(b"RRaA");
        boot[512 + 484..512 + 488].copy_from_slice(b"rrAa");
        let mut maker = Maker { disk, fat_sectors, next: 7 };
        // Clusters 2 to 6: the root, EFI, EFI/Linux, loader, the settings.
        (2..=6).for_each(|cluster| maker.link(cluster, 0x0FFF_FFFF));
        maker.slot(2, 0, *b"EFI        ", 0x10, 3, 0);
        maker.slot(2, 1, *b"LOADER     ", 0x10, 5, 0);
        maker.slot(3, 0, *b"LINUX      ", 0x10, 4, 0);
        let settings = format!("timeout 0\ndefault vb-{default}[.+][1-9e]*\n");
        maker.slot(5, 0, *b"LOADER~1CON", 0x20, 6, settings.len() as u32);
        let at = maker.place(6);
        maker.disk.bytes[at..at + settings.len()].copy_from_slice(settings.as_bytes());
        maker.long(5, 0, "loader.conf");
        for (number, (name, contents)) in files.iter().enumerate() {
            maker.file(number, name, contents);
        }
        maker.disk
    }
}

/// Writes the structures that a firmware's own driver or `mkfs` would.
struct Maker {
    disk: Disk,
    fat_sectors: u32,
    next: u32,
}

impl Maker {
    fn place(&self, cluster: u32) -> usize {
        (32 + 2 * self.fat_sectors + cluster - 2) as usize * 512
    }

    fn link(&mut self, cluster: u32, value: u32) {
        for fat in 0..2 {
            let at = (32 + fat * self.fat_sectors) as usize * 512 + cluster as usize * 4;
            self.disk.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
    }

    fn slot(&mut self, folder: u32, number: usize, short: [u8; 11], attributes: u8, cluster: u32, size: u32) {
        let at = self.place(folder) + number * 32;
        let slot = &mut self.disk.bytes[at..at + 32];
        slot[..11].copy_from_slice(&short);
        slot[11] = attributes;
        slot[20..22].copy_from_slice(&((cluster >> 16) as u16).to_le_bytes());
        slot[26..28].copy_from_slice(&(cluster as u16).to_le_bytes());
        slot[28..].copy_from_slice(&size.to_le_bytes());
    }

    /// Puts a long name before the short one in slot `number`, which moves by one.
    fn long(&mut self, folder: u32, number: usize, name: &str) {
        let at = self.place(folder) + number * 32;
        let short: [u8; 32] = self.disk.bytes[at..at + 32].try_into().unwrap();
        let long = folder::long_slot(name, short[..11].try_into().unwrap());
        self.disk.bytes[at..at + 32].copy_from_slice(&long);
        self.disk.bytes[at + 32..at + 64].copy_from_slice(&short);
    }

    fn file(&mut self, number: usize, name: &str, contents: &[u8]) {
        let count = contents.len().div_ceil(512) as u32;
        for cluster in self.next..self.next + count {
            let last = cluster + 1 == self.next + count;
            self.link(cluster, if last { 0x0FFF_FFFF } else { cluster + 1 });
        }
        let at = self.place(self.next);
        self.disk.bytes[at..at + contents.len()].copy_from_slice(contents);
        let mut short = *b"FILE~1  EFI";
        short[5] = b'1' + number as u8;
        self.slot(4, 2 * number, short, 0x20, self.next, contents.len() as u32);
        self.long(4, 2 * number, name);
        self.next += count;
    }
}

fn esp(disk: &Disk) -> Esp<Disk> {
    Esp::open(disk.fresh()).unwrap()
}

/// The boot entries with their contents.
fn files(disk: &Disk) -> BTreeMap<String, Vec<u8>> {
    let esp = esp(disk);
    let entries = esp.volume.entries(esp.folder).unwrap();
    entries.iter().map(|file| (file.name.clone(), esp.volume.read_file(file).unwrap())).collect()
}

const OLD: &[u8] = &[1; 3000];
const NEW: &[u8] = &[2; 5000];

fn source(bytes: &'static [u8]) -> impl Fn(u64, &mut [u8]) -> io::Result<()> {
    move |at, into: &mut [u8]| {
        into.copy_from_slice(&bytes[at as usize..at as usize + into.len()]);
        Ok(())
    }
}

/// What an update does to the ESP.
fn update(esp: &mut Esp<Disk>) -> Result<()> {
    esp.check_room(Slot::B, NEW.len() as u64)?;
    esp.remove(Slot::B)?;
    esp.install(Slot::B, NEW.len() as u64, &source(NEW))?;
    esp.set_default(Slot::B)
}

#[test]
fn an_update_replaces_the_entry_of_the_slot_and_no_other() {
    let disk = Disk::with('a', &[("vb-a.efi", OLD), ("vb-b+0-3.efi", OLD)]);
    let mut esp = esp(&disk);
    update(&mut esp).unwrap();
    let disk = esp.into_device();
    let expected = [("vb-a.efi".to_string(), OLD.to_vec()), ("vb-b+3.efi".to_string(), NEW.to_vec())];
    assert_eq!(files(&disk), BTreeMap::from(expected));
    assert_eq!(Esp::open(disk).unwrap().default_slot().unwrap(), Slot::B);
}

#[test]
fn clusters_that_belong_to_nothing_are_used_again() {
    // Each round is cut after its table was written. The volume has room for 7 such files.
    static CONTENTS: [u8; 100_000] = [3; 100_000];
    let mut disk = Disk::with('a', &[("vb-a.efi", OLD)]);
    for _ in 0..15 {
        let mut esp = esp(&disk);
        esp.install(Slot::B, CONTENTS.len() as u64, &source(&CONTENTS)).unwrap();
        let events = esp.into_device().log.lock().unwrap().clone();
        disk = replayed(&disk, &events[..events.len() - 2]);
        assert_eq!(files(&disk).keys().collect::<Vec<_>>(), ["vb-a.efi"]);
    }
}

fn replayed(disk: &Disk, events: &[Event]) -> Disk {
    let mut result = disk.fresh();
    for event in events {
        if let Event::Write(at, bytes) = event {
            result.bytes[*at as usize..*at as usize + bytes.len()].copy_from_slice(bytes);
        }
    }
    result
}

/// Whether slot A boots from this volume, and slot B only when it is complete.
fn judge(disk: &Disk) {
    let found = files(disk);
    assert!(found.iter().any(|(name, contents)| name.starts_with("vb-a") && contents == OLD), "{:?}", found.keys());
    for (name, contents) in found.iter().filter(|(name, _)| name.starts_with("vb-b")) {
        let expected = if name == "vb-b+3.efi" { NEW } else { OLD };
        assert_eq!(contents, expected, "{name}");
    }
    assert_eq!(files(&retried(disk))["vb-b+3.efi"], NEW);
}

fn retried(disk: &Disk) -> Disk {
    let mut esp = esp(disk);
    update(&mut esp).unwrap();
    esp.into_device()
}

#[test]
fn after_a_power_cut_at_any_write_a_slot_boots() {
    let disk = Disk::with('a', &[("vb-a.efi", OLD), ("vb-b+1-2.efi", OLD)]);
    let mut esp = esp(&disk);
    update(&mut esp).unwrap();
    let events = esp.volume.device.log.lock().unwrap().clone();
    for cut in 0..=events.len() {
        judge(&replayed(&disk, &events[..cut]));
        // Of the writes since the last flush any may be missing: each alone, and all but each.
        let flushed = events[..cut].iter().rposition(|event| matches!(event, Event::Flush)).map_or(0, |at| at + 1);
        for one in flushed..cut {
            let (before, open) = (&events[..flushed], &events[flushed..cut]);
            judge(&replayed(&replayed(&disk, before), &events[one..=one]));
            let others: Vec<Event> = [&open[..one - flushed], &open[one - flushed + 1..]].concat();
            judge(&replayed(&replayed(&disk, before), &others));
        }
    }
}

#[test]
fn after_an_error_at_any_access_a_slot_boots() {
    let disk = Disk::with('a', &[("vb-a.efi", OLD), ("vb-b+1-2.efi", OLD)]);
    for fail_at in 0.. {
        let mut esp = esp(&disk);
        esp.volume.device.fail_at = Some(fail_at);
        let done = update(&mut esp);
        let log = esp.volume.device.log.clone();
        judge(&esp.into_device());
        if done.is_ok() {
            assert_eq!(log.lock().unwrap().len(), fail_at);
            break;
        }
        assert!(done.unwrap_err().to_string().contains("injected"));
    }
}

#[test]
fn an_entry_loses_its_counter_in_one_write() {
    for name in ["vb-a+3.efi", "vb-a+2-1.efi", "vb-a+10-2.efi"] {
        let disk = Disk::with('a', &[("vb-b.efi", NEW), (name, OLD)]);
        let mut esp = esp(&disk);
        esp.bless(Slot::A).unwrap();
        let writes = esp.volume.device.log.lock().unwrap().iter().filter(|e| matches!(e, Event::Write(..))).count();
        assert_eq!(writes, 1);
        let disk = esp.into_device();
        assert_eq!(files(&disk).keys().collect::<Vec<_>>(), ["vb-a.efi", "vb-b.efi"]);
        assert_eq!(files(&disk)["vb-a.efi"], OLD);
        let mut again = Esp::open(disk.fresh()).unwrap();
        again.bless(Slot::A).unwrap();
        assert_eq!(again.volume.device.log.lock().unwrap().len(), 0);
    }
}

#[test]
fn an_entry_across_two_sectors_never_disappears() {
    // The entries before it take 15 slots, so that its own two are in different sectors.
    let mut disk = Disk::with('a', &[("vb-b.efi", NEW), ("vb-a+1-2.efi", OLD)]);
    let folder = (32 + 2 * ((1_502u32 * 4).div_ceil(512)) + 2) as usize * 512;
    let moved: Vec<u8> = disk.bytes[folder + 64..folder + 128].to_vec();
    disk.bytes[folder + 64..folder + 480].chunks_mut(32).for_each(|slot| slot[0] = 0xE5);
    // A second cluster for the folder, the last of the volume.
    let last = 1_501u32;
    for fat in 0..2 {
        let at = (32 + fat * (1_502u32 * 4).div_ceil(512)) as usize * 512;
        disk.bytes[at + 16..at + 20].copy_from_slice(&last.to_le_bytes());
        disk.bytes[at + last as usize * 4..at + last as usize * 4 + 4].copy_from_slice(&0x0FFF_FFFFu32.to_le_bytes());
    }
    let second = folder + (last as usize - 4) * 512;
    disk.bytes[folder + 480..folder + 512].copy_from_slice(&moved[..32]);
    disk.bytes[second..second + 32].copy_from_slice(&moved[32..]);
    assert!(files(&disk).contains_key("vb-a+1-2.efi"));
    let mut esp = esp(&disk);
    esp.bless(Slot::A).unwrap();
    let events = esp.into_device().log.lock().unwrap().clone();
    assert!(events.len() > 2);
    for cut in 0..=events.len() {
        let found = files(&replayed(&disk, &events[..cut]));
        let name = found.iter().find(|(_, contents)| *contents == OLD).unwrap().0;
        assert!(name::parse(name).is_some_and(|(slot, _)| slot == Slot::A), "{name}");
    }
}

#[test]
fn names_carry_counters() {
    let left = |left, done| Tries::Left { left, done };
    for (name, expected) in [
        ("vb-a.efi", Some((Slot::A, Tries::Blessed))),
        ("VB-B+3.EFI", Some((Slot::B, left(3, 0)))),
        ("vb-b+0-17.efi", Some((Slot::B, left(0, 17)))),
        ("vb-c.efi", None),
        ("vb-a+.efi", None),
        ("vb-a+3-.efi", None),
        ("vb-a3.efi", None),
        ("vb-a+99999999999.efi", None),
        ("vb-é.efi", None),
        ("vb-.efi", None),
        ("vb-a.efi.tmp", None),
    ] {
        assert_eq!(name::parse(name), expected, "{name}");
    }
    assert!(Tries::Blessed < left(3, 0) && left(3, 0) < left(2, 1) && left(2, 1) < left(0, 3));
}

#[test]
fn the_boot_loaders_choice_is_explained() {
    let state = |default, files: &[&str], own| {
        let files: Vec<(&str, &[u8])> = files.iter().map(|name| (*name, OLD)).collect();
        let state = esp(&Disk::with(default, &files)).boot_state(own).unwrap();
        state.fell_back.unwrap_or_default()
    };
    assert_eq!(state('a', &["vb-a+2-1.efi", "vb-b.efi"], Slot::A), "");
    assert_eq!(state('a', &["vb-a+2-1.efi"], Slot::A), "");
    assert_eq!(state('b', &["vb-a.efi", "vb-b+0-3.efi"], Slot::A), "slot B was started 3 times and never found good");
    assert_eq!(state('b', &["vb-a.efi"], Slot::A), "slot B should run and has no entry: its update was not finished");
    assert_eq!(state('a', &["vb-a.efi", "vb-b.efi"], Slot::B), "slot A should run, and the boot loader started slot B");
    let nothing_left = "no slot is left that was found good or has tries: slot B was started once more";
    assert_eq!(state('a', &["vb-a+0-3.efi", "vb-b+0-4.efi"], Slot::B), nothing_left);
    assert_eq!(state('b', &["vb-b+0-4.efi"], Slot::B), nothing_left);
    assert!(esp(&Disk::with('a', &[("vb-a.efi", OLD)])).boot_state(Slot::B).is_err());
}

#[test]
fn a_boot_file_that_does_not_fit_is_refused_before_anything_changes() {
    let disk = Disk::with('a', &[("vb-a.efi", OLD), ("vb-b.efi", OLD)]);
    let esp = esp(&disk);
    let error = esp.check_room(Slot::B, 1_500 * 512).unwrap_err().to_string();
    assert!(error.starts_with("the ESP is full: the boot file needs 768000 bytes, and "), "{error}");
    assert!(esp.check_room(Slot::B, 1_480 * 512).is_ok());
}

#[test]
fn a_volume_with_any_byte_changed_gives_an_error_or_an_answer() {
    let disk = Disk::with('a', &[("vb-a+2-1.efi", OLD), ("vb-b.efi", NEW)]);
    let fat = 32 * 512;
    let data = (32 + 2 * ((1_502u32 * 4).div_ceil(512))) as usize * 512;
    for at in (0..64).chain(500..516).chain(fat..fat + 64).chain(data..data + 3 * 512) {
        for value in [0, 0xFF, disk.bytes[at] ^ 1, disk.bytes[at] ^ 0x80] {
            let mut changed = disk.fresh();
            changed.bytes[at] = value;
            if let Ok(mut esp) = Esp::open(changed) {
                let _ = esp.boot_state(Slot::A);
                let _ = esp.check_room(Slot::B, 5000);
                let _ = esp.bless(Slot::A);
            }
        }
    }
}
