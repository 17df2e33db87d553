//! Which devices are refused, and that they are not written.

use sha2::{Digest, Sha256};

use super::*;
use crate::journal::format::BLOCK;

fn reason(disk: &Disk, opening: &Opening<'_>) -> JournalReason {
    let (before, events) = (disk.bytes(), disk.events());
    let Err(error) = open_with(disk, opening) else { panic!("it was opened") };
    assert!(disk.bytes() == before && disk.events() == events, "a refused device is not written");
    error.reason
}

/// A device with three frames of one block each.
fn used() -> Disk {
    let disk = Disk::blank(AREA_START as usize + (40 << 12));
    let (mut log, _) = open(&disk, 1);
    for payload in [b"one", b"two", b"six"] {
        add(&mut log, EntryKind::Mutate, payload);
    }
    disk
}

/// Changes both superblocks, and makes them right again.
fn edit(disk: &Disk, change: impl Fn(&mut [u8])) {
    disk.alter(|bytes| {
        for block in bytes[..2 * BLOCK as usize].chunks_exact_mut(BLOCK as usize) {
            change(block);
            let digest: [u8; 32] = Sha256::digest(&block[..super_at::DIGEST]).into();
            block[super_at::DIGEST..super_at::DIGEST + 32].copy_from_slice(&digest);
        }
    });
}

#[test]
fn what_is_not_a_journal_of_this_model_is_refused() {
    let foreign = Disk::blank(1 << 20);
    foreign.alter(|bytes| bytes[700_000] = 1);
    assert_eq!(reason(&foreign, &opening(1)), JournalReason::Foreign);
    assert_eq!(reason(&Disk::blank(8 << 10), &opening(1)), JournalReason::TooSmall);
    let other = Opening { file: [9; 32], ..opening(1) };
    assert_eq!(reason(&used(), &other), JournalReason::OtherModel);
    let cut = used();
    cut.alter(|bytes| bytes.truncate(AREA_START as usize + (39 << 12)));
    assert_eq!(reason(&cut, &opening(1)), JournalReason::TooSmall);
    let grown = used();
    grown.alter(|bytes| bytes.resize(1 << 20, 5));
    assert_eq!(open(&grown, 2).1.len(), 3);
    let newer = used();
    edit(&newer, |block| block[super_at::LEAST_READER] = 2);
    assert_eq!(reason(&newer, &opening(1)), JournalReason::Newer);
    edit(&newer, |block| (block[super_at::LEAST_READER], block[super_at::VERSION]) = (1, 2));
    let before = newer.bytes();
    let (mut log, entries) = open(&newer, 2);
    assert_eq!(entries.len(), 3, "a newer version that old readers may read");
    let refused = log.append(head(EntryKind::Promote, 0), &[]).map(|_| ()).unwrap_err();
    assert_eq!(
        (refused.reason, log.refusal().map(|why| why.reason)),
        (JournalReason::Newer, Some(JournalReason::Newer))
    );
    assert!(newer.bytes() == before, "it is never written");
    let unsound = used();
    edit(&unsound, |block| block[super_at::START] = 1);
    assert_eq!(reason(&unsound, &opening(1)), JournalReason::Damaged);
    let damaged = used();
    damaged.alter(|bytes| (bytes[100], bytes[4196]) = (99, 99));
    assert_eq!(reason(&damaged, &opening(1)), JournalReason::Damaged);
}

#[test]
fn both_digests_are_named() {
    let other = || [9; 32];
    let error = open_with(&used(), &Opening { file: [8; 32], model: &other, ..opening(1) }).err().unwrap();
    assert!(error.text.contains(&"01".repeat(32)) && error.text.contains(&"09".repeat(32)), "{}", error.text);
    let error = open_with(&used(), &Opening { file: [8; 32], ..opening(1) }).err().unwrap();
    assert!(error.text.contains(&"02".repeat(32)) && error.text.contains(&"08".repeat(32)), "{}", error.text);
}

#[test]
fn a_device_that_cannot_be_written_is_read() {
    let read_only = |nonce| Opening { writable: false, ..opening(nonce) };
    assert_eq!(reason(&Disk::blank(1 << 20), &read_only(1)), JournalReason::ReadOnly);
    let disk = used();
    let before = disk.events();
    let (mut log, found) = open_with(&disk, &read_only(2)).unwrap();
    assert_eq!(found.len(), 3);
    assert_eq!(log.append(head(EntryKind::Mutate, 0), &[]).unwrap_err().reason, JournalReason::ReadOnly);
    assert_eq!(disk.events(), before, "nothing was written or flushed");
}

#[test]
fn formatting_that_was_interrupted_is_done_again() {
    let bytes = 64 << 10;
    let disk = Disk::blank(bytes);
    open(&disk, 1);
    let events = disk.record();
    for cut in 0..=events.len() {
        let cut = Cut::new(vec![0; bytes], &events, cut);
        for torn in 0..=cut.sectors() {
            let disk = Disk::new(cut.contents(|number| number < torn));
            add(&mut open(&disk, 2).0, EntryKind::Mutate, b"works");
            assert_eq!(open(&disk, 3).1.len(), 1);
        }
    }
    let torn = Disk::blank(bytes);
    torn.alter(|bytes| bytes[..100].copy_from_slice(&disk.bytes()[..100]));
    assert_eq!(open(&torn, 2).1.len(), 0);
    let used = Disk::blank(bytes);
    used.alter(|bytes| {
        bytes[..100].copy_from_slice(&disk.bytes()[..100]);
        bytes[40_000] = 1;
    });
    assert_eq!(reason(&used, &opening(1)), JournalReason::Damaged);
}

#[test]
fn a_damaged_frame_is_torn_at_the_end_and_damage_elsewhere() {
    for (frame, expected) in [(0, None), (1, None), (2, Some(2))] {
        for at in [0, 20, 140, 170, 329] {
            let disk = used();
            disk.alter(|bytes| bytes[AREA_START as usize + (frame << 12) + at] ^= 1);
            match expected {
                None => assert_eq!(reason(&disk, &opening(2)), JournalReason::Damaged, "frame {frame} at {at}"),
                Some(count) => {
                    let (mut log, found) = open(&disk, 2);
                    assert_eq!((found.len(), log.torn().is_some()), (count, at != 0), "at {at}");
                    add(&mut log, EntryKind::Mutate, b"goes on");
                    assert_eq!(open(&disk, 3).1.len(), count + 1);
                }
            }
        }
        let disk = used();
        disk.alter(|bytes| bytes[AREA_START as usize + (frame << 12) + 4000] ^= 1);
        assert_eq!(open(&disk, 2).1.len(), 3, "padding does not matter");
    }
}

#[test]
fn a_large_hole_is_damage_and_so_is_a_missing_first_frame() {
    let disk = Disk::blank(4 << 20);
    let (mut log, _) = open(&disk, 1);
    for _ in 0..500 {
        add(&mut log, EntryKind::Mutate, b"small");
    }
    disk.alter(|bytes| bytes[AREA_START as usize + (10 << 12)..][..450 << 12].fill(0));
    assert_eq!(reason(&disk, &opening(2)), JournalReason::Damaged);
    let disk = used();
    let (mut log, _) = open(&disk, 2);
    let image = add(&mut log, EntryKind::Image, b"image");
    log.remove_before(image, 3).unwrap();
    disk.alter(|bytes| bytes[AREA_START as usize + (3 << 12)] ^= 1);
    assert_eq!(reason(&disk, &opening(2)), JournalReason::Damaged);
}

/// A disk of which less is stored each time that this is asked.
struct Shrinking(Disk);

impl BlockDevice for Shrinking {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, buffer)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write(offset, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }

    fn has_shrunk(&self) -> bool {
        true
    }
}

#[test]
fn a_file_of_which_less_is_stored_is_gone_only_if_the_log_is_not_there() {
    let (first, second) = (AREA_START as usize, AREA_START as usize + 4096);
    for lost in [0..1 << 20, 0..first, second..second + 4096] {
        let disk = Disk::blank(1 << 20);
        let mut log = DeviceLog::open_limited(Box::new(Shrinking(disk.clone())), &opening(1), LIMITS).unwrap();
        log.read_on(&mut |_, _| Ok(())).unwrap();
        for payload in [b"first", b"other"] {
            add(&mut log, EntryKind::Mutate, payload);
            log.require_kept().unwrap();
        }
        disk.alter(|bytes| bytes[first..second].fill(0));
        log.require_kept().unwrap(); // of its frames only the last one is looked at
        disk.alter(|bytes| bytes[lost.clone()].fill(0));
        let refused = log.require_kept().unwrap_err();
        assert_eq!(refused.reason, JournalReason::Gone, "{lost:?}");
        assert_eq!(log.append(head(EntryKind::Mutate, 0), &[b"later"]), Err(refused));
    }
}

#[test]
fn a_device_that_this_boot_has_used_is_not_formatted_again() {
    for content in [0, 5] {
        let disk = Disk::new(vec![content; 1 << 20]);
        let refused = open_with(&disk, &Opening { boot: 1, ..opening(1) }).err().unwrap();
        assert_eq!((refused.reason, disk.events()), (JournalReason::Gone, 0));
    }
}
