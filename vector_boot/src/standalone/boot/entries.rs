//! The child that reads the boot entries, and the one that takes the counter from an entry.

use std::fs::File;
use std::io;

use super::device::PartitionDevice;
use crate::esp::{Esp, EspError, Slot, Tries};
use crate::standalone::control::Control;
use crate::sys::{process, sandbox, signal};

/// The inherited descriptors: the socket for the answer, the ESP.
const ANSWER: i32 = process::FIRST_INHERITED;
const ESP: i32 = ANSWER + 1;

/// What a child does with the ESP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// It reads the entries.
    Read,
    /// It takes the counter from the entry of the slot.
    Bless,
}

impl Task {
    /// The words of the child's command line.
    pub fn words(self, slot: Slot) -> [String; 2] {
        let task = if self == Task::Read { "--read-entries" } else { "--bless" };
        [task.into(), slot.to_string()]
    }
}

/// Runs the child.
///
/// # Errors
/// If it could not answer.
pub fn main(task: Task, slot: &str) -> io::Result<()> {
    let slot = Some(slot).filter(|slot| slot.len() == 1).and_then(|slot| Slot::of_letter(slot.as_bytes()[0]));
    let slot = slot.ok_or(io::ErrorKind::InvalidInput)?;
    signal::die_of_faults();
    sandbox::bind_to_parent()?;
    let answer = process::inherited(ANSWER)?;
    let esp = PartitionDevice::whole(File::from(process::inherited(ESP)?))?;
    sandbox::restrict_syscalls()?;
    let said = carry_out(task, slot, esp).unwrap_or_else(|error| Control::EntriesFailed { text: error.to_string() });
    said.send(&answer)
}

fn carry_out(task: Task, slot: Slot, device: PartitionDevice) -> Result<Control, EspError> {
    let mut esp = Esp::open(device)?;
    if task == Task::Bless {
        esp.bless(slot)?;
    }
    let state = esp.boot_state(slot)?;
    let counter = match state.tries {
        Tries::Blessed => None,
        Tries::Left { left, .. } => Some(left),
    };
    Ok(Control::Entries { counter, alternative: state.alternative, fell_back: state.fell_back })
}
