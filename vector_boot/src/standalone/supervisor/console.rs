//! The console's lines. Writing them never blocks and never fails; a line that cannot be written is dropped.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::OnceLock;
use std::time::Duration;

use crate::sys::ready::{wait, Interest};

static OUTPUT: OnceLock<std::fs::File> = OnceLock::new();

/// Opens the machine's console, or the kernel log where there is none.
pub fn open() {
    for path in ["/dev/console", "/dev/kmsg"] {
        let file = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
        if let Ok(file) = file {
            let _ = OUTPUT.set(file);
            return;
        }
    }
}

/// Writes one line with a single call, so that other writers' text cannot come between.
pub fn say(text: &str) {
    write(&format!("vector_boot: {text}\n"));
}

/// Writes the machine-readable line of a phase.
pub fn say_phase(name: &str, us: u64) {
    write(&format!("vector_boot: phase={name} t_us={us}\n"));
}

fn can_write(fd: i32) -> bool {
    let mut interests = [Interest::read_write(fd, false, true)];
    wait(&mut interests, Duration::ZERO).is_ok() && interests[0].is_ready()
}

fn write(line: &str) {
    let _ = match OUTPUT.get() {
        Some(mut file) => file.write_all(line.as_bytes()),
        // Other processes share the open file, so it stays blocking; a reader that has stopped loses the line.
        None if can_write(libc::STDOUT_FILENO) => std::io::stdout().write_all(line.as_bytes()),
        None => Ok(()),
    };
}
