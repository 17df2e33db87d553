//! `vector_boot --listen`: the supervisor as an ordinary program, serving a Unix socket.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ports::Ports;
use super::probe::Probe;
use super::shared_files::{share, SharedFiles};
use super::worker_process::{Resources, WorkerProcess};
use super::{console, socket_file, state_file, Supervisor, SupervisorParts};
use crate::protocol::RELOAD_PROBATION_MS;
use crate::standalone::worker::Options;
use crate::sys::signal::Signals;
use crate::sys::watch::Watch;
use crate::sys::{self, process};

/// What the probation of a reload may be set to, in milliseconds.
pub const PROBATION_MS: RangeInclusive<u64> = 0..=3_600_000;

/// The settings of the command line.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenSettings {
    /// Path of the socket.
    pub socket: PathBuf,
    /// The GGUF or RTS file.
    pub tensors: PathBuf,
    /// The file or device on which the journal survives, if any.
    pub state: Option<PathBuf>,
    /// Whether `fault` requests are served.
    pub fault: bool,
    /// Whether mutations cost no energy.
    pub energy_unlimited: bool,
    /// Time between beats.
    pub period: Duration,
    /// Probation of a worker after a reload.
    pub probation: Duration,
}

impl ListenSettings {
    /// Parses the arguments; `None` if they are not valid.
    pub fn parse<S: AsRef<OsStr>>(args: &[S]) -> Option<Self> {
        let (mut socket, mut tensors, mut fault, mut period) = (None, None, false, Duration::from_millis(100));
        let (mut energy_unlimited, mut probation, mut state) = (false, RELOAD_PROBATION_MS, None);
        let mut args = args.iter().map(AsRef::as_ref);
        while let Some(arg) = args.next() {
            match arg.to_str()? {
                "--listen" => socket = Some(PathBuf::from(args.next()?)),
                "--tensors" => tensors = Some(PathBuf::from(args.next()?)),
                "--state" => state = Some(PathBuf::from(args.next()?)),
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
                "--reload-probation-ms" => {
                    probation = args.next()?.to_str()?.parse().ok().filter(|ms| PROBATION_MS.contains(ms))?;
                }
                _ => return None,
            }
        }
        let probation = Duration::from_millis(probation);
        Some(ListenSettings { socket: socket?, tensors: tensors?, state, fault, energy_unlimited, period, probation })
    }
}

/// Serves until a signal or a request ends it.
///
/// # Errors
/// One sentence if it cannot start.
pub fn run(settings: &ListenSettings) -> Result<(), String> {
    let start_us = sys::monotonic_us();
    let signals = Signals::take().map_err(|error| format!("signals cannot be received: {error}"))?;
    process::adopt_orphans();
    let tensors = settings.tensors.display();
    let unusable = |error: io::Error| format!("{tensors}: {error}");
    let model = open_model(&settings.tensors).map_err(unusable)?;
    let watch = Watch::new(&model).map_err(unusable)?;
    let state = settings.state.as_deref().map(state_file::of_path).transpose()?;
    let SharedFiles { words, words_file, journal } = share(settings.period, start_us)?;
    console::say_phase("start", 0);
    let (listener, _socket_file) = socket_file::listen(&settings.socket)?;
    let executable = Probe::start(false)?;
    let energy_unlimited = settings.energy_unlimited;
    let options = Options { listens: true, fault: settings.fault, energy_unlimited, ..Options::default() };
    let ports = Ports::only(OwnedFd::from(listener));
    let resources =
        Resources::new(options, words_file, ports, journal).with_model(Some(model), watch).with_state(state);
    let mut supervisor = Supervisor::new(SupervisorParts {
        signals,
        period: settings.period,
        shared: words,
        worker: WorkerProcess::new(resources),
        executable,
        probation: settings.probation,
        trial: None,
        appliance: false,
    });
    supervisor.enter_phase(1);
    if let Err(error) = supervisor.bring_up() {
        supervisor.stop();
        return Err(format!("{tensors}: {}", error.why()));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read() {
        let words = ["--listen", "/a b", "--tensors", "m", "--fault", "--heartbeat-ms", "50", "--state", "s"];
        let settings = ListenSettings::parse(&words).unwrap();
        assert_eq!((settings.fault, settings.period), (true, Duration::from_millis(50)));
        assert_eq!((settings.socket, settings.state), ("/a b".into(), Some("s".into())));
        for wrong in
            [&["--listen", "a"][..], &["--tensors", "a"], &["--listen"], &["--listen", "a", "--tensors", "b", "c"]]
        {
            assert_eq!(ListenSettings::parse(wrong), None);
        }
    }
}
