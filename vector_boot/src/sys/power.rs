//! What only PID 1 does: mounting, loading modules, setting up devices, ending the machine.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::check;

/// Mounts a virtual file system; one that is mounted already is success.
///
/// # Errors
/// Whatever mount(2) says, EBUSY excepted.
pub fn mount(kind: &CStr, target: &CStr, flags: u64, data: &CStr) -> io::Result<()> {
    // SAFETY: all pointers are NUL-terminated strings.
    let result = unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) };
    match check(result) {
        Err(error) if error.raw_os_error() != Some(libc::EBUSY) => Err(error),
        _ => Ok(()),
    }
}

/// Remounts the root file system read-only, without devices and set-user-id programs. It must allow execution: workers are
/// started from it.
///
/// # Errors
/// Whatever mount(2) says.
pub fn remount_root_read_only() -> io::Result<()> {
    let flags = libc::MS_REMOUNT | libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV;
    // SAFETY: all pointers are NUL-terminated strings or null where the call allows it.
    let result = unsafe { libc::mount(c"rootfs".as_ptr(), c"/".as_ptr(), std::ptr::null(), flags, std::ptr::null()) };
    check(result).map(|_| ())
}

/// Loads a kernel module from its open file; one that is loaded already is success.
///
/// # Errors
/// Whatever finit_module(2) says, EEXIST excepted.
pub fn load_module(file: &File) -> io::Result<()> {
    // SAFETY: a live descriptor and an empty parameter string.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    let error = io::Error::last_os_error();
    if result < 0 && error.raw_os_error() != Some(libc::EEXIST) {
        return Err(error);
    }
    Ok(())
}

/// Has Ctrl-Alt-Del send a signal to PID 1 instead of rebooting.
pub fn catch_ctrl_alt_del() {
    // SAFETY: plain call.
    unsafe { libc::reboot(libc::RB_DISABLE_CAD) };
}

/// Writes all dirty pages to their devices.
pub fn sync() {
    // SAFETY: plain call.
    unsafe { libc::sync() };
}

/// Ends the machine. Returns only if the kernel refuses.
pub fn end_machine(reboot: bool) -> io::Error {
    let command = if reboot { libc::RB_AUTOBOOT } else { libc::RB_POWER_OFF };
    // SAFETY: plain call.
    unsafe { libc::reboot(command) };
    io::Error::last_os_error()
}

/// Sets the timeout of a hardware watchdog, in seconds.
///
/// # Errors
/// If the device does not know the request.
pub fn set_watchdog_timeout(watchdog: &File, seconds: i32) -> io::Result<()> {
    const WDIOC_SETTIMEOUT: libc::c_ulong = 0xC004_5706;
    let mut seconds = seconds;
    // SAFETY: the request reads and writes one int.
    check(unsafe { libc::ioctl(watchdog.as_raw_fd(), WDIOC_SETTIMEOUT, &mut seconds) }).map(|_| ())
}

/// Whether this is a block device that refuses writes; some kernels open it for writing all the same.
pub fn is_read_only_device(file: &File) -> bool {
    const BLKROGET: libc::c_ulong = 0x125E;
    let mut read_only: libc::c_int = 0;
    // SAFETY: the request fills the live integer; other files than block devices refuse it.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), BLKROGET as _, &mut read_only) };
    result == 0 && read_only != 0
}
