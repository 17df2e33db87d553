//! The filter in a forked child: what it allows returns, what it does not allow kills the child.

use super::*;

/// How a child ended that installed the filter and then made one system call.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// The call returned this; errors as their negative number.
    Returned(i32),
    Killed(i32),
}

/// Makes a system call under the filter. The child's exit status has eight bits: 0 for success, else the error number.
fn filtered(number: libc::c_long, arguments: [u64; 6]) -> Outcome {
    let program = program();
    // SAFETY: between fork and _exit the child makes system calls only and allocates nothing.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: as above; `program` was made before the fork, and the pointers among the arguments are the caller's.
        unsafe {
            let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            if libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &filter) != 0 {
                libc::_exit(255);
            }
            let [a, b, c, d, e, f] = arguments;
            let failed = libc::syscall(number, a, b, c, d, e, f) == -1;
            libc::_exit(if failed { *libc::__errno_location() } else { 0 });
        }
    }
    let mut status = 0;
    // SAFETY: waits for the child just made; `status` is live.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    match libc::WIFSIGNALED(status) {
        true => Outcome::Killed(libc::WTERMSIG(status)),
        false => Outcome::Returned(-libc::WEXITSTATUS(status)),
    }
}

const DONE: Outcome = Outcome::Returned(0);
const KILLED: Outcome = Outcome::Killed(libc::SIGSYS);

fn protection(of: i32) -> [u64; 6] {
    [0, 4096, of as u64, (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64, u64::MAX, 0]
}

#[test]
fn memory_can_be_mapped_but_never_executed() {
    let (data, code) = (libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ | libc::PROT_EXEC);
    assert_eq!(filtered(libc::SYS_mmap, protection(data)), DONE);
    assert_eq!(filtered(libc::SYS_mmap, protection(code)), KILLED);
    // A mapping made before the filter, in the parent.
    let arguments = protection(data).map(|argument| argument as libc::c_long);
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    let page = unsafe { libc::syscall(libc::SYS_mmap, a, b, c, d, e, f) } as u64;
    assert_eq!(filtered(libc::SYS_mprotect, [page, 4096, libc::PROT_READ as u64, 0, 0, 0]), DONE);
    assert_eq!(filtered(libc::SYS_mprotect, [page, 4096, code as u64, 0, 0, 0]), KILLED);
    // SAFETY: unmaps what was just mapped.
    unsafe { libc::munmap(page as *mut libc::c_void, 4096) };
}

#[test]
fn only_the_ioctl_that_is_used_passes() {
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let (socket, on) = (std::os::fd::AsRawFd::as_raw_fd(&socket) as u64, 1i32);
    let pointer = (&raw const on) as u64;
    assert_eq!(filtered(libc::SYS_ioctl, [socket, libc::FIONBIO as _, pointer, 0, 0, 0]), DONE);
    assert_eq!(filtered(libc::SYS_ioctl, [socket, libc::FIONREAD as _, pointer, 0, 0, 0]), KILLED);
    assert_eq!(filtered(libc::SYS_ioctl, [0, libc::TIOCSTI as _, pointer, 0, 0, 0]), KILLED);
}

#[test]
fn of_a_descriptor_only_the_seals_can_be_changed() {
    assert_eq!(filtered(libc::SYS_fcntl, [0, libc::F_GETFD as _, 0, 0, 0, 0]), DONE);
    let file = crate::sys::memory::memory_file(c"sealed").unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&file) as u64;
    assert_eq!(filtered(libc::SYS_fcntl, [fd, libc::F_ADD_SEALS as _, libc::F_SEAL_GROW as _, 0, 0, 0]), DONE);
    assert_eq!(filtered(libc::SYS_fcntl, [0, libc::F_SETFL as _, 0, 0, 0, 0]), KILLED);
}

#[test]
fn nothing_is_started_opened_or_signalled() {
    let path = c"/etc/hostname".as_ptr() as u64;
    let at = libc::AT_FDCWD as u64;
    assert_eq!(filtered(libc::SYS_openat, [at, path, 0, 0, 0, 0]), Outcome::Returned(-libc::EACCES));
    assert_eq!(filtered(libc::SYS_execve, [path, 0, 0, 0, 0, 0]), KILLED);
    assert_eq!(filtered(libc::SYS_clone, [libc::SIGCHLD as u64, 0, 0, 0, 0, 0]), KILLED);
    assert_eq!(filtered(libc::SYS_socket, [libc::AF_UNIX as u64, libc::SOCK_STREAM as u64, 0, 0, 0, 0]), KILLED);
    assert_eq!(filtered(libc::SYS_prctl, [libc::PR_SET_DUMPABLE as u64, 1, 0, 0, 0, 0]), KILLED);
    assert_eq!(filtered(libc::SYS_kill, [1, 0, 0, 0, 0, 0]), KILLED);
    let own = u64::from(std::process::id());
    assert_eq!(filtered(libc::SYS_tgkill, [own, own, libc::SIGTERM as u64, 0, 0, 0]), KILLED);
    assert_eq!(filtered(libc::SYS_tgkill, [1, 1, libc::SIGABRT as u64, 0, 0, 0]), KILLED);
}

#[test]
fn arguments_of_the_rest_are_judged() {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    let pointer = (&raw const limit) as u64;
    assert_eq!(filtered(libc::SYS_prlimit64, [0, u64::from(libc::RLIMIT_AS), 0, pointer, 0, 0]), DONE);
    assert_eq!(filtered(libc::SYS_prlimit64, [0, u64::from(libc::RLIMIT_CORE), 0, pointer, 0, 0]), KILLED);
    assert_eq!(filtered(libc::SYS_prlimit64, [1, u64::from(libc::RLIMIT_AS), 0, pointer, 0, 0]), KILLED);
    assert_eq!(filtered(libc::SYS_fallocate, [0, 0, 0, 4096, 0, 0]), KILLED);
    assert_eq!(filtered(libc::SYS_fdatasync, [u64::MAX, 0, 0, 0, 0, 0]), Outcome::Returned(-libc::EBADF));
    assert_eq!(filtered(libc::SYS_fsync, [u64::MAX, 0, 0, 0, 0, 0]), KILLED);
    assert_eq!(filtered(libc::SYS_rt_sigaction, [libc::SIGSEGV as u64, 0, 0, 8, 0, 0]), KILLED);
    assert_eq!(filtered(libc::SYS_rt_sigaction, [libc::SIGABRT as u64, 0, 0, 8, 0, 0]), DONE);
}

/// The highest number of a system call that is tried: well above those of today's kernels.
const NUMBERS: libc::c_long = 600;

/// Calls that the kernel itself places into traced programs. It exempts them from filters, and refuses them elsewhere.
#[cfg(target_arch = "x86_64")]
const UPROBES: &[libc::c_long] = &[335, 336];
#[cfg(not(target_arch = "x86_64"))]
const UPROBES: &[libc::c_long] = &[];

/// Each system call of the kernel, with arguments of which every bit is set: no rule about arguments accepts them.
#[test]
fn of_all_system_calls_only_those_with_a_rule_pass() {
    for number in 0..NUMBERS {
        let outcome = filtered(number, [u64::MAX; 6]);
        let rule = ALLOWED.iter().find(|Rule(allowed, _)| *allowed == number);
        match rule {
            Some(Rule(_, Any)) => assert_ne!(outcome, KILLED, "{number} is allowed"),
            Some(_) => assert_eq!(outcome, KILLED, "{number} is allowed with other arguments"),
            None if DENIED.contains(&number) => assert_eq!(outcome, Outcome::Returned(-libc::EACCES), "{number}"),
            None if UPROBES.contains(&number) => assert_ne!(outcome, DONE, "{number}"),
            None => assert_eq!(outcome, KILLED, "{number} has no rule"),
        }
    }
}

/// The same numbers under the bit that selects another calling convention on x86-64.
#[test]
fn no_other_calling_convention_passes() {
    for Rule(number, _) in ALLOWED {
        assert_eq!(filtered(number | 0x4000_0000, [0; 6]), KILLED, "{number}");
    }
}

/// One wrong argument at a time beside right ones.
#[test]
fn each_rule_about_arguments_refuses_a_wrong_one() {
    for Rule(number, arguments) in ALLOWED {
        let wrong: Vec<(usize, u32)> = match *arguments {
            Any => continue,
            Without(index, bits) => {
                (0..32).map(|bit| 1 << bit).filter(|bit| bits & bit != 0).map(|bit| (index, bit)).collect()
            }
            Equal(index, value) => (0..32).map(|bit| (index, value ^ 1 << bit)).collect(),
            OneOf(index, values) => {
                let flipped = values.iter().flat_map(|value| (0..32).map(move |bit| value ^ 1 << bit));
                flipped.filter(|value| !values.contains(value)).map(|value| (index, value)).collect()
            }
            BothEqual(first, one, second, other) => {
                let flipped = (0..32).flat_map(|bit| [(first, one ^ 1 << bit), (second, other ^ 1 << bit)]);
                flipped.collect()
            }
        };
        for (index, value) in wrong {
            let mut given = [0; 6];
            if let BothEqual(first, one, second, other) = *arguments {
                (given[first], given[second]) = (one.into(), other.into());
            }
            given[index] = value.into();
            assert_eq!(filtered(*number, given), KILLED, "{number} with argument {index} = {value:#x}");
        }
    }
}
