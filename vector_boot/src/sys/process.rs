//! Starting, reaping and ending processes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use super::{check, sandbox, signal};

/// Number of the first inherited descriptor in a child; 0 to 2 are the standard streams.
pub const FIRST_INHERITED: RawFd = 3;

/// Starts `command` with `fds` as descriptors 3, 4, ..., the standard streams and no other descriptor, and its signals reset.
/// With `user` it runs under that uid and gid, without capabilities. It is killed when this process ends.
///
/// # Errors
/// Whatever fork(2), exec(2) or the steps between them say.
pub fn spawn(command: &mut Command, fds: &[BorrowedFd<'_>], user: Option<u32>) -> io::Result<Child> {
    // Copies with high numbers, so that dup2 in the child overwrites none that it still needs.
    let copies = fds.iter().map(|fd| duplicate_above(*fd, 100)).collect::<io::Result<Vec<_>>>()?;
    let sources: Vec<RawFd> = copies.iter().map(AsRawFd::as_raw_fd).collect();
    let expendable = own_pid() == 1;
    // SAFETY: between fork and exec only async-signal-safe calls are made, and nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            for (target, source) in (FIRST_INHERITED..).zip(&sources) {
                check(libc::dup2(*source, target))?;
            }
            let above = FIRST_INHERITED as u32 + sources.len() as u32;
            libc::syscall(libc::SYS_close_range, above, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
            signal::reset();
            if expendable {
                sandbox::be_expendable(); // before the user changes: only root may write this
            }
            if let Some(id) = user {
                sandbox::become_user(id)?;
            }
            sandbox::die_with_parent() // after the user has changed, which would undo it
        });
    }
    command.spawn()
}

/// First number of the descriptors that no child inherits by number: the inherited ones and their copies are below.
const OUT_OF_THE_WAY: RawFd = 200;

/// The same open file with a number that [`spawn`] gives no inherited descriptor in the child.
///
/// # Errors
/// Whatever fcntl(2) says.
pub fn out_of_the_way(file: OwnedFd) -> io::Result<OwnedFd> {
    duplicate_above(file.as_fd(), OUT_OF_THE_WAY)
}

/// A command that executes an open file, which must be [`out_of_the_way`] and stay open until the command has been spawned.
pub fn executing(file: BorrowedFd<'_>) -> Command {
    Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn duplicate_above(fd: BorrowedFd<'_>, lowest: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: plain call; the new descriptor is owned by nobody else.
    unsafe { check(libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, lowest)).map(|fd| OwnedFd::from_raw_fd(fd)) }
}

/// Takes ownership of the descriptor that the parent left at number `fd`; it is closed on exec.
///
/// # Errors
/// If `fd` is not an open descriptor.
pub fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl proves that it is open; the parent gave it to us and nothing else in this process owns it.
    unsafe {
        check(libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Makes a descriptor non-blocking.
///
/// # Errors
/// Whatever fcntl(2) says.
pub fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: plain calls on a borrowed descriptor.
    unsafe {
        let flags = check(libc::fcntl(fd, libc::F_GETFL))?;
        check(libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK))?;
    }
    Ok(())
}

/// Reads once, at most `limit` bytes, and appends them to `buffer`. Returns their number.
///
/// # Errors
/// Whatever read(2) says; nothing was appended then.
pub fn read_more(fd: BorrowedFd<'_>, buffer: &mut Vec<u8>, limit: usize) -> io::Result<usize> {
    buffer.reserve(limit);
    let room = buffer.spare_capacity_mut();
    let limit = limit.min(room.len());
    // SAFETY: `room` has at least `limit` bytes, and nothing else uses them.
    let got = unsafe { libc::read(fd.as_raw_fd(), room.as_mut_ptr().cast(), limit) };
    let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?.min(limit);
    // SAFETY: the kernel has written the first `got` bytes of the spare capacity.
    unsafe { buffer.set_len(buffer.len() + got) };
    Ok(got)
}

/// A child that has ended.
pub struct Ended {
    /// Its process id.
    pub pid: u32,
    /// The signal that killed it, if any.
    pub signal: Option<i32>,
    /// Its exit status otherwise.
    pub status: i32,
}

impl Ended {
    /// How it ended, in words.
    pub fn how(&self) -> String {
        match self.signal {
            Some(signal) => format!("was killed by signal {signal}"),
            None => format!("exited with status {}", self.status),
        }
    }
}

/// Reaps one child that has ended, adopted orphans included; `None` if there is none.
pub fn reap() -> Option<Ended> {
    let mut status = 0;
    // SAFETY: `status` is a live integer.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG | libc::__WALL) };
    let pid = u32::try_from(pid).ok().filter(|pid| *pid > 0)?;
    let signal = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
    Some(Ended { pid, signal, status: libc::WEXITSTATUS(status) })
}

/// Sends a signal; nothing happens if the process has ended. Pid 0 stands for no process and is ignored, because kill(2)
/// would signal the whole process group.
pub fn kill(pid: u32, signal: i32) {
    if let Some(pid) = libc::pid_t::try_from(pid).ok().filter(|pid| *pid > 0) {
        // SAFETY: plain call; pid is positive, so it names one process.
        unsafe { libc::kill(pid, signal) };
    }
}

/// Gives this process real-time priority, so that the heartbeat waits for no ordinary process. Children are ordinary.
///
/// # Errors
/// If the kernel refuses.
pub fn become_realtime() -> io::Result<()> {
    let priority = libc::sched_param { sched_priority: 50 };
    // SAFETY: plain call on this process; `priority` is live.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &priority) }).map(|_| ())
}

/// Makes orphans among this process's descendants its children, as they become PID 1's.
pub fn adopt_orphans() {
    // SAFETY: plain call.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}

/// Starts `count` children that end at once and waits for none, for the test of reaping.
///
/// # Errors
/// If a fork fails.
pub fn leave_orphans(count: u32) -> io::Result<()> {
    for _ in 0..count {
        // SAFETY: this process has one thread, and the child only exits.
        unsafe {
            if check(libc::fork())? == 0 {
                libc::_exit(0);
            }
        }
    }
    Ok(())
}

/// The id of this process.
pub fn own_pid() -> u32 {
    std::process::id()
}
