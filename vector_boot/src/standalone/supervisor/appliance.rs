//! The supervisor as PID 1 of the appliance: from the start by the kernel to switching the power off.

use std::fs;
use std::os::fd::OwnedFd;
use std::sync::mpsc::channel;
use std::time::Duration;

use super::cmdline::{self, KernelSettings, OnFail};
use super::devices;
use super::disks::Slots;
use super::ports::Ports;
use super::probe::Probe;
use super::shared_files::{share, SharedFiles};
use super::trial::Trial;
use super::worker_process::{Resources, WorkerProcess};
use super::{console, disks, setup, End, Supervisor, SupervisorParts};
use crate::hw_mmio::{word, Page};
use crate::standalone::worker::Options;
use crate::standalone::EMBEDDED_MODEL;
use crate::sys::signal::Signals;
use crate::sys::{self, power};
use crate::vitals::Vitals;

const SYNC_LIMIT: Duration = Duration::from_secs(30);

/// Runs the machine. Never returns: PID 1 must not exit.
pub fn main() -> ! {
    let mut on_fail = OnFail::PowerOff;
    // A panic below is a failure like any other: it is reported, then `onfail` is carried out.
    let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&mut on_fail)))
        .unwrap_or_else(|_| Err("the supervisor panicked".into()));
    let end = end.unwrap_or_else(|why| {
        console::say(&format!("FAILED: {why}"));
        match on_fail {
            OnFail::PowerOff => End::PowerOff,
            OnFail::Reboot => End::Reboot,
            OnFail::Hold => {
                console::say("the machine stays on, as vector_boot.onfail=hold says");
                hold()
            }
        }
    });
    end_machine(end)
}

fn run(on_fail: &mut OnFail) -> Result<End, String> {
    let start_us = sys::monotonic_us();
    let signals = Signals::take().map_err(|error| format!("signals cannot be received: {error}"))?;
    let mounted = setup::mount_all();
    console::open();
    console::say_phase("start", 0);
    mounted?;
    let (settings, messages) = cmdline::parse(&fs::read_to_string("/proc/cmdline").unwrap_or_default());
    *on_fail = settings.on_fail;
    messages.iter().for_each(|message| console::say(message));
    setup::check_archive()?;
    let executable = Probe::start(true)?; // hashes while modules are loaded
    setup::load_modules(setup::Modules::Early);
    if settings.verity.is_some() {
        setup::load_modules(setup::Modules::Verity);
    }
    setup::apply_settings();
    let SharedFiles { words, words_file, journal } = share(settings.period, start_us)?;
    Page::new(words.words()).set(word::SLOT, settings.slot);
    let mounts_us = sys::monotonic_us() - start_us;
    Vitals::new(words.words()).reach_phase(1, mounts_us);
    console::say_phase("mounts", mounts_us);
    let (resources, slots) = find_resources(&settings, words_file, journal)?;
    let mut supervisor = Supervisor::new(SupervisorParts {
        signals,
        period: settings.period,
        shared: words,
        worker: WorkerProcess::new(resources),
        executable,
        probation: settings.probation,
        trial: slots.map(Trial::new),
        appliance: true,
    });
    if let Err(error) = supervisor.bring_up() {
        supervisor.enter_emergency(&error)?;
    }
    if let Err(error) = sys::process::become_realtime() {
        console::say(&format!("no real-time priority, beats may come late: {error}"));
    }
    let end = supervisor.beat();
    console::say("stopping");
    supervisor.stop();
    Ok(end)
}

/// Finds the model and the evolution ports, and the slots of the disk that the model is on.
fn find_resources(
    settings: &KernelSettings,
    shared: OwnedFd,
    journal: OwnedFd,
) -> Result<(Resources, Option<Slots>), String> {
    let (found, why) = match disks::find(settings.slot, settings.verity.as_ref()) {
        Ok(found) => (Some(found), String::new()),
        Err(why) => (None, why),
    };
    let embedded = found.is_none() && !EMBEDDED_MODEL.is_empty();
    if found.is_none() && !embedded {
        return Err(format!("no RTS image: {why}"));
    }
    let (model, checked, state, slots) = match found {
        Some(disks) => (Some(disks.rts), disks.checked, disks.state, disks.slots),
        None => (None, None, disks::state_by_serial(), None),
    };
    let (ports, listens) = match Ports::find() {
        Some(ports) => (ports, false),
        None => {
            console::say("no evolution port: the machine beats, but no client can reach it");
            let socket = devices::unreachable_port()
                .map_err(|error| format!("no socket can be made instead of the port: {error}"))?;
            (Ports::only(socket), true)
        }
    };
    let state = state.and_then(|opened| {
        opened.inspect_err(|error| console::say(&format!("the state disk is not used: {error}"))).ok()
    });
    let (fault, energy_unlimited) = (settings.fault, !settings.energy);
    let options = Options {
        listens,
        embedded,
        fault,
        appliance: true,
        energy_unlimited,
        trust: setup::trust()?,
        ..Options::default()
    };
    let resources = Resources::new(options, shared, ports, journal).with_model(model, None).with_state(state);
    Ok((Resources { checked, ..resources }, slots))
}

/// Stays on for good, so that the console can be read.
fn hold() -> ! {
    loop {
        while sys::process::reap().is_some() {}
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Writes dirty pages to the devices and switches off.
fn end_machine(end: End) -> ! {
    let (done, synced) = channel();
    let syncing = std::thread::Builder::new().spawn(move || {
        power::sync();
        let _ = done.send(());
    });
    if syncing.is_ok() && synced.recv_timeout(SYNC_LIMIT).is_err() {
        console::say("writing to the devices takes longer than 30 s and is not waited for");
    }
    console::say(if end == End::Reboot { "rebooting" } else { "powering off" });
    let error = power::end_machine(end == End::Reboot);
    console::say(&format!("the kernel did not end the machine: {error}"));
    hold()
}
