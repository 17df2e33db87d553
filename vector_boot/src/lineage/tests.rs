use std::io;

use super::test_support::{quiet, recover, recover_from, walk, Harness, ELEMENTS};
use super::*;
use crate::journal::log::Log;
use crate::journal::memory_file::{MemoryFile, FIRST_PLACE};
use crate::journal::storage::LogStorage;
use crate::tensor::tests::{file, load};

#[test]
fn every_generation_comes_back_from_before_images_and_from_the_log() {
    for undo in [1 << 20, 1] {
        let mut harness = Harness::new(undo, 1 << 20);
        let states = harness.ten();
        for to in [9, 3, 10, 0, 7, 13] {
            harness.roll_back(to).unwrap();
            assert_eq!(harness.contents(), states[if to == 13 { 10 } else { to as usize }], "to {to}");
        }
        assert_eq!(harness.lineage.generation(), 16);
        assert!(matches!(harness.roll_back(17), Err(LineageError::UnknownGeneration(_))));
    }
}

#[test]
fn a_new_worker_finds_the_same_generation_contents_and_ids() {
    let mut harness = Harness::new(1 << 20, 1 << 20);
    let states = harness.ten();
    harness.roll_back(4).unwrap();
    harness.restart();
    assert_eq!((harness.lineage.generation(), harness.contents()), (11, states[4].clone()));
    assert_eq!(harness.lineage.ids().find(&[7; 16]).unwrap().generation, 7);
    harness.roll_back(9).unwrap();
    assert_eq!(harness.contents(), states[9]);
    harness.mutate(0, 99, None).unwrap();
    let last = harness.contents();
    harness.restart();
    assert_eq!((harness.lineage.generation(), harness.contents()), (13, last));
}

#[test]
fn images_stand_in_for_the_log_before_them_and_old_generations_are_forgotten() {
    let mut harness = Harness::new(1, 8000);
    let states = harness.ten();
    harness.lineage.checkpoint().unwrap();
    for value in 0..100 {
        harness.mutate(10 * 5000, value, None).unwrap();
    }
    harness.restart();
    assert_eq!(harness.lineage.generation(), 110);
    assert!(harness.lineage.ids().find(&[1; 16]).is_some(), "ids outlive the entries");
    assert!(matches!(harness.roll_back(5), Err(LineageError::UnknownGeneration(_))));
    harness.roll_back(0).unwrap();
    assert_eq!(harness.contents(), states[0]);
    harness.restart();
    assert_eq!((harness.lineage.generation(), harness.contents()), (111, states[0].clone()));
}

#[test]
fn a_trial_ends_with_its_lease_or_by_promotion() {
    let mut harness = Harness::new(1 << 20, 1 << 20);
    harness.mutate(0, 1, None).unwrap();
    let promoted = harness.contents();
    harness.mutate(100, 2, Some(1000)).unwrap();
    harness.mutate(200, 3, None).unwrap();
    assert_eq!((harness.lineage.promoted(), harness.lineage.lease_until_us()), (1, Some(1000)));
    assert!(!harness.lineage.expire_lease(ChangeRequest::default(), 999, &quiet).unwrap());
    harness.restart();
    assert_eq!((harness.lineage.promoted(), harness.lineage.lease_until_us()), (1, Some(1000)));
    harness.lineage.renew(ChangeRequest::default(), 3, 2000).unwrap();
    assert!(!harness.lineage.expire_lease(ChangeRequest::default(), 1999, &quiet).unwrap());
    assert!(harness.lineage.expire_lease(ChangeRequest::default(), 2000, &quiet).unwrap());
    assert_eq!((harness.lineage.generation(), harness.lineage.promoted()), (4, 4));
    assert_eq!(harness.contents(), promoted);

    harness.mutate(100, 4, Some(1000)).unwrap();
    harness.mutate(200, 5, None).unwrap();
    let on_trial = harness.contents();
    assert!(
        harness.lineage.promote(ChangeRequest::default(), 3).is_err()
            && harness.lineage.promote(ChangeRequest::default(), 7).is_err()
    );
    harness.lineage.promote(ChangeRequest::default(), 5).unwrap();
    assert_eq!((harness.lineage.promoted(), harness.lineage.lease_until_us()), (5, Some(1000)));
    harness.lineage.promote(ChangeRequest::default(), 6).unwrap();
    assert_eq!((harness.lineage.promoted(), harness.lineage.lease_until_us()), (6, None));
    harness.restart();
    assert_eq!((harness.lineage.promoted(), harness.contents()), (6, on_trial));
    assert!(harness.lineage.renew(ChangeRequest::default(), 6, 5).is_err());
}

#[test]
fn a_rollback_inside_a_trial_keeps_it_open_and_one_out_of_it_ends_it() {
    let mut harness = Harness::new(1 << 20, 1 << 20);
    harness.mutate(0, 1, None).unwrap();
    harness.mutate(0, 2, Some(1000)).unwrap();
    harness.mutate(0, 3, None).unwrap();
    harness.roll_back(2).unwrap();
    assert_eq!((harness.lineage.promoted(), harness.lineage.lease_until_us()), (1, Some(1000)));
    harness.roll_back(1).unwrap();
    assert_eq!((harness.lineage.promoted(), harness.lineage.lease_until_us()), (5, None));
}

/// A log whose writes fail after this many.
struct Failing {
    file: MemoryFile,
    writes: u32,
}

impl LogStorage for Failing {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, buffer)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.writes = self.writes.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
        self.file.write(offset, bytes)
    }

    fn discard(&mut self, _: u64, _: u64) {}
}

#[test]
fn whichever_write_fails_nothing_has_changed_and_nothing_changes_any_more() {
    for writes in 1..40 {
        let mut harness = Harness::new(1, 3000);
        let file = MemoryFile::open(harness.journal.try_clone().unwrap()).unwrap();
        let store = load(self::file("w", ELEMENTS, false)).unwrap();
        let log = Log::open(Box::new(Failing { file, writes })).map(|log| Box::new(log) as Box<dyn Journal>);
        harness.lineage = recover_from(log, store, harness.budget);
        let mut states = vec![harness.contents()];
        for value in 1..20 {
            if harness.mutate(0, value, None).is_err() {
                break;
            }
            states.push(harness.contents());
        }
        let generation = harness.lineage.generation();
        assert_eq!(generation as usize + 1, states.len(), "{writes} writes");
        assert_eq!(harness.contents(), states[generation as usize]);
        if generation < 19 {
            assert!(harness.mutate(0, 99, None).is_err() && harness.roll_back(0).is_err());
            assert_eq!(harness.contents(), states[generation as usize]);
        }
        harness.restart();
        assert_eq!(harness.lineage.generation(), generation);
        assert_eq!(harness.contents(), states[generation as usize]);
    }
}

#[test]
fn a_damaged_log_leaves_the_base_and_no_mutations() {
    use std::os::unix::fs::FileExt;
    let mut harness = Harness::new(1 << 20, 1 << 20);
    let states = harness.ten();
    harness.journal.write_all_at(b"x", FIRST_PLACE + 4096 + 200).unwrap();
    harness.restart();
    assert_eq!((harness.lineage.generation(), harness.contents()), (0, states[0].clone()));
    assert!(matches!(harness.lineage.require_log(), Err(LineageError::Journal(_))));
}

#[test]
fn a_generation_that_only_before_images_reach_survives_the_worker_all_the_same() {
    let mut harness = Harness::new(16 << 20, 30_000);
    let states = harness.ten();
    for value in 0..600u32 {
        harness.mutate(10 * 5000, value as u8, None).unwrap();
    }
    assert!(harness.lineage.path(5).is_none(), "the log has forgotten it");
    harness.roll_back(5).unwrap();
    assert_eq!(harness.contents(), states[5]);
    harness.restart();
    assert_eq!((harness.lineage.generation(), harness.contents()), (611, states[5].clone()));
    harness.mutate(0, 1, None).unwrap();
    let newest = harness.contents();
    harness.roll_back(611).unwrap();
    harness.restart();
    assert_eq!(harness.contents(), states[5]);
    harness.roll_back(612).unwrap();
    assert_eq!(harness.contents(), newest);
    for value in 0..200 {
        harness.mutate(10 * 5000, value, None).unwrap();
        harness.restart();
    }
    assert_eq!(harness.lineage.generation(), 814);
}

#[test]
fn the_newest_generations_outlive_what_is_forgotten() {
    let mut harness = Harness::new(1, 120_000);
    let mut states = vec![harness.contents()];
    for value in 0..1000u64 {
        harness.mutate(value * 64 % 50_000, value as u8, None).unwrap();
        states.push(harness.contents());
    }
    let size = harness.lineage.log_bytes();
    assert!(size < 300_000, "{size}");
    harness.restart();
    harness.roll_back(980).unwrap();
    assert_eq!(harness.contents(), states[980]);
}

#[test]
fn nothing_that_the_current_generation_needs_is_forgotten() {
    for undo in [1, 1 << 20] {
        let mut harness = Harness::new(undo, 40_000);
        walk(&mut harness, 1500, u64::MAX);
        assert!(harness.lineage.log_start() > 100_000, "much was forgotten");
    }
}

#[test]
fn a_batch_becomes_permanent_as_a_whole() {
    let mut harness = Harness::new(1 << 20, 1 << 20);
    let states = harness.ten();
    for value in [1, 2, 3] {
        harness.add(0, value, (value == 2).then_some(1000)).unwrap();
    }
    let lineage = &harness.lineage;
    assert_eq!((lineage.generation(), lineage.promoted(), lineage.lease_until_us()), (13, 11, Some(1000)));
    harness.restart();
    assert_eq!((harness.lineage.generation(), harness.contents()), (10, states[10].clone()), "it was not committed");
    for value in [1, 2, 3] {
        harness.add(0, value, None).unwrap();
    }
    harness.lineage.commit().unwrap();
    let newest = harness.contents();
    harness.restart();
    assert_eq!((harness.lineage.generation(), harness.contents()), (13, newest));
}

#[test]
fn a_batch_that_fails_is_taken_back_with_its_ids() {
    // The bounds of the new log, three entries of four writes each, then the bounds with the first batch.
    for writes in [4, 8, 13, 14, 17, 25] {
        let mut harness = Harness::new(1, 1 << 20);
        let file = MemoryFile::open(harness.journal.try_clone().unwrap()).unwrap();
        let log = Log::open(Box::new(Failing { file, writes })).map(|log| Box::new(log) as Box<dyn Journal>);
        let store = load(self::file("w", ELEMENTS, false)).unwrap();
        harness.lineage = recover_from(log, store, harness.budget);
        let add =
            |harness: &mut Harness, from: u8| (from..from + 3).all(|value| harness.add(0, value, Some(9)).is_ok());
        let first = add(&mut harness, 1) && harness.lineage.commit().is_ok();
        let kept = harness.contents();
        let generation = if first { 3 } else { 0 };
        let second = add(&mut harness, 4) && harness.lineage.commit().is_ok();
        assert!(!second, "{writes} writes");
        let lineage = &harness.lineage;
        assert_eq!((lineage.generation(), lineage.promoted()), (generation, 0));
        assert_eq!(lineage.lease_until_us(), first.then_some(9));
        assert_eq!((lineage.ids().find(&[3; 16]).is_some(), lineage.ids().find(&[4; 16])), (first, None));
        assert_eq!(harness.contents(), kept);
        assert!(lineage.require_log().is_err());
    }
}

#[test]
fn a_follower_makes_every_change_of_the_writer() {
    for undo in [1, 1 << 20] {
        let mut writer = Harness::new(undo, 40_000);
        let mut follower = recover(&writer.journal, writer.budget);
        let same = |writer: &Harness, follower: &Lineage| {
            let store = follower.store();
            assert_eq!(store.bytes(store.find("w").unwrap()).unwrap(), writer.contents());
            let state = |of: &Lineage| (of.generation(), of.promoted(), of.lease_until_us(), of.first_made);
            assert_eq!(state(follower), state(&writer.lineage));
        };
        writer.ten();
        follower.catch_up(None, &quiet).unwrap();
        same(&writer, &follower);
        writer.mutate(0, 1, Some(1000)).unwrap();
        writer.mutate(100, 2, None).unwrap();
        writer.lineage.renew(ChangeRequest::default(), 12, 2000).unwrap();
        follower.catch_up(None, &quiet).unwrap();
        same(&writer, &follower);
        writer.lineage.expire_lease(ChangeRequest::default(), 2000, &quiet).unwrap();
        writer.roll_back(3).unwrap();
        writer.lineage.checkpoint().unwrap();
        follower.catch_up(None, &quiet).unwrap();
        same(&writer, &follower);
        let mut forgotten = 0;
        for value in 0..200 {
            writer.mutate(300 * u64::from(value), value, None).unwrap();
            follower.catch_up(None, &quiet).unwrap();
            same(&writer, &follower);
            forgotten = follower.first_made;
        }
        assert!(forgotten > 10, "old entries were removed");
        assert!(follower.ids().find(&[5; 16]).is_some());
        writer.lineage = follower;
        writer.mutate(0, 77, None).unwrap();
        let newest = writer.contents();
        writer.restart();
        assert_eq!(writer.contents(), newest);
    }
}
