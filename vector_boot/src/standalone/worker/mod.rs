//! The worker: unprivileged, it owns the evolution port and the model, and answers requests.
//!
//! It inherits its descriptors from the supervisor: 3 the control socket, 4 the shared words, 5 the port or listening
//! socket, 6 the model's file if there is one.

mod link;
mod model;
mod options;
mod service;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;

use super::control::Control;
use crate::machine::Machine;
use crate::sys::memory::SharedWords;
use crate::sys::{process, sandbox, signal};
use crate::vitals::SHARED_WORDS;
use link::Link;
pub use options::Options;

/// Descriptors the supervisor hands over, in order.
const CONTROL: i32 = process::FIRST_INHERITED;
const SHARED: i32 = CONTROL + 1;
const PORT: i32 = CONTROL + 2;
const MODEL: i32 = CONTROL + 3;

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
    let inherit =
        |fd: i32| process::inherited(fd).map_err(|error| format!("descriptor {fd} was not handed over: {error}"));
    signal::die_of_faults();
    sandbox::bind_to_parent().map_err(|error| format!("cannot bind to the supervisor: {error}"))?;
    let control = inherit(CONTROL)?;
    let shared = inherit(SHARED)?;
    let shared = SharedWords::attach(&shared, SHARED_WORDS).map_err(|error| format!("no shared words: {error}"))?;
    let link = Link::new(inherit(PORT)?, options.listens).map_err(|error| format!("the port fails: {error}"))?;
    let _ = Control::RuntimeReady.send(&control);
    let model = load(&options, &control);
    let fault_allowed = options.fault && !model.as_ref().is_ok_and(|model| model.signed);
    let machine = Machine::new(model.map(|model| model.store), Arc::new(shared), &options.build);
    let service = service::Service::start(machine, link, control, fault_allowed, options.appliance)
        .map_err(|error| error.to_string())?;
    sandbox::restrict_syscalls().map_err(|error| format!("cannot restrict system calls: {error}"))?;
    service.run();
    Ok(())
}

/// Loads the model and reports how that went.
fn load(options: &Options, control: &OwnedFd) -> Result<model::Model, String> {
    let model = match &options.emergency {
        Some(why) => Err(why.clone()),
        None if options.embedded => model::embedded(),
        None => process::inherited(MODEL).map_err(|error| error.to_string()).and_then(|fd| model::open(File::from(fd))),
    };
    let report = match &model {
        Ok(model) => Control::TensorsReady { tensors: model.store.tensors().len() as u64 },
        Err(text) => Control::Failed { text: text.clone() },
    };
    let _ = report.send(control);
    model
}
