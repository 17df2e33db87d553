//! What PID 1 sets up first: file systems, modules, kernel settings.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::ErrorKind;

use super::console;
use crate::model_file::Trust;
use crate::sys::{power, sandbox};

struct Mount {
    kind: &'static CStr,
    target: &'static CStr,
    flags: u64,
    data: &'static CStr,
    required: bool,
}

const QUIET: u64 = libc::MS_NOSUID | libc::MS_NOEXEC;

/// Mounted in this order. Without a required one the machine cannot run.
const MOUNTS: [Mount; 4] = [
    Mount { kind: c"devtmpfs", target: c"/dev", flags: QUIET, data: c"mode=0755", required: true },
    // A process sees itself alone there, unless it is root's.
    Mount { kind: c"proc", target: c"/proc", flags: QUIET | libc::MS_NODEV, data: c"hidepid=2", required: true },
    Mount {
        kind: c"sysfs",
        target: c"/sys",
        flags: QUIET | libc::MS_NODEV | libc::MS_RDONLY,
        data: c"",
        required: true,
    },
    Mount {
        kind: c"tmpfs",
        target: c"/run",
        flags: QUIET | libc::MS_NODEV,
        data: c"mode=0755,size=1m",
        required: false,
    },
];

/// Kernel settings that harden the machine. Those that the kernel does not have are skipped.
const SETTINGS: [(&str, &str); 5] = [
    ("/proc/self/oom_score_adj", "-1000"),
    ("/proc/sys/kernel/core_pattern", "|/bin/false"),
    ("/proc/sys/kernel/kptr_restrict", "2"),
    ("/proc/sys/kernel/dmesg_restrict", "1"),
    ("/proc/sys/kernel/unprivileged_bpf_disabled", "1"),
];

/// The last file of the archive (64 digits and a line end); if it is missing or short, the archive was truncated.
const SENTINEL: &str = "/etc/vector_boot.complete";
const SENTINEL_BYTES: u64 = 65;
/// The key that images must be signed with, and the least security version.
const TRUST: &str = "/etc/vector_boot.trust";
const MODULE_LIST: &str = "/lib/modules/modules.load";
/// Lines of the list: behind the first are the modules that an image with a hash tree needs before the first beat, behind the
/// second those that are loaded after it.
const VERITY_MARK: &str = "# verity";
const LATE_MARK: &str = "# late";

/// A part of the module list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modules {
    /// Those that the first beat needs.
    Early,
    /// Those that it also needs if the image has a hash tree.
    Verity,
    /// The others.
    Late,
}

/// Mounts the file systems that the machine needs.
///
/// # Errors
/// One sentence that names the required file system that failed.
pub fn mount_all() -> Result<(), String> {
    for Mount { kind, target, flags, data, required } in MOUNTS {
        if let Err(error) = power::mount(kind, target, flags, data) {
            let text = format!("cannot mount {} on {}: {error}", kind.to_string_lossy(), target.to_string_lossy());
            if required {
                return Err(text);
            }
            console::say(&text);
        }
    }
    Ok(())
}

/// Checks that the kernel unpacked the whole archive.
///
/// # Errors
/// One sentence if it did not.
pub fn check_archive() -> Result<(), String> {
    match fs::metadata(SENTINEL) {
        Ok(file) if file.len() == SENTINEL_BYTES => Ok(()),
        _ => Err("the initramfs is incomplete: the machine has too little memory".into()),
    }
}

/// Which images this archive serves; any if it does not say.
///
/// # Errors
/// One sentence if what it says cannot be read.
pub fn trust() -> Result<Option<Trust>, String> {
    match fs::read_to_string(TRUST) {
        Ok(text) => match Trust::parse(text.trim_end()) {
            Some(trust) => Ok(Some(trust)),
            None => Err(format!("{TRUST} in the initramfs names no key: build the image again")),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{TRUST} in the initramfs cannot be read: {error}")),
    }
}

/// Loads one part of the list, in its order. A module that fails is reported, and the rest is loaded all the same.
pub fn load_modules(part: Modules) {
    let list = fs::read_to_string(MODULE_LIST).unwrap_or_default();
    let (before, late) = list.split_once(LATE_MARK).unwrap_or((&list, ""));
    let (early, verity) = before.split_once(VERITY_MARK).unwrap_or((before, ""));
    let paths = match part {
        Modules::Early => early,
        Modules::Verity => verity,
        Modules::Late => late,
    };
    for path in paths.lines().map(str::trim) {
        if path.is_empty() || path.starts_with('#') {
            continue;
        }
        if let Err(error) = File::open(path).and_then(|file| power::load_module(&file)) {
            console::say(&format!("module {path} is not loaded: {error}"));
        }
    }
}

/// Runs the child that loads the late modules, so that no beat waits for them, and then locks module loading.
pub fn late_main() {
    console::open();
    load_modules(Modules::Late);
    let _ = fs::write("/proc/sys/kernel/modules_disabled", "1");
}

/// Applies the kernel settings.
pub fn apply_settings() {
    for (path, value) in SETTINGS {
        let _ = fs::write(path, value);
    }
    // Nothing writes to the files of the archive.
    if let Err(error) = power::remount_root_read_only() {
        console::say(&format!("the root file system stays writable: {error}"));
    }
    sandbox::limit_resources();
    power::catch_ctrl_alt_del();
}
