use super::*;
use crate::standalone::supervisor::ports::Ports;
use crate::standalone::supervisor::shared_files::{share, SharedFiles};
use crate::standalone::supervisor::worker_process::{Resources, WorkerProcess};
use crate::standalone::worker::Options;
use crate::sys::memory::memory_file;
use crate::sys::signal::Signals;

/// Ids of no process: no signal is sent to them.
const OLD: u32 = 0;
const NEW: u32 = u32::MAX;

/// A worker that is no process, and the other end of its socket.
fn worker(pid: u32) -> (RunningWorker, OwnedFd) {
    let (ours, theirs) = message::pair().unwrap();
    (RunningWorker::new(pid, ours), theirs)
}

/// A supervisor whose worker is this one.
fn supervisor(serving: RunningWorker) -> Supervisor {
    let period = Duration::from_millis(100);
    let SharedFiles { words, words_file, journal } = share(period, 0).unwrap();
    let ports = Ports::only(memory_file(c"port").unwrap());
    let mut worker = WorkerProcess::new(Resources::new(Options::default(), words_file, ports, journal));
    worker.replace(serving);
    Supervisor {
        signals: Signals::take().unwrap(),
        period,
        shared: words,
        worker,
        appliance: false,
        probe: None,
        executable: [0; 32],
        emergency: None,
        late_setup: None,
        power_button: None,
        watchdog: None,
        reload: Stage::Idle,
        probation: Duration::from_secs(10),
        trial: None,
        update: super::super::update::Stage::Idle,
        end: None,
        entered: 3,
    }
}

/// What the old worker is told once the new one is gone, which was killed when the time for draining was over. It had taken
/// over just before that if `took_over`, and the supervisor has not read that yet.
fn told_after_late_drain(took_over: bool) -> Option<Control> {
    let ((old, old_end), (new, new_end)) = (worker(OLD), worker(NEW));
    let mut supervisor = supervisor(old);
    let (link, _link_end) = message::pair().unwrap();
    let executable = Executable { file: memory_file(c"executable").unwrap(), sha256: [1; 32] };
    let deadline = Instant::now() - Duration::from_millis(1);
    supervisor.reload =
        Stage::Draining(Candidate { worker: new, executable, link, ready: true, frozen: false, deadline });
    if took_over {
        Control::Frozen.send(&old_end).unwrap();
        Control::TookOver.send(&new_end).unwrap();
    }
    supervisor.reload_at_beat(&Control::Beat { beats: 1, late_us: 0 });
    assert!(matches!(supervisor.reload, Stage::Ending(..)));
    assert!(supervisor.note_end_in_reload(&Ended { pid: NEW, signal: Some(libc::SIGKILL), status: 0 }));
    loop {
        match Control::receive(&old_end).ok()? {
            Some(Control::Resume { untouched, answered }) => return Some(Control::Resume { untouched, answered }),
            _ => continue,
        }
    }
}

#[test]
fn a_new_worker_that_took_over_at_the_last_moment_has_served() {
    for took_over in [true, false] {
        let told = told_after_late_drain(took_over);
        assert_eq!(told, Some(Control::Resume { untouched: !took_over, answered: false }));
    }
}
