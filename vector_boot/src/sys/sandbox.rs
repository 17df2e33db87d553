//! How the worker gives up every right it does not need.

use std::io;

use super::check;

/// Leaves root for good: own user and group, no capability in any set. For use in a new child.
///
/// # Errors
/// If any step fails: a worker that kept a right must not start.
pub fn become_user(id: u32) -> io::Result<()> {
    // SAFETY: plain calls, async-signal-safe.
    unsafe {
        for capability in 0..64 {
            if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) < 0 {
                break; // past the last one the kernel knows
            }
        }
        check(libc::setgroups(0, std::ptr::null()))?;
        check(libc::setresgid(id, id, id))?;
        check(libc::setresuid(id, id, id))?;
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
    }
    Ok(())
}

/// Dies with the process that started this one; no core dump; no new rights through exec.
///
/// # Errors
/// If any step fails.
pub fn bind_to_parent() -> io::Result<()> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: plain calls; `none` is live.
    unsafe {
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        check(libc::setrlimit(libc::RLIMIT_CORE, &none))?;
    }
    Ok(())
}

/// No core dumps and few descriptors, for this process and all it starts.
pub fn limit_resources() {
    for (resource, most) in [(libc::RLIMIT_CORE, 0), (libc::RLIMIT_NOFILE, 256)] {
        let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
        // SAFETY: plain call; `limit` is live.
        unsafe { libc::setrlimit(resource, &limit) };
    }
}

/// The out-of-memory killer takes this process before its parent. For use in a new child.
pub fn be_expendable() {
    // SAFETY: async-signal-safe calls; the strings are NUL-terminated or have their length given.
    unsafe {
        let fd = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd >= 0 {
            libc::write(fd, b"500".as_ptr().cast(), 3);
            libc::close(fd);
        }
    }
}

/// Limits the address space, for the fault that exhausts memory on a workstation.
pub fn limit_address_space(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: plain call; `limit` is live.
    unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) };
}

/// What the worker may still ask the kernel for once it serves. Anything else but what is [`DENIED`] kills it.
const ALLOWED: &[(libc::c_long, &str)] = &[
    (libc::SYS_read, "the port and the control socket"),
    (libc::SYS_write, "the port, the wake-up of the loop"),
    (libc::SYS_pread64, "the journal"),
    (libc::SYS_pwrite64, "the journal"),
    (libc::SYS_fallocate, "memory of forgotten journal entries given back"),
    (libc::SYS_sysinfo, "whether an image of the weights fits the memory"),
    (libc::SYS_readv, "std's buffered reads"),
    (libc::SYS_writev, "std's buffered writes"),
    (libc::SYS_sendto, "messages to the supervisor"),
    (libc::SYS_recvfrom, "messages from the supervisor"),
    (libc::SYS_accept4, "a client of --listen"),
    (libc::SYS_ppoll, "the loop's wait"),
    (libc::SYS_poll, "std's waits"),
    (libc::SYS_close, "a client that left"),
    (libc::SYS_fcntl, "a client made non-blocking"),
    (libc::SYS_ioctl, "std's set_nonblocking"),
    (libc::SYS_shutdown, "a second client turned away"),
    (libc::SYS_mmap, "memory"),
    (libc::SYS_munmap, "memory"),
    (libc::SYS_mremap, "memory"),
    (libc::SYS_mprotect, "thread stacks"),
    (libc::SYS_madvise, "memory given back"),
    (libc::SYS_brk, "memory"),
    (libc::SYS_futex, "locks between the two threads"),
    (libc::SYS_sched_getaffinity, "the allocator's number of arenas"),
    (libc::SYS_sched_yield, "locks between the two threads"),
    (libc::SYS_clock_gettime, "time, where the vDSO has none"),
    (libc::SYS_clock_nanosleep, "the fault that hangs"),
    (libc::SYS_getrandom, "hash seeds"),
    (libc::SYS_rt_sigprocmask, "std's abort"),
    (libc::SYS_rt_sigaction, "std's abort"),
    (libc::SYS_rt_sigreturn, "return from std's stack-overflow handler"),
    (libc::SYS_sigaltstack, "end of a thread"),
    (libc::SYS_gettid, "abort"),
    (libc::SYS_getpid, "abort"),
    (libc::SYS_tgkill, "abort"),
    (libc::SYS_prlimit64, "the fault that exhausts memory"),
    (libc::SYS_restart_syscall, "a wait resumed after a stop"),
    (libc::SYS_exit, "end of a thread"),
    (libc::SYS_exit_group, "end of the process"),
];

/// What fails instead of killing: the libc asks and copes with a refusal.
const DENIED: &[(libc::c_long, &str)] = &[(libc::SYS_openat, "glibc's free looks whether memory is overcommitted")];

const fn op(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

/// Installs the filter for every thread of this process: unlisted system calls kill it.
///
/// # Errors
/// If the kernel refuses the filter.
pub fn restrict_syscalls() -> io::Result<()> {
    const AUDIT_ARCH_X86_64: u32 = 0xC000_003E;
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const EQUALS: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let kill = op(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS);
    // Offsets in seccomp_data: 0 the number, 4 the architecture.
    let mut program = vec![op(LOAD, 0, 0, 4), op(EQUALS, 1, 0, AUDIT_ARCH_X86_64), kill, op(LOAD, 0, 0, 0)];
    for (number, _) in ALLOWED {
        program.push(op(EQUALS, 0, 1, *number as u32));
        program.push(op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    }
    for (number, _) in DENIED {
        program.push(op(EQUALS, 0, 1, *number as u32));
        program.push(op(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EACCES as u32));
    }
    program.push(kill);
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: `filter` points to `program`, which outlives the call; the kernel copies it.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC, &filter)
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
