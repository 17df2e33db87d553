//! The worker: an unprivileged process that owns the evolution port and the model, and answers requests.
//!
//! It inherits descriptors from the supervisor: 3 the control socket, 4 the shared words, 5 the journal in memory, then a
//! socket to the worker that it takes over from, if it is to, then the ports or the listening socket, then the state device
//! and the model's file if there are such.

mod connection;
mod connections;
mod journal;
mod link;
mod options;
mod runner;
mod service;
mod threads;
mod turns;

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::control::Control;
use super::EMBEDDED_MODEL;
use crate::journal::{JournalError, JournalReason};
use crate::machine::{Machine, Parts, Runtime};
use crate::model_file::{self, LoadedModel};
use crate::rts::hex;
use crate::sys::memory::SharedWords;
use crate::sys::ready::{wait, Interest};
use crate::sys::watch::Watch;
use crate::sys::{landlock, limits, process, sandbox, signal};
use crate::vitals::{Vitals, SHARED_WORDS};
use connections::Connections;
pub use options::{Options, StateAccess};

/// The inherited descriptors, in order.
const CONTROL: i32 = process::FIRST_INHERITED;
const SHARED: i32 = CONTROL + 1;
const JOURNAL: i32 = CONTROL + 2;
const NEXT: i32 = CONTROL + 3;

/// Freed memory that is kept: of the four pieces of an upload that a client sends ahead, and one more.
#[cfg(target_env = "gnu")]
const KEPT_FREED_BYTES: i32 = 5 << 20;

/// Runs the worker until the supervisor ends it.
pub fn main(words: &[&str]) -> ExitCode {
    match start(words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("vector_boot: worker: {why}");
            ExitCode::FAILURE
        }
    }
}

fn start(words: &[&str]) -> Result<(), String> {
    let options = Options::parse(words)?;
    #[cfg(target_env = "gnu")]
    crate::sys::memory::keep_freed(KEPT_FREED_BYTES);
    let inherit = |fd: i32| process::inherited(fd).map_err(|error| format!("descriptor {fd} is not open: {error}"));
    signal::die_of_faults();
    signal::leave_terminal_to_parent();
    sandbox::bind_to_parent().map_err(|error| format!("cannot bind to the supervisor: {error}"))?;
    let processors = Runtime::processors();
    confine()?; // before any thread is started, since it holds for a thread and what that starts, and any input is read
    let control = inherit(CONTROL)?;
    let shared = inherit(SHARED)?;
    let shared = SharedWords::attach(&shared, SHARED_WORDS)
        .map_err(|error| format!("the shared words cannot be mapped: {error}"))?;
    let old = options.standby.then(|| inherit(NEXT)).transpose()?;
    let first_port = NEXT + i32::from(options.standby);
    let ports = (first_port..).take(options.ports).map(inherit).collect::<Result<Vec<_>, _>>()?;
    let connections =
        Connections::new(ports, options.listens).map_err(|error| format!("the port cannot be used: {error}"))?;
    let _ = Control::RuntimeReady.send(&control);
    let journal = inherit(JOURNAL)?;
    let has_state = options.state != StateAccess::None;
    let behind_ports = first_port + options.ports as i32;
    let state = has_state.then(|| inherit(behind_ports)).transpose()?;
    let shared = Arc::new(shared);
    let (model, watch) = load(&options, behind_ports + i32::from(has_state), &control);
    // The vitals are those of the worker that serves.
    let progress = || {
        if old.is_none() {
            Vitals::new(shared.words()).make_progress()
        }
    };
    let Some(Orders { executable, emergency }) = wait_for_orders(&control, &progress) else {
        return Ok(());
    };
    let fault_allowed = options.fault && !model.as_ref().is_ok_and(|model| model.signed);
    let mutation_key = model.as_ref().ok().and_then(|model| model.mutation_key.clone());
    if model.as_ref().is_ok_and(|model| model.mutation_key.is_none()) {
        Vitals::new(shared.words()).set_keyless();
    }
    let no_network = |why: &String| Err(why.clone());
    let (model, network, journal) = match (emergency, model) {
        (Some(why), _) | (None, Err(why)) => {
            let none = JournalError::new(JournalReason::Io, "there is no model");
            (Err(why.clone()), no_network(&why), Err(none))
        }
        (None, Ok(model)) => {
            let journal = journal::open(&options, journal, state, &model, &shared, &progress);
            (Ok(model.store), model.network, journal)
        }
    };
    let runtime = Runtime::with_threads(network, processors)
        .map_err(|error| format!("the network's threads cannot be started: {error}"))?;
    let build = hex(&executable[..6]);
    let energy_limited = !options.energy_unlimited;
    let parts = Parts { model, runtime, journal, shared: Arc::clone(&shared), build, energy_limited, mutation_key };
    let machine = if old.is_some() { Machine::standby(parts) } else { Machine::new(parts) };
    let settings = service::ServiceSettings { fault_allowed, appliance: options.appliance };
    let mut service =
        service::Service::start(machine, connections, control, watch, settings).map_err(|error| error.to_string())?;
    limits::limit_worker().map_err(|error| format!("the limits cannot be set: {error}"))?;
    sandbox::restrict_syscalls().map_err(|error| format!("cannot restrict system calls: {error}"))?;
    if old.is_some_and(|old| !service.take_over(&old)) {
        return Ok(());
    }
    service.send_notices();
    service.send_to_supervisor(&Control::Serving);
    service.run()
}

/// Gives up all files that are not open. A kernel without Landlock leaves that to the filter of system calls.
fn confine() -> Result<(), String> {
    match landlock::deny_files() {
        Ok(Some(_)) => (),
        Ok(None) => {
            eprintln!("vector_boot: worker: no Landlock in this kernel: the filter of system calls denies files")
        }
        Err(error) => return Err(format!("files cannot be denied: {error}")),
    }
    Ok(())
}

/// Loads the model and reports the result to the supervisor. Also returns what notices changes of the model's file.
fn load(options: &Options, file: i32, control: &OwnedFd) -> (Result<LoadedModel, String>, Option<Watch>) {
    let (model, watch) = match options {
        Options { without_model: true, .. } => (Err("the supervisor has withdrawn the model".to_string()), None),
        Options { embedded: true, .. } => (model_file::from_memory(EMBEDDED_MODEL), None),
        _ => match open_watched(file) {
            Ok((file, watch)) => (model_file::open(file, options.trust.as_ref()), watch),
            Err(error) => (Err(format!("the model cannot be read: {error}")), None),
        },
    };
    let report = match &model {
        Ok(model) => Control::TensorsReady { tensors: model.store.tensors().len() as u64, binary: model.binary_sha256 },
        Err(text) => Control::Failed { text: text.clone() },
    };
    let _ = report.send(control);
    (model, watch)
}

/// The model's file, watched from before it is read.
fn open_watched(fd: i32) -> io::Result<(File, Option<Watch>)> {
    let file = File::from(process::inherited(fd)?);
    let watch = Watch::new(&file)?;
    Ok((file, watch))
}

/// What the supervisor says once it knows the report on the model.
struct Orders {
    /// SHA-256 of the running executable.
    executable: [u8; 32],
    /// Why the machine is in emergency mode, if it is.
    emergency: Option<String>,
}

/// Waits until the supervisor lets this worker serve; `None` if the supervisor has ended.
fn wait_for_orders(control: &OwnedFd, progress: &dyn Fn()) -> Option<Orders> {
    loop {
        progress();
        let _ = wait(&mut [Interest::read(control.as_raw_fd())], Duration::from_millis(100));
        match Control::receive(control) {
            Ok(Some(Control::Serve { executable, emergency })) => return Some(Orders { executable, emergency }),
            Ok(_) => (),
            Err(error) if error.kind() == ErrorKind::WouldBlock => (),
            Err(_) => return None,
        }
    }
}
