//! Crash tests of the journal on a state device, on the host: `journal_torture --level A|B|C|G [--states N] [--seed S]
//! [--threads T] [--bug NAME]`. They drive the weights with their history over a simulated disk, and compare every recovery with an
//! oracle that knows the requests alone. One line of JSON tells the result; the exit code is 1 after a violation.
//!
//! A: every state that a cut of the power can leave, until so many were tried. B: each call of the device and each allocation
//! fails, once and for ever. C: each bit is flipped. With fewer states than these have, they are spread over all. G: each
//! planted bug is found by the runs that find nothing without it.
//!
//! With `--allocation N` or `--allocations-from N` this is the process of level B in which that allocation fails.

mod allocations;
mod bits;
mod cuts;
mod expected;
mod faults;
mod history;
mod random;
mod tiny;
mod witness;

use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use cuts::Tally;
use faults::CUTS;
use serde_json::{json, Value};
use vector_boot::journal::device::planted;
use vector_boot::sys::allocations::{FailingAllocator, Fault};

/// An allocation of a history can fail.
#[global_allocator]
static ALLOCATOR: FailingAllocator = FailingAllocator;

/// Histories of level B.
const HISTORIES: u64 = 8;
/// States of level A in which a planted bug must be found.
const PLANTED_STATES: u64 = 20_000;
/// And of level B.
const PLANTED_FAULTS: u64 = 20_000;

struct Plan {
    level: String,
    states: u64,
    seed: u64,
    threads: u64,
    /// The only bug that level G plants.
    bug: Option<String>,
    /// The allocation that fails in this process, which carries out one history of level B.
    allocation: Option<Fault>,
}

fn main() -> ExitCode {
    let Some(plan) = plan() else {
        eprintln!("usage: journal_torture --level A|B|C|G [--states N] [--seed S] [--threads T] [--bug NAME]");
        return ExitCode::from(2);
    };
    if let Some(fault) = plan.allocation {
        return allocations::carry_out_with(plan.seed, fault);
    }
    let started = Instant::now();
    let (mut summary, passed) = match plan.level.as_str() {
        "A" => told(&cuts(&plan, plan.states)),
        "B" => {
            let mut tally = faults(&plan, plan.states);
            tally.add(allocations(&plan, plan.states));
            told(&tally)
        }
        "C" => told(&bits(&plan)),
        _ => planted(&plan),
    };
    summary["level"] = plan.level.into();
    summary["seed"] = plan.seed.into();
    summary["threads"] = plan.threads.into();
    summary["seconds"] = (started.elapsed().as_millis() as f64 / 1000.0).into();
    println!("{summary}");
    if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn plan() -> Option<Plan> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let mut plan = Plan { level: String::new(), states: 1_000_000, seed: 1, threads, bug: None, allocation: None };
    for pair in arguments.chunks(2) {
        let [name, value] = pair else { return None };
        match name.as_str() {
            "--level" => plan.level.clone_from(value),
            "--states" => plan.states = value.parse().ok()?,
            "--seed" => plan.seed = value.parse().ok()?,
            "--threads" => plan.threads = value.parse().ok().filter(|threads| *threads > 0)?,
            "--bug" => plan.bug = Some(value.clone()),
            "--allocation" => plan.allocation = Some(Fault { after: value.parse().ok()?, for_ever: false }),
            "--allocations-from" => plan.allocation = Some(Fault { after: value.parse().ok()?, for_ever: true }),
            _ => return None,
        }
    }
    ["A", "B", "C", "G"].contains(&plan.level.as_str()).then_some(plan)
}

/// Runs a part of the work on each thread, and adds up what they tell.
fn on_threads(threads: u64, work: impl Fn(u64, &mut Tally) + Sync) -> Tally {
    let mut sum = Tally::default();
    std::thread::scope(|scope| {
        let part = |number| {
            let work = &work;
            scope.spawn(move || {
                let mut tally = Tally::default();
                work(number, &mut tally);
                tally
            })
        };
        let parts: Vec<_> = (0..threads).map(part).collect();
        for part in parts {
            match part.join() {
                Ok(tally) => sum.add(tally),
                Err(_) => sum.violations.push("a thread panicked".into()),
            }
        }
    });
    sum
}

fn cuts(plan: &Plan, states: u64) -> Tally {
    let tried = AtomicU64::new(0);
    on_threads(plan.threads, |number, tally| {
        let seeds = (plan.seed + number..).step_by(plan.threads as usize);
        cuts::run(seeds, states, &tried, tally);
    })
}

/// Tries all of these, or as many as are asked for, spread over all: the part of a thread.
fn each<T>(all: Vec<T>, asked: u64, (number, threads): (u64, u64), tally: &mut Tally, try_it: impl Fn(T, &mut Tally)) {
    let step = (all.len() as u64 / asked.max(1)).max(1) as usize;
    for one in all.into_iter().step_by(step).skip(number as usize).step_by(threads as usize) {
        if tally.is_enough() {
            return;
        }
        try_it(one, tally);
    }
}

/// Every call of the histories of level B fails.
fn faults(plan: &Plan, states: u64) -> Tally {
    on_threads(plan.threads, |number, tally| {
        let of = |seed| Ok(faults::all(seed)?.into_iter().map(move |fault| (seed, fault)).collect::<Vec<_>>());
        let all: Result<Vec<_>, String> = histories(plan).map(of).collect();
        match all {
            Ok(all) => each(all.concat(), states / CUTS, (number, plan.threads), tally, |(seed, fault), tally| {
                faults::run(seed, fault, tally);
            }),
            Err(why) => tally.violations.push(why),
        }
    })
}

/// Every allocation of the same histories fails.
fn allocations(plan: &Plan, states: u64) -> Tally {
    on_threads(plan.threads, |number, tally| {
        let subjects: Result<Vec<_>, String> = histories(plan).map(allocations::subject).collect();
        match subjects {
            Ok(subjects) => {
                let of = |subject| allocations::Subject::faults(subject).into_iter().map(move |fault| (subject, fault));
                let all = subjects.iter().flat_map(of).collect();
                each(all, states / CUTS, (number, plan.threads), tally, |(subject, fault), tally| {
                    subject.run(fault, tally);
                });
            }
            Err(why) => tally.violations.push(why),
        }
    })
}

/// The seeds of the histories of level B.
fn histories(plan: &Plan) -> std::ops::Range<u64> {
    plan.seed..plan.seed + HISTORIES
}

fn bits(plan: &Plan) -> Tally {
    on_threads(plan.threads, |number, tally| match bits::subject(plan.seed) {
        Ok(subject) => each(subject.bits(), plan.states, (number, plan.threads), tally, |bit, tally| {
            subject.flip(bit, tally);
        }),
        Err(why) => tally.violations.push(why),
    })
}

/// The two levels that find bugs, with the same seeds every time.
fn search(plan: &Plan) -> Tally {
    let mut tally = cuts(plan, PLANTED_STATES.min(plan.states));
    if tally.violations.is_empty() {
        tally.add(faults(plan, PLANTED_FAULTS.min(plan.states)));
    }
    tally
}

fn planted(plan: &Plan) -> (Value, bool) {
    let clean = search(plan);
    let (mut found, mut passed) = (Vec::new(), clean.violations.is_empty());
    let asked = |(_, name): &(_, &str)| plan.bug.as_ref().is_none_or(|bug| bug == name);
    for (bug, name) in planted::ALL.into_iter().filter(asked) {
        planted::plant(Some(bug));
        let tally = search(plan);
        planted::plant(None);
        passed &= !tally.violations.is_empty();
        found.push(json!({"bug": name, "found": tally.violations.first(), "states": tally.states}));
    }
    let summary = json!({"clean": told(&clean).0, "planted": found});
    (summary, passed)
}

fn told(tally: &Tally) -> (Value, bool) {
    let summary = json!({
        "states": tally.states,
        "histories": tally.histories,
        "done": tally.done,
        "violations": tally.violations,
    });
    (summary, tally.violations.is_empty())
}
