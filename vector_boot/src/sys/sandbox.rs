//! How the worker gives up every right that it does not need.

use std::io;

use super::check;

/// Changes user and group to `id` and drops every capability, for good. For use in a new child.
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

/// Has this process killed when its parent ends. For use in a new child.
///
/// # Errors
/// Whatever prctl(2) says.
pub fn die_with_parent() -> io::Result<()> {
    // SAFETY: a plain call, async-signal-safe.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) }).map(|_| ())
}

/// Has this process killed when its parent ends; switches off core dumps and new rights through exec.
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

/// Switches off core dumps and allows 256 descriptors, for this process and all that it starts.
pub fn limit_resources() {
    for (resource, most) in [(libc::RLIMIT_CORE, 0), (libc::RLIMIT_NOFILE, 256)] {
        let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
        // SAFETY: plain call; `limit` is live.
        unsafe { libc::setrlimit(resource, &limit) };
    }
}

/// Makes the out-of-memory killer choose this process before its parent. For use in a new child.
pub fn be_expendable() {
    // SAFETY: async-signal-safe calls; the path ends with a NUL, and the length of the text is given.
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

/// The architecture of the system-call numbers below, as seccomp reports it.
#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xC000_00B7;

/// What the arguments of an allowed system call must be. Arguments count from 0; only their low 32 bits are compared,
/// which is all that the kernel looks at for these (an int, or flags whose high half is unused).
#[derive(Clone, Copy)]
enum Arguments {
    /// Anything.
    Any,
    /// Argument `.0` has none of the bits `.1`.
    Without(usize, u32),
    /// Argument `.0` is `.1`.
    Equal(usize, u32),
    /// Argument `.0` is one of `.1`.
    OneOf(usize, &'static [u32]),
    /// Argument `.0` is `.1`, and argument `.2` is `.3`.
    BothEqual(usize, u32, usize, u32),
}

use Arguments::{Any, BothEqual, Equal, OneOf, Without};

const NO_EXEC: Arguments = Without(2, libc::PROT_EXEC as u32);
const PUNCH_HOLE: u32 = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u32;

/// The number of a system call that the worker may still make once it serves, and its arguments.
struct Rule(libc::c_long, Arguments);

/// Every system call that is not here and not [`DENIED`] kills the worker, and so does a listed one with other arguments.
/// There is no `clone`, `prctl`, `execve` or `socket`: the threads exist, and nothing else is started or opened.
const ALLOWED: &[Rule] = &[
    Rule(libc::SYS_read, Any),      // the port and the control socket
    Rule(libc::SYS_write, Any),     // the port, the wake-up of the loop
    Rule(libc::SYS_pread64, Any),   // the journal, in memory or on the state device
    Rule(libc::SYS_pwrite64, Any),  // the journal
    Rule(libc::SYS_fdatasync, Any), // the journal on the state device becomes durable
    Rule(libc::SYS_fadvise64, Equal(3, libc::POSIX_FADV_DONTNEED as u32)), // what was written is read back from the disk
    Rule(libc::SYS_fallocate, Equal(1, PUNCH_HOLE)), // memory of discarded journal entries is released
    Rule(libc::SYS_fstat, Any),                      // whether the model's file or the state file has changed
    Rule(libc::SYS_sysinfo, Any),                    // whether an image of the weights fits the memory
    Rule(libc::SYS_writev, Any),                     // the C library's last words before it aborts
    Rule(libc::SYS_sendto, Any),                     // messages to the supervisor
    Rule(libc::SYS_recvfrom, Any),                   // messages from the supervisor
    Rule(libc::SYS_accept4, Any),                    // a client of --listen
    Rule(libc::SYS_ppoll, Any),                      // the loop's wait
    Rule(libc::SYS_close, Any),                      // a client that left
    Rule(libc::SYS_memfd_create, Any),               // an upload, and what is handed over at a reload
    Rule(libc::SYS_ftruncate, Any),                  // the length of an upload
    Rule(libc::SYS_sendmsg, Any),                    // descriptors that are handed over at a reload
    Rule(libc::SYS_recvmsg, Any),                    // descriptors that are handed over at a reload
    // Seals of memory files; F_GETFD is std's check of a closed descriptor in a debug build.
    Rule(libc::SYS_fcntl, OneOf(1, &[libc::F_ADD_SEALS as u32, libc::F_GET_SEALS as u32, libc::F_GETFD as u32])),
    Rule(libc::SYS_ioctl, Equal(1, libc::FIONBIO as u32)), // std's set_nonblocking on a client
    Rule(libc::SYS_shutdown, Any), // the end of a client's connection, of which another worker may have a copy
    Rule(libc::SYS_mmap, NO_EXEC), // memory; code cannot be added
    Rule(libc::SYS_munmap, Any),   // memory
    Rule(libc::SYS_mremap, Any),   // memory; a mapping keeps its protection
    Rule(libc::SYS_mprotect, NO_EXEC), // the allocator's arenas; data cannot become code
    Rule(libc::SYS_madvise, Any),  // memory released
    Rule(libc::SYS_brk, Any),      // memory
    Rule(libc::SYS_futex, Any),    // locks between the threads
    Rule(libc::SYS_sched_getaffinity, Any), // the allocator's number of arenas
    Rule(libc::SYS_sched_yield, Any), // std's channels, before they wait
    Rule(libc::SYS_clock_gettime, Any), // time, where the vDSO does not provide it
    Rule(libc::SYS_clock_nanosleep, Any), // the fault "hang"
    Rule(libc::SYS_getrandom, Any), // hash seeds, and the id of a machine
    Rule(libc::SYS_rt_sigprocmask, Any), // abort
    Rule(libc::SYS_rt_sigaction, Equal(0, libc::SIGABRT as u32)), // abort restores the default action of SIGABRT
    Rule(libc::SYS_sigaltstack, Any), // end of a thread
    Rule(libc::SYS_gettid, Any),   // abort
    Rule(libc::SYS_getpid, Any),   // abort
    Rule(libc::SYS_prlimit64, BothEqual(0, 0, 1, libc::RLIMIT_AS)), // the fault "oom" limits the address space
    Rule(libc::SYS_restart_syscall, Any), // a wait resumed after a stop
    Rule(libc::SYS_exit, Any),     // end of a thread
    Rule(libc::SYS_exit_group, Any), // end of the process
];

/// System calls that fail with EACCES instead of killing: the C library makes them and copes with a refusal.
const DENIED: &[libc::c_long] = &[
    libc::SYS_openat, // glibc's free reads /proc/sys/vm/overcommit_memory before it releases memory
];

/// Opcodes of the filter's instructions.
const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// Offsets in `seccomp_data`: the number of the system call, the architecture, six arguments of 64 bits.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// Where the low half of an argument is; both architectures are little-endian.
const fn argument(index: usize) -> u32 {
    16 + 8 * index as u32
}

const fn op(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

const KILL: libc::sock_filter = op(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS);
const ALLOW: libc::sock_filter = op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW);

/// The instructions that decide about a system call whose number has matched.
fn judge(arguments: Arguments) -> Vec<libc::sock_filter> {
    match arguments {
        Any => vec![ALLOW],
        Without(index, bits) => vec![op(LOAD, 0, 0, argument(index)), op(IF_ANY_BIT, 0, 1, bits), KILL, ALLOW],
        Equal(index, value) => vec![op(LOAD, 0, 0, argument(index)), op(IF_EQUAL, 1, 0, value), KILL, ALLOW],
        OneOf(index, values) => {
            let compare = |(at, value): (usize, &u32)| op(IF_EQUAL, (values.len() - at) as u8, 0, *value);
            let compared = values.iter().enumerate().map(compare);
            std::iter::once(op(LOAD, 0, 0, argument(index))).chain(compared).chain([KILL, ALLOW]).collect()
        }
        BothEqual(first, one, second, other) => vec![
            op(LOAD, 0, 0, argument(first)),
            op(IF_EQUAL, 1, 0, one),
            KILL,
            op(LOAD, 0, 0, argument(second)),
            op(IF_EQUAL, 1, 0, other),
            KILL,
            ALLOW,
        ],
    }
}

/// The filter as a program of the kernel's packet filter.
fn program() -> Vec<libc::sock_filter> {
    let mut program = vec![op(LOAD, 0, 0, ARCHITECTURE), op(IF_EQUAL, 1, 0, AUDIT_ARCH), KILL, op(LOAD, 0, 0, NUMBER)];
    let mut add = |number: libc::c_long, then: &[libc::sock_filter]| {
        program.push(op(IF_EQUAL, 0, then.len() as u8, number as u32));
        program.extend_from_slice(then);
    };
    for Rule(number, arguments) in ALLOWED {
        add(*number, &judge(*arguments));
    }
    // `abort` may signal this process alone, and with nothing but SIGABRT.
    let own = BothEqual(0, std::process::id(), 2, libc::SIGABRT as u32);
    add(libc::SYS_tgkill, &judge(own));
    for number in DENIED {
        add(*number, &[op(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EACCES as u32)]);
    }
    program.push(KILL);
    program
}

/// Installs the filter for every thread of this process: any other system call kills it.
///
/// # Errors
/// If the kernel refuses the filter.
pub fn restrict_syscalls() -> io::Result<()> {
    let mut program = program();
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

#[cfg(test)]
mod tests;
