//! Level B: each call of a history fails, once and for ever.

use std::collections::BTreeMap;

use vector_boot::journal::device::simulated::{Call, Cut, Disk, Fault};

use crate::cuts::{reboot, Tally};
use crate::history::{calls, World};
use crate::random::Random;
use crate::tiny::{Boot, DEVICE};

/// Steps of a history.
const STEPS: usize = 40;
/// Contents that a cut of the power leaves, of each fault.
pub const CUTS: u64 = 6;

/// The faults of the history with this seed.
///
/// # Errors
/// What the machine does wrong without any.
pub fn all(seed: u64) -> Result<Vec<Fault>, String> {
    let calls: Vec<(Call, u64)> = calls(seed, STEPS)?.into();
    let faults = calls.into_iter().flat_map(|(call, count)| {
        (0..count).flat_map(move |after| [false, true].map(|for_ever| Fault { call, after, for_ever }))
    });
    Ok(faults.collect())
}

/// Carries out the history with one fault; then the power is cut.
pub fn run(seed: u64, fault: Fault, tally: &mut Tally) {
    tally.histories += 1;
    if let Err(why) = history(seed, fault, tally) {
        tally.violations.push(format!("seed {seed}, {fault:?}: {why}"));
    }
}

fn history(seed: u64, fault: Fault, tally: &mut Tally) -> Result<(), String> {
    let mut world = World::new(seed, Some(fault))?;
    for step in 0..STEPS {
        world.step().map_err(|why| format!("step {step}: {why}"))?;
    }
    world.disk().fail(None);
    let done = judge(world, seed, fault.after)?;
    tally.states += CUTS;
    done.into_iter().for_each(|(what, count)| *tally.done.entry(what).or_default() += count);
    Ok(())
}

/// Whether the next open sector is written, in the cut with this number: all, none, or random ones.
pub fn is_written(number: u64, random: &mut Random) -> bool {
    match number {
        0 => true,
        1 => false,
        _ => random.next() & 1 == 1,
    }
}

/// Cuts the power of a machine that had a fault; or boots it again without a cut. Returns what was done in its history.
///
/// # Errors
/// What is wrong then.
pub fn judge(mut world: World, seed: u64, number: u64) -> Result<BTreeMap<&'static str, u64>, String> {
    let possible = world.possible();
    let events = world.disk().record();
    let cut = Cut::new(vec![0; DEVICE], &events, events.len());
    let mut random = Random::new(seed ^ number);
    for number in 0..CUTS {
        let bytes = cut.contents(|_| is_written(number, &mut random));
        let boot = Boot { number: 0, nonce: (seed << 32) | (1 << 30) | number, lost_from: None };
        reboot(&Disk::new(bytes), &possible, boot).map_err(|why| format!("after a cut: {why}"))?;
    }
    world.reboot().map_err(|why| format!("after the fault has gone: {why}"))?;
    if world.is_refused() {
        return Err("changes are still refused after a reboot without faults".into());
    }
    Ok(world.finish().done)
}
