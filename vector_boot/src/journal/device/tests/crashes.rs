//! Whatever a cut leaves of a random history, recovery finds a legal prefix of it.

use proptest::prelude::*;

use super::*;

const BYTES: usize = AREA_START as usize + (34 << 12);

/// A step of a history.
#[derive(Debug, Clone)]
enum Step {
    /// Frames of these payloads.
    Commit(Vec<u16>),
    /// An image of this size; whether what is before it is removed.
    Image(u16, bool),
    /// The log is opened again.
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => prop::collection::vec(0u16..9000, 1..4).prop_map(Step::Commit),
        3 => (0u16..9000, any::<bool>()).prop_map(|(len, remove)| Step::Image(len, remove)),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..40)
}

/// What was acknowledged when so many events were recorded: the first and the next sequence number.
struct Acknowledged {
    events: usize,
    next: u64,
}

/// Carries out a history; returns the length of the payload of every entry ever committed, by its sequence number.
fn carry_out(disk: &Disk, steps: &[Step]) -> (Vec<usize>, Vec<Acknowledged>) {
    let (mut log, _) = open(disk, 0);
    let (mut lengths, mut acknowledged) = (Vec::new(), vec![Acknowledged { events: disk.events(), next: 0 }]);
    for (number, step) in steps.iter().enumerate() {
        let sequence = log.next_sequence();
        match step {
            Step::Reopen => log = open(disk, number as u8).0,
            Step::Commit(payloads) => {
                for (index, len) in payloads.iter().enumerate() {
                    let payload = patterned(usize::from(*len), sequence as usize + index);
                    if log.append(head(EntryKind::Mutate, 0), &[&payload]).is_err() {
                        log.abort();
                        break;
                    }
                    if index + 1 == payloads.len() {
                        log.commit().unwrap();
                        lengths.extend(payloads.iter().map(|len| usize::from(*len)));
                    }
                }
            }
            Step::Image(len, remove) => {
                let payload = patterned(usize::from(*len) + 1, sequence as usize);
                if let Ok(offset) = log.append(head(EntryKind::Image, 0), &[&payload]) {
                    log.commit().unwrap();
                    lengths.push(payload.len());
                    acknowledged.push(Acknowledged { events: disk.events(), next: log.next_sequence() });
                    if *remove {
                        log.remove_before(offset, sequence).unwrap();
                    }
                }
            }
        }
        acknowledged.push(Acknowledged { events: disk.events(), next: log.next_sequence() });
    }
    (lengths, acknowledged)
}

fn check(disk: &Disk, lengths: &[usize], least: u64) -> Result<(), TestCaseError> {
    let opened = open_with(disk, &opening(99));
    prop_assert!(opened.is_ok(), "{:?}", opened.err());
    let (mut log, found) = opened.unwrap();
    prop_assert!(log.next_sequence() >= least, "{} of {least}", log.next_sequence());
    prop_assert_eq!(log.next_sequence(), found.last().map_or(0, |(_, head)| head.sequence + 1));
    for (offset, head) in &found {
        let sequence = head.sequence as usize;
        let expected = patterned(lengths[sequence], sequence);
        prop_assert!(log.entry(*offset).unwrap().payload[..] == expected[..], "entry {}", sequence);
    }
    let starts_at_image = found.first().is_none_or(|(_, head)| head.sequence == 0 || head.holds_image());
    prop_assert!(starts_at_image);
    if log.append(head(EntryKind::Promote, 0), &[]).is_ok() {
        log.commit().unwrap();
        prop_assert_eq!(open(disk, 100).1.len(), found.len() + 1);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn every_cut_leaves_a_legal_prefix(steps in steps(), seed in any::<u64>()) {
        let disk = Disk::blank(BYTES);
        let (lengths, acknowledged) = carry_out(&disk, &steps);
        let events = disk.record();
        let mut random = seed | 1;
        for cut in 0..=events.len() {
            let least = acknowledged.iter().rev().find(|known| known.events <= cut).map_or(0, |known| known.next);
            let state = Cut::new(vec![0; BYTES], &events, cut);
            let mut step = || {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random
            };
            let (torn, mask) = (step() as usize % (state.sectors() + 1), [step(), step()]);
            check(&Disk::new(state.contents(|number| number < torn)), &lengths, least)?;
            check(&Disk::new(state.contents(|number| mask[number / 64 % 2] >> (number % 64) & 1 == 1)), &lengths, least)?;
        }
    }
}

#[test]
fn every_flipped_bit_of_a_superblock_is_harmless() {
    let disk = Disk::blank(BYTES);
    let (mut log, _) = open(&disk, 1);
    add(&mut log, EntryKind::Mutate, b"gone");
    let image = add(&mut log, EntryKind::Image, b"image");
    log.remove_before(image, 1).unwrap();
    add(&mut log, EntryKind::Mutate, b"last");
    for bit in (0..8 * 520).chain(8 * 4096..8 * (4096 + 520)) {
        let flipped = Disk::new(disk.bytes());
        flipped.alter(|bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        let (mut log, found) = open(&flipped, 2);
        let expected: [&[u8]; 2] = [b"image", b"last"];
        assert_eq!(payloads(&log, &found), expected, "bit {bit}");
        if bit % 16 == 0 {
            add(&mut log, EntryKind::Mutate, b"more");
            assert_eq!(open(&flipped, 3).1.len(), 3, "bit {bit}");
        }
    }
}

#[test]
fn recovery_flushes_before_it_is_believed() {
    let disk = Disk::blank(BYTES);
    add(&mut open(&disk, 1).0, EntryKind::Mutate, b"one");
    let before = disk.events();
    open_with(&disk, &Opening { boot: 1, ..opening(2) }).unwrap();
    assert_eq!(disk.record()[before..], [Event::Flush]);
    let (before, bytes) = (disk.events(), disk.bytes());
    open(&disk, 2);
    let block = bytes[AREA_START as usize..][..4096].to_vec();
    assert_eq!(disk.record()[before..], [Event::Write(AREA_START, block), Event::Flush], "the last frame, again");
}
