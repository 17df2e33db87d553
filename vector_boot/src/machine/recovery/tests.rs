//! Workers of one boot, one after another or beside each other, with one disk and the same shared words.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{json, Value};

use super::*;
use crate::journal::device::simulated::{Call, Disk, Fault};
use crate::journal::device::{DeviceLog, Limits, Opening};
use crate::journal::JournalReason;
use crate::machine::{Arrival, Parts, Runtime};
use crate::protocol::{self, code, Blob, Method, Request};
use crate::rts::hex;
use crate::sys::memory::SharedWords;
use crate::tensor::tests::{file, load};
use crate::vitals::{Vitals, SHARED_WORDS};

struct Boot {
    disk: Disk,
    shared: Arc<SharedWords>,
    read_only: bool,
}

impl Boot {
    fn of(disk: &Disk, read_only: bool) -> Self {
        let (shared, _) = SharedWords::create(c"test", SHARED_WORDS).unwrap();
        Boot { disk: disk.clone(), shared: Arc::new(shared), read_only }
    }

    fn parts(&self, beside: bool) -> Parts {
        let vitals = Vitals::new(self.shared.words());
        let opening = Opening {
            file: [1; 32],
            model: &|| [2; 32],
            random: [3; 64],
            boot: vitals.boot(),
            writable: !self.read_only && vitals.journal_loss().is_none(),
            beside,
        };
        let limits = Limits { device_least: 64 << 10, ..Limits::SPECIFIED };
        let log = DeviceLog::open_limited(self.disk.handle(), &opening, limits);
        Parts {
            model: Ok(load(file("w", 1000, false)).unwrap()),
            runtime: Runtime::new(Err("a test".into())).unwrap(),
            journal: log.map(|log| Box::new(log) as _),
            shared: Arc::clone(&self.shared),
            build: "0".repeat(12),
            energy_limited: false,
            mutation_key: None,
        }
    }

    fn worker(&self) -> Machine {
        Machine::new(self.parts(false))
    }

    fn standby(&self) -> Machine {
        Machine::standby(self.parts(true))
    }
}

/// Sets the first element. Returns the code of the refusal, or whether the change is durable.
fn set(machine: &Machine, value: u8, lease_ms: Option<u64>) -> Result<bool, i64> {
    let edit = json!({"kind": "dense", "tensor": "w", "offset": 0, "blob": [0, 1]});
    let mut params = json!({"id": format!("{value:032x}"), "base_generation": machine.generation(), "confidence": 0.9,
                            "edits": [edit]});
    if let Some(ms) = lease_ms {
        params["lease_ms"] = ms.into();
    }
    let Value::Object(params) = params else { unreachable!() };
    let params = protocol::Params::new(params);
    let request = Request::new(1.into(), Method::Mutate, params, Blob::Bytes(vec![value].into()));
    let answer = machine.answer(&request, Arrival { at: Instant::now(), connection: 0 });
    answer.map(|reply| reply.result["durable"] == true).map_err(|error| error.code)
}

fn state(machine: &Machine) -> (u64, Option<u64>, bool) {
    (machine.generation(), machine.lease_left_us(), machine.is_durable())
}

#[test]
fn a_machine_whose_journal_takes_no_changes_fails_its_self_test() {
    let disk = Disk::blank(1 << 20);
    let boot = Boot::of(&disk, false);
    let worker = boot.worker();
    assert_eq!(worker.self_test(), Ok(()));
    worker.test_and_note();
    assert_eq!(Vitals::new(boot.shared.words()).self_test(), Some(true));
    drop(worker);
    let read_only = Boot::of(&disk, true);
    read_only.worker().test_and_note();
    let vitals = Vitals::new(read_only.shared.words());
    let said = vitals.boot_problem();
    assert!(vitals.self_test() == Some(false) && said.starts_with("the journal takes no changes: "), "{said}");
}

#[test]
fn a_trial_whose_end_cannot_be_written_is_shown_by_no_worker_of_the_boot() {
    let disk = Disk::blank(1 << 20);
    let first = Boot::of(&disk, false).worker();
    assert_eq!((set(&first, 1, None), set(&first, 2, Some(1 << 40))), (Ok(true), Ok(false)));
    drop(first);
    let read_only = Boot::of(&disk, true);
    for _ in 0..3 {
        let worker = read_only.worker();
        assert_eq!(state(&worker), (1, None, false));
        let standby = read_only.standby();
        assert_eq!(standby.position(), worker.position());
    }
    let failing = Boot::of(&disk, false);
    disk.fail(Some(Fault { call: Call::Flush, after: 1, for_ever: false })); // the first one is that of recovery
    for _ in 0..3 {
        assert_eq!(state(&failing.worker()), (1, None, false));
    }
    let booted = Boot::of(&disk, false).worker();
    assert_eq!((booted.lease_left_us(), booted.is_durable()), (None, true));
}

#[test]
fn a_worker_without_the_journal_does_not_replace_one_with_it() {
    let boot = Boot::of(&Disk::blank(1 << 20), false);
    let position = |machine: Machine| machine.position().unwrap();
    let old = position(boot.worker());
    let new = position(boot.standby());
    let journal = Err(JournalError::new(JournalReason::Io, "a test"));
    let blind = position(Machine::standby(Parts { journal, ..boot.parts(true) }));
    assert_eq!((new.replaces(&old), blind.replaces(&old), old.replaces(&blind)), (true, false, true));
}

#[test]
fn the_failure_of_a_device_is_known_to_the_worker_beside() {
    let boot = Boot::of(&Disk::blank(1 << 20), false);
    let old = boot.worker();
    assert_eq!(set(&old, 1, None), Ok(true));
    let new = boot.standby();
    // The new worker serves, fails, and dies.
    boot.disk.fail(Some(Fault { call: Call::Flush, after: 0, for_ever: false }));
    assert_eq!(set(&new, 2, None), Err(code::JOURNAL_FAILED));
    new.take_over();
    drop(new);
    old.catch_up().unwrap();
    old.take_over();
    assert_eq!((state(&old), set(&old, 3, None)), ((1, None, false), Err(code::JOURNAL_FAILED)));
    assert_eq!(set(&boot.worker(), 4, None), Err(code::JOURNAL_FAILED));
}

#[test]
fn a_worker_beside_flushes_nothing_until_it_takes_over() {
    let boot = Boot::of(&Disk::blank(1 << 20), false);
    let old = boot.worker();
    assert_eq!(set(&old, 1, None), Ok(true));
    let flushes = || boot.disk.calls(Call::Flush);
    let before = flushes();
    let new = boot.standby();
    assert_eq!(flushes(), before, "one that fails here would lose what the other worker writes");
    assert_eq!(set(&old, 2, None), Ok(true));
    let before = flushes();
    new.catch_up().unwrap();
    assert_eq!(flushes(), before);
    new.follow_last().unwrap();
    assert_eq!((flushes(), new.position()), (before + 1, old.position()));
    boot.disk.fail(Some(Fault { call: Call::Flush, after: 0, for_ever: false }));
    let other = boot.standby();
    assert!(other.follow_last().is_err());
}

#[test]
fn the_upload_of_a_change_that_was_lost_can_be_used_again() {
    let boot = Boot::of(&Disk::blank(1 << 20), false);
    let machine = boot.worker();
    let ask = |method, params: Value, blob| {
        let Value::Object(params) = params else { unreachable!() };
        let request = Request::new(1.into(), method, protocol::Params::new(params), blob);
        let answer = machine.answer(&request, Arrival { at: Instant::now(), connection: 0 });
        answer.map(|_| ()).map_err(|error| error.code)
    };
    let send = |value: u8| {
        let piece = json!({"upload": hex(&[value; 16]), "offset": 0, "total": 1});
        ask(Method::Upload, piece, Blob::Bytes(vec![value].into())).unwrap();
    };
    let change = |id: u8, value: u8| {
        let edit = json!({"kind": "dense", "tensor": "w", "offset": 0, "blob": [0, 1]});
        let params = json!({"id": hex(&[id; 16]), "base_generation": machine.generation(), "confidence": 0.9,
                            "edits": [edit]});
        let result = ask(Method::Mutate, params, Blob::Upload(hex(&[value; 16])));
        (result, machine.uploads().bytes(0, &[value; 16]).is_some())
    };
    send(1);
    assert_eq!(change(1, 1), (Ok(()), false));
    send(1);
    assert_eq!(change(2, 1), (Err(code::NO_CHANGE), true));
    send(2);
    boot.disk.fail(Some(Fault { call: Call::Flush, after: 0, for_ever: false }));
    for _ in 0..2 {
        assert_eq!(change(3, 2), (Err(code::JOURNAL_FAILED), true), "not that there is no such upload");
    }
}
