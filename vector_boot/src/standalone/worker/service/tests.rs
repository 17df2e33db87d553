//! The loop beside a state device that takes its time.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Condvar, Mutex};

use serde_json::{json, Value};

use super::*;
use crate::crc::crc32c;
use crate::journal::device::simulated::Disk;
use crate::journal::device::{DeviceLog, Limits, Opening};
use crate::journal::storage::BlockDevice;
use crate::machine::{Parts, Runtime};
use crate::sys::memory::SharedWords;
use crate::sys::message;
use crate::tensor::tests::{file, load};
use crate::vitals::SHARED_WORDS;

/// The longest wait of a client.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Gate {
    /// Flushes that may still return; `None`: all.
    left: Option<u64>,
    /// Flushes that wait.
    waiting: u64,
}

/// A disk whose flushes return when they may.
#[derive(Clone)]
struct Slow(Disk, Arc<(Mutex<Gate>, Condvar)>);

impl Slow {
    fn allow(&self, flushes: Option<u64>) {
        self.1 .0.lock().unwrap().left = flushes;
        self.1 .1.notify_all();
    }

    fn wait_for_flush(&self) {
        let gate = self.1 .0.lock().unwrap();
        drop(self.1 .1.wait_while(gate, |gate| gate.waiting == 0).unwrap());
    }
}

impl BlockDevice for Slow {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, buffer)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write(offset, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        let (gate, changed) = &*self.1;
        let mut gate = gate.lock().unwrap();
        gate.waiting += 1;
        changed.notify_all();
        let mut gate = changed.wait_while(gate, |gate| gate.left == Some(0)).unwrap();
        gate.waiting -= 1;
        gate.left = gate.left.map(|left| left - 1);
        drop(gate);
        self.0.flush()
    }
}

struct Client(BufReader<UnixStream>);

impl Client {
    fn connect(path: &std::path::Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Client(BufReader::new(stream));
        assert!(client.line()["vector_boot"].is_object());
        client
    }

    fn send(&mut self, line: &Value, blob: &[u8]) {
        self.0.get_mut().write_all(&[format!("{line}\n").as_bytes(), blob].concat()).unwrap();
    }

    fn ask(&mut self, method: &str, params: Value) -> Value {
        self.send(&json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}), &[]);
        self.line()["result"].clone()
    }

    /// Sends a change that makes generation `number` + 1.
    fn mutate(&mut self, number: u64) {
        let blob = [number as u8 + 1];
        let edits = json!([{"kind": "dense", "tensor": "w", "offset": 0, "blob": [0, 1]}]);
        let params =
            json!({"id": format!("{:032x}", number + 1), "base_generation": number, "confidence": 0.9, "edits": edits});
        let announced = json!({"bytes": 1, "crc32c": format!("{:08x}", crc32c(&blob))});
        let request = json!({"jsonrpc": "2.0", "id": number, "method": "mutate", "params": params, "blob": announced});
        self.send(&request, &blob);
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn has_nothing(&mut self) -> bool {
        self.0.get_ref().set_nonblocking(true).unwrap();
        let nothing = matches!(self.0.fill_buf(), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        self.0.get_ref().set_nonblocking(false).unwrap();
        nothing
    }
}

/// A machine of one tensor with its journal on this disk.
fn machine(disk: &Slow) -> Machine {
    let opening =
        Opening { file: [1; 32], model: &|| [2; 32], random: [3; 64], boot: 0, writable: true, beside: false };
    let limits = Limits { device_least: 64 << 10, ..Limits::SPECIFIED };
    let log = DeviceLog::open_limited(Box::new(disk.clone()), &opening, limits).unwrap();
    let (shared, _) = SharedWords::create(c"test", SHARED_WORDS).unwrap();
    Machine::new(Parts {
        model: Ok(load(file("w", 64, false)).unwrap()),
        runtime: Runtime::new(Err("a test".into())).unwrap(),
        journal: Ok(Box::new(log)),
        shared: Arc::new(shared),
        build: "0".repeat(12),
        energy_limited: false,
        mutation_key: None,
    })
}

/// A service of this machine, where it listens, and the supervisor's end of its socket.
fn service(machine: Machine, name: &str) -> (Service, std::path::PathBuf, OwnedFd) {
    let path = std::env::temp_dir().join(format!("vector_boot-{name}-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = OwnedFd::from(UnixListener::bind(&path).unwrap());
    let (control, supervisor) = message::pair().unwrap();
    let settings = ServiceSettings { fault_allowed: false, appliance: false };
    let connections = Connections::new(vec![listener], true).unwrap();
    (Service::start(machine, connections, control, None, settings).unwrap(), path, supervisor)
}

#[test]
fn a_change_is_not_delayed_by_what_others_have_sent() {
    let (mut service, path, _supervisor) = service(machine(&Slow(Disk::blank(1 << 20), Arc::default())), "flood");
    let mut streams = [(); 2].map(|()| UnixStream::connect(&path).unwrap());
    std::fs::remove_file(&path).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while service.connections.open().count() < 2 {
        assert!(Instant::now() < deadline, "the clients were not accepted");
        service.wait();
        service.accept();
    }
    let hello = format!(
        "{}\n",
        json!({"jsonrpc": "2.0", "id": 1, "method": "hello", "params": {"protocol": 1, "client": "test"}})
    );
    streams[0].write_all(hello.repeat(9).as_bytes()).unwrap();
    let mut changes = Client(BufReader::new(streams[1].try_clone().unwrap()));
    changes.mutate(0);
    while service.connections.at(0).unwrap().0.waiting(8).is_none()
        || service.connections.at(1).unwrap().0.waiting(0).is_none()
    {
        assert!(Instant::now() < deadline, "not everything was received");
        service.wait();
        service.receive();
    }
    service.handle_what_waits();
    assert!(service.runner.has_own() && service.has_more);
    let left = service.connections.at(0).unwrap().0;
    assert!(left.waiting(7).is_some(), "one message of the other client had its turn before the change");
}

#[test]
fn everybody_else_is_served_while_a_flush_takes_long() {
    let disk = Slow(Disk::blank(1 << 20), Arc::default());
    let (service, path, supervisor) = service(machine(&disk), "slow");
    std::thread::spawn(move || service.run());
    let (mut changes, mut other) = (Client::connect(&path), Client::connect(&path));
    std::fs::remove_file(&path).unwrap();
    other.ask("subscribe", json!({"events": ["heartbeat"]}));
    // The first is made by the thread that serves, the next two by the other one, since the device was slow.
    for number in 0..3 {
        disk.allow(Some(0));
        changes.mutate(number);
        disk.wait_for_flush();
        assert_eq!(other.ask("hello", json!({"protocol": 1, "client": "test"}))["generation"], number);
        Control::Beat { beats: number + 1, late_us: 0 }.send(&supervisor).unwrap();
        assert_eq!(other.line()["params"]["beats"], number + 1);
        assert!(changes.has_nothing(), "no reply before the flush");
        disk.allow(None);
        let reply = changes.line();
        assert_eq!((&reply["id"], &reply["result"]["durable"]), (&json!(number), &json!(true)), "{reply}");
    }
    std::mem::forget(supervisor); // the worker would end this process
}
