//! The short-lived child that hashes the executable while the machine starts.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use super::worker_process::{own_executable, WORKER_USER};
use crate::container_file::ContainerFile;
use crate::sys::process;
use crate::sys::ready::{wait, Interest};

/// Hashing takes a fraction of a second; a host that runs many machines may let this one wait for much longer.
const DEADLINE: Duration = Duration::from_secs(120);

/// Runs the child: it writes the SHA-256, 32 bytes, to descriptor 3.
///
/// # Errors
/// If the digest cannot be computed or written.
pub fn main() -> io::Result<()> {
    let mut out = File::from(process::inherited(process::FIRST_INHERITED)?);
    let own = ContainerFile::open(Path::new("/proc/self/exe"))?;
    match out.write_all(&own.sha256(0, own.len)?) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()), // the supervisor has ended
        written => written,
    }
}

/// A running child.
pub struct Probe {
    from_child: io::PipeReader,
    pid: u32,
    deadline: Instant,
}

impl Probe {
    /// Starts the child.
    ///
    /// # Errors
    /// One sentence if it cannot be started.
    pub fn start(appliance: bool) -> Result<Self, String> {
        let (from_child, to_parent) = io::pipe().map_err(failed)?;
        let mut command = own_executable();
        command.arg("--hash-executable");
        let user = appliance.then_some(WORKER_USER);
        let child = process::spawn(&mut command, &[to_parent.as_fd()], user).map_err(failed)?;
        Ok(Probe { from_child, pid: child.id(), deadline: Instant::now() + DEADLINE })
    }

    /// Waits for the SHA-256 of the executable.
    ///
    /// # Errors
    /// One sentence if it does not come in time.
    pub fn finish(mut self) -> Result<[u8; 32], String> {
        let (mut digest, mut len) = ([0; 32], 0);
        while len < digest.len() {
            let Some(left) = self.deadline.checked_duration_since(Instant::now()) else {
                process::kill(self.pid, libc::SIGKILL);
                return Err(format!("the executable was not hashed within {} s", DEADLINE.as_secs()));
            };
            wait(&mut [Interest::read(self.from_child.as_raw_fd())], left).map_err(failed)?;
            match self.from_child.read(&mut digest[len..]).map_err(failed)? {
                0 => return Err("the executable cannot be hashed: the child died".into()),
                count => len += count,
            }
        }
        Ok(digest)
    }
}

fn failed(error: io::Error) -> String {
    format!("the executable cannot be hashed: {error}")
}
