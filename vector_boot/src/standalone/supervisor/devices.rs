//! Finds the machine's devices in /sys: ports by name, power button, watchdog. Its disks are found by `disks`.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::protocol::CONNECTIONS_LIMIT;
use crate::sys::power;

const PORTS: &str = "/sys/class/virtio-ports";
/// The name of an evolution port ends with its number.
const PORT_NAME: &str = "org.vectorland.evolution.";
const POLL_INTERVAL: Duration = Duration::from_millis(10);
const WATCHDOG_SECONDS: i32 = 30;

/// Calls `find` repeatedly until it finds something or the time is over.
pub fn wait_for<T>(timeout: Duration, mut find: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(found) = find() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Entries of a folder in /sys whose file `attribute` holds `value`.
pub fn entries_with(folder: &str, attribute: &str, value: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return vec![] };
    let holds = |path: &PathBuf| fs::read_to_string(path.join(attribute)).is_ok_and(|text| text.trim() == value);
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(holds).collect();
    found.sort();
    found
}

/// Opens the node in /dev of a device in /sys.
pub fn open_device(path: &Path, write: bool) -> Option<File> {
    let node = PathBuf::from("/dev").join(path.file_name()?);
    OpenOptions::new().read(true).write(write).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(node).ok()
}

/// Waits for evolution port 0 and opens it. Its name may appear in /sys some time after its device node.
pub fn evolution_port() -> Option<OwnedFd> {
    let any_port = || fs::read_dir(PORTS).ok()?.next().map(|_| ());
    wait_for(Duration::from_secs(1), any_port)?;
    let named =
        || entries_with(PORTS, "name", &format!("{PORT_NAME}0")).first().and_then(|path| open_device(path, true));
    wait_for(Duration::from_secs(5), named).map(OwnedFd::from)
}

/// Opens the evolution ports that are there and have none of these numbers. Each comes with its number.
pub fn further_ports(known: &[usize]) -> Vec<(usize, OwnedFd)> {
    let Ok(entries) = fs::read_dir(PORTS) else { return vec![] };
    let paths = entries.flatten().map(|entry| entry.path());
    let mut ports: Vec<(usize, PathBuf)> = paths.filter_map(|path| Some((port_number(&path)?, path))).collect();
    ports.retain(|(number, _)| *number < CONNECTIONS_LIMIT && !known.contains(number));
    ports.sort();
    ports.dedup_by_key(|(number, _)| *number);
    ports.into_iter().filter_map(|(number, path)| Some((number, open_device(&path, true)?.into()))).collect()
}

/// The number in the name of an evolution port; `None` for another device.
fn port_number(path: &Path) -> Option<usize> {
    let name = fs::read_to_string(path.join("name")).ok()?;
    let number = name.trim().strip_prefix(PORT_NAME)?;
    number.parse().ok().filter(|parsed: &usize| parsed.to_string() == number)
}

/// A socket that no client can find, in place of the port on a machine that has none.
///
/// # Errors
/// If it cannot be made.
pub fn unreachable_port() -> std::io::Result<OwnedFd> {
    let address = SocketAddr::from_abstract_name(format!("{PORT_NAME}0"))?;
    UnixListener::bind_addr(&address).map(OwnedFd::from)
}

/// The ACPI power button.
pub struct PowerButton(File);

impl PowerButton {
    /// Finds it among the input devices.
    pub fn find() -> Option<Self> {
        let inputs = fs::read_dir("/sys/class/input").ok()?;
        let mut buttons: Vec<PathBuf> = inputs
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                let is_event = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("event"));
                let name = fs::read_to_string(path.join("device/name")).unwrap_or_default();
                is_event && name.trim() == "Power Button"
            })
            .collect();
        buttons.sort();
        let name = buttons.first()?.file_name()?.to_owned();
        let node = PathBuf::from("/dev/input").join(name);
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(node).ok().map(PowerButton)
    }

    /// The descriptor to wait on.
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Whether it was pressed since the last call.
    pub fn was_pressed(&self) -> bool {
        const EVENT_BYTES: usize = 24; // two u64 of time, u16 type, u16 code, i32 value
        let mut pressed = false;
        let mut event = [0u8; EVENT_BYTES];
        while matches!((&self.0).read(&mut event), Ok(EVENT_BYTES)) {
            let field = |at: usize| u16::from_le_bytes([event[at], event[at + 1]]);
            let (kind, code, value) = (field(16), field(18), event[20]);
            pressed |= (kind, code, value) == (1, 116, 1); // EV_KEY, KEY_POWER, down
        }
        pressed
    }
}

/// A watchdog that restarts the machine when the heartbeat stops.
pub struct Watchdog(File);

impl Watchdog {
    /// Arms the first watchdog, if there is one.
    pub fn arm() -> Option<Self> {
        let file = OpenOptions::new().write(true).open("/dev/watchdog").ok()?;
        let _ = power::set_watchdog_timeout(&file, WATCHDOG_SECONDS);
        Some(Watchdog(file))
    }

    /// Restarts its countdown.
    pub fn kick(&mut self) {
        let _ = self.0.write(b"k");
    }

    /// Switches it off, for a machine that stops in order.
    pub fn disarm(&mut self) {
        let _ = self.0.write(b"V"); // the letter that disarms it on close
    }
}
