//! Lines for people. Writing them never blocks and never fails: the console is evidence, not a channel.

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

/// One line. It is written in one piece, so that no other writer's text gets between.
pub fn say(text: &str) {
    write(&format!("vector_boot: {text}\n"));
}

/// The machine-readable line of a phase.
pub fn say_phase(name: &str, us: u64) {
    write(&format!("vector_boot: phase={name} t_us={us}\n"));
}

fn can_write(fd: i32) -> bool {
    let mut look = [Interest::read_write(fd, false, true)];
    wait(&mut look, Duration::ZERO).is_ok() && look[0].is_ready()
}

fn write(line: &str) {
    let _ = match OUTPUT.get() {
        Some(mut file) => file.write_all(line.as_bytes()),
        // Others share this description, so it stays blocking; a reader that has stopped costs us the line.
        None if can_write(libc::STDOUT_FILENO) => std::io::stdout().write_all(line.as_bytes()),
        None => Ok(()),
    };
}
