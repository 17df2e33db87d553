use super::test_support::{quiet, walk, Harness, Machine, Random, ELEMENTS};
use super::*;
use crate::journal::device::simulated::{Call, Disk, Fault};
use crate::journal::device::{DeviceLog, Limits, Opening};
use crate::journal::JournalLoss;
use crate::tensor::tests::{file, load};

/// How a device is opened.
#[derive(Debug, Clone, Copy, Default)]
struct Reopening {
    /// Whether the machine was booted meanwhile.
    booted: bool,
    read_only: bool,
    lost_from: Option<u64>,
}

const WORKER: Reopening = Reopening { booted: false, read_only: false, lost_from: None };
const BOOT: Reopening = Reopening { booted: true, ..WORKER };

/// A machine whose journal is on a disk.
struct OnDisk {
    disk: Disk,
    boot: u64,
    harness: Harness,
}

impl OnDisk {
    fn new(bytes: usize) -> Self {
        let mut machine = OnDisk { disk: Disk::blank(bytes), boot: 0, harness: Harness::new(1, 1 << 20) };
        machine.reopen(BOOT);
        machine
    }

    fn reopen(&mut self, how: Reopening) {
        let opening = Opening {
            file: [1; 32],
            model: &|| [2; 32],
            random: [3; 64],
            boot: if how.booted { 0 } else { self.boot },
            writable: !how.read_only,
            beside: false,
        };
        let limits = Limits { device_least: 64 << 10, ..Limits::SPECIFIED };
        let log = DeviceLog::open_limited(self.disk.handle(), &opening, limits).map(|log| Box::new(log) as _);
        let recovery = Recovery {
            budget: self.harness.budget,
            lost_from: how.lost_from,
            opened_before: !how.booted,
            uptime_us: 7,
            progress: &quiet,
            seen: &mut |_| (),
        };
        self.harness.lineage = Lineage::recover(load(file("w", ELEMENTS, false)).unwrap(), log, recovery);
        self.boot = self.harness.lineage.log().map_or(0, |log| log.boot());
    }

    fn state(&self) -> (u64, u64, Vec<u8>) {
        let lineage = &self.harness.lineage;
        (lineage.generation(), lineage.promoted(), self.harness.contents())
    }
}

impl Machine for OnDisk {
    fn harness(&mut self) -> &mut Harness {
        &mut self.harness
    }

    fn start_again(&mut self, random: &mut Random) {
        self.reopen(if random.below(2) == 0 { BOOT } else { WORKER });
    }
}

fn reason(result: Result<(), LineageError>) -> Option<JournalReason> {
    match result {
        Err(LineageError::Journal(error)) => Some(error.reason),
        _ => None,
    }
}

#[test]
fn a_reboot_ends_a_trial_and_a_new_worker_does_not() {
    let mut machine = OnDisk::new(1 << 20);
    machine.harness.mutate(0, 1, None).unwrap();
    let promoted = machine.harness.contents();
    machine.harness.mutate(100, 2, Some(1000)).unwrap();
    machine.harness.mutate(200, 3, None).unwrap();
    let on_trial = machine.state();
    assert!(!machine.harness.lineage.keeps(2) && machine.harness.lineage.keeps(1));
    machine.reopen(WORKER);
    assert_eq!((machine.state(), machine.harness.lineage.lease_until_us()), (on_trial, Some(1000)));
    machine.reopen(Reopening { read_only: true, ..BOOT });
    assert_eq!(machine.state(), (1, 1, promoted.clone()), "the end of the trial cannot be written");
    assert_eq!(reason(machine.harness.mutate(0, 9, None)), Some(JournalReason::ReadOnly));
    machine.reopen(BOOT);
    assert_eq!((machine.state(), machine.harness.lineage.ended_trial()), ((4, 4, promoted.clone()), Some(1)));
    assert!(machine.harness.lineage.ids().find(&[2; 16]).is_some(), "the ids of the trial are known");
    machine.harness.roll_back(3).unwrap();
    machine.harness.roll_back(4).unwrap();
    assert_eq!(machine.harness.contents(), promoted);
    machine.reopen(BOOT);
    assert_eq!((machine.state(), machine.harness.lineage.ended_trial()), ((6, 6, promoted), None));
}

#[test]
fn whatever_fails_first_nothing_is_accepted_before_the_next_boot() {
    for (call, after) in [(Call::Write, 0), (Call::Flush, 0), (Call::Write, 3), (Call::Flush, 3)] {
        let mut machine = OnDisk::new(1 << 20);
        machine.harness.mutate(0, 1, None).unwrap();
        machine.disk.fail(Some(Fault { call, after, for_ever: false }));
        let mut kept = machine.state();
        for value in 2..9 {
            if machine.harness.mutate(0, value, None).is_err() {
                break;
            }
            kept = machine.state();
        }
        assert!(kept.0 < 8, "{call:?} {after}");
        assert_eq!(machine.state(), kept, "it was taken back");
        assert_eq!(reason(machine.harness.mutate(0, 99, None)), Some(JournalReason::Io));
        assert!(!machine.harness.lineage.durable());
        let lost_from = machine.harness.lineage.lost_from();
        assert!(lost_from.is_some());
        machine.reopen(Reopening { read_only: true, lost_from, ..WORKER });
        assert_eq!(machine.state(), kept, "a new worker does not show what was never acknowledged");
        machine.reopen(BOOT);
        assert!(machine.state() == kept || machine.state().0 == kept.0 + 1, "{call:?} {after}");
        machine.harness.mutate(0, 200, None).unwrap();
    }
}

/// Mutations of a trial until there is no room; returns how many fitted.
fn fill(machine: &mut OnDisk) -> u64 {
    for number in 0u64.. {
        let lineage = &mut machine.harness.lineage;
        let room = lineage.require_room(300, 4096);
        if room.is_err() {
            assert_eq!(reason(room), Some(JournalReason::Full));
            assert!(lineage.require_log().is_ok(), "being full is no failure");
            return number;
        }
        machine.harness.mutate(0, number as u8, Some(1000)).unwrap();
    }
    unreachable!()
}

#[test]
fn on_a_full_device_a_trial_can_be_ended_either_way() {
    let mut machine = OnDisk::new(1 << 20);
    machine.harness.mutate(0, 255, None).unwrap();
    for round in 0u64..6 {
        let promoted = machine.harness.contents();
        let fitted = fill(&mut machine);
        assert!(fitted > 100, "{fitted}");
        let (generation, on_trial) = (machine.harness.lineage.generation(), machine.harness.contents());
        // A few returns inside the trial fit, but never so many that its end would not.
        (0..100).take_while(|_| machine.harness.roll_back(generation).is_ok()).count();
        let renewed = machine.harness.lineage.renew(ChangeRequest::default(), generation, 2000);
        assert_eq!(reason(renewed), Some(JournalReason::Full));
        let newest = machine.harness.lineage.generation();
        let expected = match round % 3 {
            0 => {
                machine.harness.lineage.promote(ChangeRequest::default(), newest).unwrap();
                on_trial
            }
            1 => {
                machine.harness.roll_back(machine.harness.lineage.promoted()).unwrap();
                promoted
            }
            _ => {
                machine.reopen(BOOT);
                assert!(machine.harness.lineage.ended_trial().is_some());
                promoted
            }
        };
        assert!(machine.harness.contents() == expected, "round {round}");
        assert_eq!(machine.harness.lineage.lease_until_us(), None);
        machine.reopen(WORKER);
        assert!(machine.harness.contents() == expected, "round {round}");
    }
}

#[test]
fn a_small_device_is_used_again_and_again() {
    let mut machine = OnDisk::new(1 << 20);
    let generations = walk(&mut machine, 4000, 20);
    assert!(machine.harness.lineage.first_made > 3000, "old generations were removed");
    assert!(machine.harness.lineage.first_made < generations - 50, "no more than needed");
}

#[test]
fn what_leaves_no_room_for_images_is_refused_before_anything_is_written() {
    let mut machine = OnDisk::new(256 << 10);
    machine.harness.mutate(0, 1, None).unwrap();
    let before = machine.disk.bytes();
    let refused = machine.harness.lineage.require_room(300, 256 << 10);
    assert_eq!(reason(refused), Some(JournalReason::Full));
    assert!(machine.disk.bytes() == before);
    machine.harness.lineage.require_room(300, 16 << 10).unwrap();
}

#[test]
fn a_trial_that_cannot_be_ended_stays_hidden_from_every_worker_of_the_boot() {
    let mut machine = OnDisk::new(1 << 20);
    machine.harness.mutate(0, 1, None).unwrap();
    let promoted = machine.state();
    machine.harness.mutate(100, 2, Some(1000)).unwrap();
    machine.reopen(Reopening { read_only: true, ..BOOT });
    assert_eq!((machine.state(), machine.harness.lineage.hides_trial()), (promoted.clone(), true));
    machine.reopen(BOOT);
    assert!(!machine.harness.lineage.hides_trial() && machine.harness.lineage.ended_trial().is_some());
}

#[test]
fn a_follower_stops_where_the_writer_has_failed() {
    for call in [Call::Write, Call::Flush] {
        let mut writer = OnDisk::new(1 << 20);
        writer.harness.mutate(0, 1, None).unwrap();
        let mut follower = OnDisk { disk: writer.disk.clone(), boot: writer.boot, harness: Harness::new(1, 1 << 20) };
        follower.reopen(WORKER);
        writer.harness.mutate(100, 2, None).unwrap();
        let kept = writer.state();
        writer.disk.fail(Some(Fault { call, after: 0, for_ever: false }));
        assert_eq!(reason(writer.harness.mutate(200, 3, None)), Some(JournalReason::Io));
        let lost_from = writer.harness.lineage.lost_from();
        let loss = lost_from.map(|from| JournalLoss { from, reason: JournalReason::Io });
        follower.harness.lineage.catch_up(loss, &quiet).unwrap();
        assert_eq!((follower.state(), follower.harness.lineage.lost_from()), (kept, lost_from), "{call:?}");
        assert_eq!(reason(follower.harness.mutate(0, 99, None)), Some(JournalReason::Io), "{call:?}");
        assert!(!follower.harness.lineage.durable());
    }
}

#[test]
fn a_trial_whose_end_fails_is_never_promoted_by_the_next_change() {
    let mut machine = OnDisk::new(1 << 20);
    machine.harness.mutate(0, 1, None).unwrap();
    machine.harness.mutate(0, 2, Some(1000)).unwrap();
    machine.harness.mutate(0, 3, None).unwrap();
    machine.disk.fail(Some(Fault { call: Call::Read, after: 0, for_ever: true }));
    assert!(machine.harness.lineage.expire_lease(ChangeRequest::default(), 1000, &quiet).is_err());
    machine.disk.fail(None);
    assert_eq!(reason(machine.harness.lineage.require_log()), Some(JournalReason::Io));
    assert!(machine.harness.mutate(0, 4, None).is_err());
    assert_eq!((machine.harness.lineage.promoted(), machine.harness.lineage.lost_from()), (1, Some(3)));
}
