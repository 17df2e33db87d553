//! The probe run: an executable shows that its runtime works before it becomes a worker. What it needs is set up as a
//! worker does it, then it says which versions it speaks, and ends.

use std::io;

use super::handover;
use crate::machine::Runtime;
use crate::protocol;
use crate::standalone::control::Control;
use crate::sys::{process, sandbox, signal};

/// Runs the probe; the supervisor waits at descriptor 3.
///
/// # Errors
/// If the runtime cannot be set up, or the answer not be sent.
pub fn main() -> io::Result<()> {
    signal::die_of_faults();
    sandbox::bind_to_parent()?;
    let answer = process::inherited(process::FIRST_INHERITED)?;
    let _runtime = Runtime::new(Err("no model is loaded in a probe run".into()))?;
    sandbox::restrict_syscalls()?;
    Control::Probed { protocol: protocol::VERSION, state: handover::VERSION }.send(&answer)
}
