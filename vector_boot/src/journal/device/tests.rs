use super::simulated::{Call, Cut, Disk, Event, Fault};
use super::*;
use crate::journal::entry_tests::head;
use crate::journal::format::{frame as frame_at, superblock as super_at, AREA_START};
use crate::journal::EntryKind;

mod crashes;
mod refusals;

const MODEL: [u8; 32] = [1; 32];
const FILE: [u8; 32] = [2; 32];
const LIMITS: Limits = Limits { device_least: 16 << 10, reach_step: 32 << 10, zeros_ahead: 8 << 10 };

fn model() -> [u8; 32] {
    MODEL
}

fn opening(nonce: u8) -> Opening<'static> {
    let mut random = [7; 64];
    random[48..].fill(nonce);
    Opening { file: FILE, model: &model, random, boot: 0, writable: true, beside: false }
}

fn open_with(disk: &Disk, opening: &Opening<'_>) -> Result<(DeviceLog, Vec<(u64, EntryHead)>), JournalError> {
    let mut log = DeviceLog::open_limited(disk.handle(), opening, LIMITS)?;
    let mut found = Vec::new();
    log.read_on(&mut |offset, head| {
        found.push((offset, *head));
        Ok(())
    })?;
    Ok((log, found))
}

fn open(disk: &Disk, nonce: u8) -> (DeviceLog, Vec<(u64, EntryHead)>) {
    open_with(disk, &opening(nonce)).unwrap()
}

/// The sequence numbers of the entries that are new to this log.
fn read_on(log: &mut DeviceLog) -> Vec<u64> {
    let mut sequences = Vec::new();
    log.read_on(&mut |_, head| {
        sequences.push(head.sequence);
        Ok(())
    })
    .unwrap();
    sequences
}

/// Appends an entry with this payload in a frame of its own.
fn add(log: &mut DeviceLog, kind: EntryKind, payload: &[u8]) -> u64 {
    let offset = log.append(head(kind, 0), &[&payload[..payload.len() / 2], &payload[payload.len() / 2..]]).unwrap();
    log.commit().unwrap();
    offset
}

fn payloads(log: &DeviceLog, found: &[(u64, EntryHead)]) -> Vec<Vec<u8>> {
    found.iter().map(|(offset, _)| log.entry(*offset).unwrap().payload.to_vec()).collect()
}

fn patterned(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251 + seed) as u8).collect()
}

#[test]
fn a_frame_needs_space_for_itself_and_not_for_the_zeros_behind_it() {
    let disk = Disk::blank(1 << 20);
    let (mut log, _) = open(&disk, 1);
    add(&mut log, EntryKind::Mutate, b"with zeros behind it");
    let zeros_end = AREA_START + log.end() + LIMITS.zeros_ahead;
    // There is space for the first zeros and two frames behind them, but not for the zeros behind those.
    disk.limit_space(Some(zeros_end + 8192));
    let mut kept = 1;
    while AREA_START + log.end() < zeros_end + 8192 {
        add(&mut log, EntryKind::Mutate, b"without");
        kept += 1;
    }
    assert_eq!(kept, 5);
    log.append(head(EntryKind::Mutate, 0), &[b"lost"]).unwrap();
    let refused = log.commit().unwrap_err();
    assert!(refused.reason == JournalReason::Io && refused.text.contains("free space"), "{refused:?}");
    log.abort();
    assert_eq!(log.append(head(EntryKind::Mutate, 0), &[b"later"]).unwrap_err(), refused);
    disk.limit_space(None);
    let (mut log, found) = open(&disk, 2);
    assert_eq!(found.len(), kept);
    add(&mut log, EntryKind::Mutate, b"with zeros again");
    assert_eq!(open(&disk, 3).1.len(), kept + 1);
}

#[test]
fn what_was_committed_is_there_after_opening_again_and_nothing_else() {
    let disk = Disk::blank(8 << 20);
    let (mut log, found) = open(&disk, 1);
    assert_eq!((found.len(), log.start(), log.end(), log.boot()), (0, 0, 0, 1));
    let lengths = [0, 1, 7, 8, 3768, 3769, 5000, (1 << 20) + 5, 3 << 20];
    let mut offsets = Vec::new();
    for (number, len) in lengths.into_iter().enumerate() {
        let payload = patterned(len, number);
        offsets.push(log.append(head(EntryKind::Mutate, 0), &[&payload]).unwrap());
        assert!(log.entry(offsets[number]).unwrap().payload[..] == payload[..], "of the open frame");
        if number % 3 != 1 {
            log.commit().unwrap();
        }
        assert!(log.entry(offsets[0]).unwrap().payload.is_empty());
    }
    log.append(head(EntryKind::Promote, 0), &[b"dropped"]).unwrap();
    log.abort();
    assert_eq!(log.next_sequence(), 9);
    let (log, found) = open(&disk, 2);
    assert_eq!(found.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), offsets);
    assert_eq!(found.iter().map(|(_, head)| head.sequence).collect::<Vec<_>>(), (0..9).collect::<Vec<_>>());
    for (number, payload) in payloads(&log, &found).into_iter().enumerate() {
        assert!(payload == patterned(lengths[number], number), "{number}");
    }
    assert_eq!((log.boot(), log.torn(), log.next_sequence()), (2, None, 9));
}

#[test]
fn the_ring_turns_as_long_as_images_free_its_space() {
    let disk = Disk::blank(AREA_START as usize + (40 << 12));
    let (mut log, _) = open(&disk, 1);
    let mut expected: Vec<Vec<u8>> = Vec::new();
    for turn in 0..200 {
        if turn % 7 == 6 {
            let (sequence, image) = (log.next_sequence(), patterned(9000, turn));
            let offset = add(&mut log, EntryKind::Image, &image);
            log.remove_before(offset, sequence).unwrap();
            expected = vec![image];
        }
        let payload = patterned(turn * 37 % 8000, turn);
        add(&mut log, EntryKind::Mutate, &payload);
        expected.push(payload);
        if turn % 5 == 0 {
            let (opened, found) = open(&disk, turn as u8);
            assert!(payloads(&opened, &found) == expected, "turn {turn}");
            assert_eq!(opened.start(), log.start());
            log = opened;
        }
    }
    assert!(log.start() > 4 * log.capacity().unwrap(), "the ring turned");
}

#[test]
fn a_full_ring_refuses_and_room_says_so_before() {
    let disk = Disk::blank(AREA_START as usize + (40 << 12));
    let (mut log, _) = open(&disk, 1);
    let room = log.room(4000) as usize;
    assert_eq!(room, (40 - 16 - 2) * 4096 - HEAD - HEAD_BYTES);
    add(&mut log, EntryKind::Mutate, &vec![1; room]);
    assert_eq!(log.room(4000), 0);
    let offset = add(&mut log, EntryKind::Image, &[2; 4000]);
    for _ in 0..16 {
        add(&mut log, EntryKind::Promote, b"");
    }
    let error = log.append(head(EntryKind::Promote, 0), &[]).unwrap_err();
    assert_eq!(error.reason, JournalReason::Full);
    log.remove_before(offset, 1).unwrap();
    add(&mut log, EntryKind::Promote, b"there is space again");
    assert_eq!(open(&disk, 2).1.len(), 18);
}

#[test]
fn an_image_is_first_in_its_frame_and_only_there_a_log_can_start() {
    let disk = Disk::blank(1 << 20);
    let (mut log, _) = open(&disk, 1);
    log.append(head(EntryKind::Mutate, 0), &[]).unwrap();
    assert!(log.append(head(EntryKind::Image, 0), &[b"image"]).is_err());
    let second = log.append(head(EntryKind::Mutate, 0), &[]).unwrap();
    log.commit().unwrap();
    assert!(log.remove_before(second, 1).is_err());
    assert!(log.remove_before(HEAD as u64, 1).is_err());
    assert_eq!(open(&disk, 2).1.len(), 2);
}

#[test]
fn another_process_reads_on_and_goes_on() {
    let disk = Disk::blank(1 << 20);
    let (mut old, _) = open(&disk, 1);
    add(&mut old, EntryKind::Mutate, b"one");
    let (mut new, found) = open(&disk, 2);
    assert_eq!(found.len(), 1);
    add(&mut old, EntryKind::Mutate, b"two");
    add(&mut old, EntryKind::Mutate, b"three");
    assert_eq!(read_on(&mut new), [1, 2]);
    let image = add(&mut old, EntryKind::Image, b"image");
    old.remove_before(image, 3).unwrap();
    add(&mut old, EntryKind::Mutate, b"four");
    assert_eq!(read_on(&mut new), [3, 4]);
    add(&mut new, EntryKind::Mutate, b"five");
    let (log, found) = open(&disk, 3);
    let expected: [&[u8]; 3] = [b"image", b"four", b"five"];
    assert_eq!(payloads(&log, &found), expected);
}

#[test]
fn entries_that_were_removed_before_they_were_read_are_left_out() {
    let disk = Disk::blank(1 << 20);
    let (mut old, _) = open(&disk, 1);
    add(&mut old, EntryKind::Mutate, b"one");
    let (mut new, _) = open(&disk, 2);
    add(&mut old, EntryKind::Mutate, b"two");
    let image = add(&mut old, EntryKind::Image, b"image");
    old.remove_before(image, 2).unwrap();
    assert_eq!(read_on(&mut new), [2]);
}

#[test]
fn no_two_openings_write_the_same_frame() {
    let digests: Vec<Vec<u8>> = [1, 2]
        .into_iter()
        .map(|nonce| {
            let disk = Disk::blank(1 << 20);
            add(&mut open(&disk, nonce).0, EntryKind::Mutate, b"same");
            disk.bytes()[AREA_START as usize..][frame_at::DIGEST..HEAD].to_vec()
        })
        .collect();
    assert_ne!(digests[0], digests[1]);
}

#[test]
fn after_a_failed_call_nothing_is_written_until_the_next_opening() {
    for call in [Call::Write, Call::Flush] {
        for after in 0..4 {
            let disk = Disk::blank(AREA_START as usize + (64 << 12));
            let (mut log, _) = open(&disk, 1);
            add(&mut log, EntryKind::Mutate, b"acknowledged");
            disk.fail(Some(Fault { call, after, for_ever: false }));
            let (mut done, mut failed) = (1, false);
            for number in 0..30u64 {
                let sequence = log.next_sequence();
                let kind = if number % 4 == 3 { EntryKind::Image } else { EntryKind::Mutate };
                let result = log.append(head(kind, 0), &[&[3; 5000]]).and_then(|offset| {
                    log.commit()?;
                    if kind == EntryKind::Image {
                        log.remove_before(offset, sequence)?;
                    }
                    Ok(())
                });
                match result {
                    Ok(()) => assert!(!failed, "nothing is acknowledged after a failure"),
                    Err(error) => {
                        assert_eq!(error.reason, JournalReason::Io);
                        log.abort();
                        failed = true;
                    }
                }
                done += usize::from(!failed);
            }
            assert!(failed && log.refusal().is_some());
            assert!(log.append(head(EntryKind::Mutate, 0), &[]).is_err());
            let (log, _) = open(&disk, 2);
            let sequence = log.next_sequence() as usize;
            assert!((done..=done + 1).contains(&sequence), "{call:?} {after}: {sequence} of {done}");
        }
    }
}

#[test]
fn a_long_log_is_read_in_large_pieces() {
    let disk = Disk::blank(16 << 20);
    let (mut log, _) = open(&disk, 1);
    for number in 0..500 {
        add(&mut log, EntryKind::Mutate, &patterned(18_000, number));
    }
    let before = disk.calls(Call::Read);
    let (log, found) = open(&disk, 2);
    assert_eq!(payloads(&log, &found).len(), 500);
    let mebibytes = log.end() >> 20;
    assert!(mebibytes >= 9);
    // The frames, then their payloads, at 1 MiB a call; the superblocks, the beginning, and what is behind the end.
    let reads = disk.calls(Call::Read) - before;
    assert!(reads < 2 * mebibytes + 16, "{reads} reads");
}

#[test]
fn a_failed_read_is_told_and_stops_writing() {
    let disk = Disk::blank(1 << 20);
    let (mut log, _) = open(&disk, 1);
    let offset = add(&mut log, EntryKind::Mutate, &[1; 20_000]);
    for after in 0..3 {
        disk.fail(Some(Fault { call: Call::Read, after, for_ever: true }));
        assert_eq!(open_with(&disk, &opening(2)).err().map(|error| error.reason), Some(JournalReason::Io));
    }
    assert_eq!(log.entry(offset).err().unwrap().reason, JournalReason::Io);
    disk.fail(None);
    assert_eq!(log.append(head(EntryKind::Mutate, 0), &[]).unwrap_err().reason, JournalReason::Io);
}
