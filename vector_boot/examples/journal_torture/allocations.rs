//! Level B: each allocation of a history fails, once and for ever. A worker without memory aborts, so each history runs in a
//! process of its own, and what that has told before its end is what the next worker and the next boot find.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, Output};

use vector_boot::journal::device::simulated::Cut;
use vector_boot::sys::allocations::{self, Fault};

use crate::cuts::{Checker, Tally};
use crate::faults::{self, CUTS};
use crate::history::{Acknowledged, History, World};
use crate::random::Random;
use crate::tiny::{DEVICE, NOT_LOADED};
use crate::witness::{self, Told, Witness};

/// Steps of a history.
const STEPS: usize = 40;
/// Exit code of a process whose machine could not begin.
const NOT_BEGUN: u8 = 3;

/// A history without a fault.
pub struct Subject {
    seed: u64,
    history: History,
    count: u64,
}

fn carry_out(world: &mut World) -> Result<(), String> {
    (0..STEPS).try_for_each(|step| world.step().map_err(|why| format!("step {step}: {why}")))
}

/// The history with this seed.
///
/// # Errors
/// What the machine does wrong.
pub fn subject(seed: u64) -> Result<Subject, String> {
    allocations::fail(None);
    let mut world = World::new(seed, None)?;
    carry_out(&mut world)?;
    Ok(Subject { seed, count: allocations::count(), history: world.finish() })
}

impl Subject {
    /// All faults.
    pub fn faults(&self) -> Vec<Fault> {
        (0..self.count).flat_map(|after| [false, true].map(|for_ever| Fault { after, for_ever })).collect()
    }

    /// Carries the history out with one of them, in another process.
    pub fn run(&self, fault: Fault, tally: &mut Tally) {
        tally.histories += 1;
        match self.outcome(fault) {
            Ok(what) => {
                *tally.done.entry(what).or_default() += 1;
                tally.states += CUTS;
            }
            Err(why) => tally.violations.push(format!("seed {}, allocation, {fault:?}: {why}", self.seed)),
        }
    }

    fn outcome(&self, fault: Fault) -> Result<&'static str, String> {
        let name = if fault.for_ever { "--allocations-from" } else { "--allocation" };
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let command = ["--level", "B", "--seed", &self.seed.to_string(), name, &fault.after.to_string()];
        // A backtrace of each end would take longer than the rest.
        let output = Command::new(program)
            .args(command)
            .env("RUST_BACKTRACE", "0")
            .output()
            .map_err(|error| error.to_string())?;
        let what = match (output.status.code(), output.status.signal()) {
            (Some(0), _) => return Ok("allocation: answered"),
            (Some(code), _) if code == i32::from(NOT_BEGUN) => "allocation: the machine did not begin",
            (_, Some(libc::SIGABRT)) => "allocation: aborted",
            _ => return Err(told_by(&output)),
        };
        let told = witness::read(&output.stdout)?;
        self.check(&told, fault).map(|()| what)
    }

    /// What a process has told before its end must be the beginning of the history; another machine finds that.
    fn check(&self, told: &Told, fault: Fault) -> Result<(), String> {
        if !self.history.events.starts_with(&told.events) {
            return Err("the process has written something else".into());
        }
        let told_of = |known: &Acknowledged| (known.events, known.state, known.boot);
        let count = told.acknowledged.len() + 1; // the first one is that nothing was done
        let known = self.history.acknowledged.get(..count).ok_or("the process has acknowledged more")?;
        if !known[1..].iter().map(told_of).eq(told.acknowledged.iter().copied()) {
            return Err("the process has acknowledged something else".into());
        }
        let known = known[count - 1];
        let mut checker = Checker::new(&self.history, self.seed);
        let cut = Cut::new(vec![0; DEVICE], &told.events, told.events.len());
        let mut random = Random::new(self.seed ^ fault.after);
        let first = told.events.len() as u64 + fault.after;
        for number in 0..CUTS {
            let bytes = cut.contents(|_| faults::is_written(number, &mut random));
            if number == 0 && known.boot != 0 {
                checker.check_restart(&bytes, checker.states(known), known)?;
            }
            let again = (first + number).is_multiple_of(16);
            checker.check_known(bytes, known, again).map_err(|why| format!("after a cut: {why}"))?;
        }
        Ok(())
    }
}

fn told_by(output: &Output) -> String {
    format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())
}

/// Carries out a history of which this allocation fails, and tells on the standard output what it does.
pub fn carry_out_with(seed: u64, fault: Fault) -> ExitCode {
    match carried_out(seed, fault) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) if allocations::failures() > 0 && why.contains(NOT_LOADED) => ExitCode::from(NOT_BEGUN),
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn carried_out(seed: u64, fault: Fault) -> Result<(), String> {
    let witness = Witness::new().map_err(|error| error.to_string())?;
    allocations::fail(Some(fault));
    let mut world = World::watched(seed, None, Some(witness))?;
    carry_out(&mut world)?;
    allocations::fail(None);
    faults::judge(world, seed, fault.after).map(|_| ())
}
