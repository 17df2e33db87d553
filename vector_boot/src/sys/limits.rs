//! Limits of the kernel on what a worker may use, set when it has all that it needs.

use std::io;

use super::check;

/// The most bytes of a file that a worker may write to: as many as the largest state device has.
const FILE_BYTES: u64 = 64 << 30;
/// Descriptors: the clients' and those of the uploads that are handed over at a reload.
const DESCRIPTORS: u64 = 256;

#[cfg(not(target_env = "musl"))]
type Resource = libc::__rlimit_resource_t;
#[cfg(target_env = "musl")]
type Resource = libc::c_int;

/// Each resource and the most of it. Nothing of the machine needs more; memory is bounded by what it allocates.
const LIMITS: [(Resource, u64); 8] = [
    (libc::RLIMIT_CORE, 0),             // a dump would hold weights and texts
    (libc::RLIMIT_NOFILE, DESCRIPTORS), // a flood of connections
    (libc::RLIMIT_FSIZE, FILE_BYTES),   // a state file that grows without end
    (libc::RLIMIT_NPROC, 0),            // its threads exist: no further one, and no process
    (libc::RLIMIT_MEMLOCK, 0),          // memory that the kernel could not reclaim
    (libc::RLIMIT_MSGQUEUE, 0),         // memory in message queues
    (libc::RLIMIT_NICE, 0),             // a priority that delays the heartbeat
    (libc::RLIMIT_RTPRIO, 0),
];

/// Sets the limits of a worker for good, none of them above what it was. System calls must not be restricted yet.
///
/// # Errors
/// Whatever getrlimit(2) and setrlimit(2) say.
pub fn limit_worker() -> io::Result<()> {
    for (resource, most) in LIMITS {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is live.
        check(unsafe { libc::getrlimit(resource, &mut limit) })?;
        let most = limit.rlim_max.min(most);
        limit = libc::rlimit { rlim_cur: most, rlim_max: most };
        // SAFETY: `limit` is live.
        check(unsafe { libc::setrlimit(resource, &limit) })?;
    }
    Ok(())
}
