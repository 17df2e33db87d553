//! The supervisor as an ordinary program: the same machine behind a Unix socket.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::probe::Probe;
use super::worker_process::{Endowment, WorkerProcess};
use super::{console, share, Parts, Supervisor};
use crate::standalone::worker::Options;
use crate::sys::signal::Signals;
use crate::sys::{self, process};

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Where to listen.
    pub socket: PathBuf,
    /// The GGUF or RTS file.
    pub tensors: PathBuf,
    /// Whether `fault` requests are served.
    pub fault: bool,
    /// Whether mutations cost nothing.
    pub energy_unlimited: bool,
    /// Time between beats.
    pub period: Duration,
}

impl Settings {
    /// Reads the arguments; `None` if they make no sense.
    pub fn parse<S: AsRef<OsStr>>(args: &[S]) -> Option<Self> {
        let (mut socket, mut tensors, mut fault, mut period) = (None, None, false, Duration::from_millis(100));
        let mut energy_unlimited = false;
        let mut args = args.iter().map(AsRef::as_ref);
        while let Some(arg) = args.next() {
            match arg.to_str()? {
                "--listen" => socket = Some(PathBuf::from(args.next()?)),
                "--tensors" => tensors = Some(PathBuf::from(args.next()?)),
                "--fault" => fault = true,
                "--energy" => {
                    energy_unlimited = match args.next()?.to_str()? {
                        "on" => false,
                        "off" => true,
                        _ => return None,
                    }
                }
                "--heartbeat-ms" => {
                    let ms = args.next()?.to_str()?.parse().ok().filter(|ms| (10..=10_000).contains(ms))?;
                    period = Duration::from_millis(ms);
                }
                _ => return None,
            }
        }
        Some(Settings { socket: socket?, tensors: tensors?, fault, energy_unlimited, period })
    }
}

/// Bytes of the longest path that a socket can be bound to.
const LONGEST_PATH: usize = 107;

/// A socket file that is removed when the machine ends.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Serves until it is told to end.
///
/// # Errors
/// One sentence if it cannot start.
pub fn run(settings: &Settings) -> Result<(), String> {
    let start_us = sys::monotonic_us();
    let signals = Signals::take().map_err(|error| format!("cannot take signals: {error}"))?;
    process::adopt_orphans();
    let tensors = settings.tensors.display();
    let model = open_model(&settings.tensors).map_err(|error| format!("{tensors}: {error}"))?;
    let (shared, shared_fd, journal) = share(settings.period, start_us)?;
    console::say_phase("start", 0);
    let executable = Probe::start(false)?;
    let (listener, _socket_file) = listen(&settings.socket)?;
    let energy_unlimited = settings.energy_unlimited;
    let options = Options { listens: true, fault: settings.fault, energy_unlimited, ..Options::default() };
    let port = OwnedFd::from(listener);
    let endowment = Endowment { options, shared: shared_fd, port, journal, model: Some(model) };
    let mut supervisor = Supervisor::new(Parts {
        signals,
        period: settings.period,
        shared,
        worker: WorkerProcess::new(endowment),
        executable,
        appliance: false,
    });
    supervisor.enter_phase(1);
    if let Err(trouble) = supervisor.bring_up() {
        supervisor.stop();
        return Err(format!("{tensors}: {}", trouble.why()));
    }
    supervisor.beat();
    supervisor.stop();
    Ok(())
}

fn open_model(path: &Path) -> io::Result<File> {
    let kind = fs::metadata(path)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(io::Error::other("neither a regular file nor a block device"));
    }
    File::open(path)
}

/// Listens at `path`, for this user alone. A socket file that nobody listens on any more is replaced.
fn listen(path: &Path) -> Result<(UnixListener, SocketFile), String> {
    let name = path.display();
    if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        if UnixStream::connect(path).is_ok() {
            return Err(format!("{name}: another machine listens there: choose another path"));
        }
        fs::remove_file(path).map_err(|error| format!("{name}: {error}"))?;
    }
    // Between bind and listen a client would be refused: the socket gets its name when it listens.
    let mut unfinished = path.as_os_str().to_os_string();
    unfinished.push("~");
    let unfinished = if unfinished.len() <= LONGEST_PATH { PathBuf::from(unfinished) } else { path.to_path_buf() };
    let listener = UnixListener::bind(&unfinished).map_err(|error| format!("{name}: cannot listen: {error}"))?;
    let file = SocketFile(unfinished);
    fs::set_permissions(&file.0, fs::Permissions::from_mode(0o600)).map_err(|error| format!("{name}: {error}"))?;
    fs::rename(&file.0, path).map_err(|error| format!("{name}: {error}"))?;
    std::mem::forget(file); // it has its own name now
    Ok((listener, SocketFile(path.to_path_buf())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read() {
        let settings =
            Settings::parse(&["--listen", "/a b", "--tensors", "m", "--fault", "--heartbeat-ms", "50"]).unwrap();
        assert_eq!(
            (settings.socket, settings.fault, settings.period),
            ("/a b".into(), true, Duration::from_millis(50))
        );
        for wrong in
            [&["--listen", "a"][..], &["--tensors", "a"], &["--listen"], &["--listen", "a", "--tensors", "b", "c"]]
        {
            assert_eq!(Settings::parse(wrong), None);
        }
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let path = std::env::temp_dir().join(format!("vector_boot-listen-{}", std::process::id()));
        let (first, file) = listen(&path).unwrap();
        assert!(listen(&path).unwrap_err().contains("another machine listens"));
        drop(first);
        let (second, second_file) = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop((second, second_file));
        assert!(!path.exists());
        drop(file);
    }
}
