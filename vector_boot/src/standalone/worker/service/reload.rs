//! The request `reload`, and the change from one worker to the next: the old one hands over and stays, ready to serve
//! again; the new one takes over.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use serde_json::{json, Value};
use sha2::{Digest, Sha256};

use super::{Service, CONTROL_LIMIT};
use crate::machine::uploads::Upload;
use crate::machine::Position;
use crate::protocol::packing::Packed;
use crate::protocol::{code, parse_hex, required, Blob, ReloadReason, Request, RequestError};
use crate::standalone::control::Control;
use crate::standalone::reload::handover::{Incoming, Outgoing};
use crate::standalone::worker::connection::Connection;
use crate::standalone::EMBEDDED_MODEL;
use crate::sys::memory::{file_len, seal, sealed_file, Mapping};
use crate::sys::monotonic_us;
use crate::sys::ready::{wait, Interest};

/// After which time a client may try again while another reload is under way.
const RETRY_MS: u64 = 1000;
/// How often a worker that is ready looks for changes of the other one.
const STANDBY_WAIT: Duration = Duration::from_millis(5);
/// Changes that take less time than this are made once the old worker has handed over.
const APPROACHED: Duration = Duration::from_millis(2);
/// How long a new worker runs after one that changes the weights as fast.
const APPROACH_LIMIT: Duration = Duration::from_secs(5);

/// What a worker knows of a reload.
#[derive(Default)]
pub struct Reload {
    /// The request that has not been answered yet: its connection and its id.
    asked: Option<(u64, Value)>,
    /// The socket to the new worker, once this one is to hand over.
    next: Option<OwnedFd>,
    /// How long nobody served when this worker took over.
    gap_us: u64,
    /// Whether another worker has served since this one handed over.
    undone: bool,
}

impl Reload {
    /// Whether the request is not answered yet.
    pub fn is_busy(&self) -> bool {
        self.asked.is_some()
    }

    /// Whether this worker is to hand over as soon as nothing runs.
    pub fn hands_over(&self) -> bool {
        self.next.is_some()
    }
}

/// The supervisor's order to serve again.
struct Resume {
    /// Whether no other worker has served meanwhile.
    untouched: bool,
    /// Whether the request `reload` has been answered.
    answered: bool,
    /// The beats that came meanwhile, with their lateness.
    beats: Vec<(u64, u32)>,
}

/// A reload that failed for this reason.
fn failed(reason: ReloadReason, text: &str) -> RequestError {
    RequestError::new(code::RELOAD_FAILED, text).with(json!({"reason": reason.name()}))
}

impl Service {
    /// Gives the supervisor what the request has brought. The answer comes with its messages.
    ///
    /// # Errors
    /// The first check that fails; nothing has changed then.
    pub(super) fn begin_reload(&mut self, request: &Request, connection: u64) -> Result<(), RequestError> {
        let mut params = request.params.clone();
        let what = required("what", params.text("what")?)?;
        let key = params.hex::<32>("key")?;
        let (generation, build) = (params.integer("base_generation")?, params.text("base_build")?);
        params.finish()?;
        if what != "binary" && what != "rts" {
            let text = format!("parameter \"what\" must be \"binary\" or \"rts\", not {what:?}");
            return Err(RequestError::new(code::INVALID_PARAMS, text));
        }
        if !matches!(request.blob, Blob::Bytes(_) | Blob::Upload(_)) {
            request.no_blob()?;
            let text = "the blob is missing: send the executable or the image as an upload";
            return Err(RequestError::new(code::UNUSABLE_BLOB, text));
        }
        if self.reload.is_busy() || self.update.is_busy() {
            let busy = RequestError::new(code::BUSY, "another reload or an update is under way");
            return Err(busy.with(json!({"retry_ms": RETRY_MS})));
        }
        self.require_seal(request, connection)?;
        self.machine.require_state(generation, build.as_deref())?;
        self.machine.require_second_worker().map_err(|why| failed(ReloadReason::Memory, &why))?;
        let file = self.brought(request, connection)?;
        let order = Control::Reload { image: what == "rts", key };
        order.send_with(&self.control, file.as_fd()).map_err(|_| RequestError::new(code::BUSY, "busy"))?;
        self.reload.asked = Some((connection, request.id.clone()));
        if let Some(connection) = self.connections.numbered(connection) {
            connection.held = true;
        }
        Ok(())
    }

    /// Checks the signature, on a machine that takes signed changes only.
    pub(super) fn require_seal(&self, request: &Request, connection: u64) -> Result<(), RequestError> {
        match &request.blob {
            Blob::Upload(id) => {
                let Some(id) = parse_hex(id) else { return Ok(()) }; // unknown, which is said next
                let uploads = self.machine.uploads();
                uploads.bytes(connection, &id).map_or(Ok(()), |bytes| self.machine.require_seal(request, bytes))
            }
            Blob::Bytes(bytes) => self.machine.require_seal(request, bytes),
            _ => Ok(()),
        }
    }

    /// What the request has brought, as a sealed file.
    pub(super) fn brought(&self, request: &Request, connection: u64) -> Result<OwnedFd, RequestError> {
        let unknown = || RequestError::new(code::UNUSABLE_BLOB, "there is no such upload, or it is not complete");
        let file = match &request.blob {
            Blob::Upload(id) => {
                let id = parse_hex(id).ok_or_else(unknown)?;
                sealed(self.machine.uploads().take(connection, &id).ok_or_else(unknown)?)
            }
            Blob::Bytes(bytes) => sealed_file(c"reload", &[bytes]),
            _ => return Err(unknown()),
        };
        file.map_err(|error| failed(ReloadReason::Memory, &format!("what was sent cannot be kept: {error}")))
    }

    /// Handles a message of the supervisor that concerns a reload.
    pub(super) fn handle_reload_message(&mut self, control: Control, fd: Option<OwnedFd>) {
        match control {
            Control::HandOver => self.reload.next = fd,
            // The new worker failed before this one had handed over.
            Control::Resume { .. } => self.reload.next = None,
            Control::ReloadFailed { reason, text } => {
                self.answer_reload(Err(failed(reason, &text)));
                if std::mem::take(&mut self.reload.undone) {
                    self.tell_undone(&text);
                }
            }
            Control::ReloadDone => {
                let result = json!({"build": self.machine.build(), "gap_us": self.reload.gap_us});
                self.answer_reload(Ok(result));
            }
            _ => (),
        }
    }

    /// Tells every client that the old worker serves again: what it had not answered is lost.
    fn tell_undone(&mut self, why: &str) {
        let text = format!("the old worker serves again: {why}");
        self.machine.queue_event(json!({"kind": "alert", "what": "reload_undone", "text": text}));
        self.send_events();
        let greeting = self.machine.greeting();
        self.connections.open().for_each(|connection| connection.send(&greeting));
    }

    fn answer_reload(&mut self, answer: Result<Value, RequestError>) {
        let Some((number, id)) = self.reload.asked.take() else { return };
        if let Some(connection) = self.connections.numbered(number) {
            connection.held = false;
        }
        self.answer_with(number, &id, answer.map(Into::into));
        self.has_more = true; // what waited behind it
    }

    /// Hands over if this worker is to, and nothing runs. Then it waits until the supervisor ends it or lets it serve
    /// again. Returns false if the supervisor has ended.
    pub(super) fn hand_over_if_due(&mut self) -> bool {
        let busy = self.runner.running().is_some() || self.crash.is_some() || self.stopping.is_some();
        if busy || self.model_lost {
            return true;
        }
        let Some(next) = self.reload.next.take() else { return true };
        // Before the new one can say that it serves.
        self.send_to_supervisor(&Control::Frozen);
        if let Err(error) = self.hand_over(&next) {
            // The new worker ends then, and the supervisor has this one go on.
            eprintln!("vector_boot: worker: the state cannot be handed over: {error}");
        }
        drop(next);
        match self.wait_for_decision() {
            Some(Resume { untouched: true, answered, beats }) => self.go_on(answered, &beats),
            Some(Resume { untouched: false, answered, .. }) => return self.serve_again(answered),
            None => return false,
        }
        true
    }

    fn hand_over(&mut self, next: &OwnedFd) -> io::Result<()> {
        self.send();
        let machine = self.machine.clone();
        let head = Head {
            frozen_us: monotonic_us(),
            last_beat: self.last_beat,
            position: machine.position(),
            embedded: embedded_digest(),
            asked: self.reload.asked.clone(),
        };
        let uploads = machine.uploads();
        let mut out = Outgoing::default();
        head.pack(&mut out.bytes);
        self.connections.pack(&mut out);
        uploads.pack(&mut out.bytes);
        out.fds.extend(uploads.files());
        out.send(next)
    }

    /// Waits, and does nothing else: another worker serves. `None` if the supervisor has ended.
    fn wait_for_decision(&self) -> Option<Resume> {
        let mut beats = Vec::new();
        loop {
            let _ = wait(&mut [Interest::read(self.control.as_raw_fd())], Duration::from_secs(1));
            match Control::receive(&self.control) {
                Ok(Some(Control::Beat { beats: number, late_us })) if beats.len() < CONTROL_LIMIT => {
                    beats.push((number, late_us));
                }
                Ok(Some(Control::Resume { untouched, answered })) => {
                    return Some(Resume { untouched, answered, beats });
                }
                Ok(_) => (),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
                Err(_) => return None,
            }
        }
    }

    /// Goes on as if nothing had happened.
    fn go_on(&mut self, answered: bool, beats: &[(u64, u32)]) {
        self.forget_answered(answered);
        self.connections.open().for_each(Connection::note_pause);
        beats.iter().for_each(|(number, late_us)| self.note_beat(*number, *late_us));
    }

    /// Serves again after another worker has served: at its newest generation, and with connections that begin anew.
    /// Returns false if the journal cannot be read on.
    fn serve_again(&mut self, answered: bool) -> bool {
        self.forget_answered(answered);
        if let Err(why) = self.machine.catch_up() {
            eprintln!("vector_boot: worker: the old worker cannot go on: {why}");
            return false;
        }
        self.machine.take_over();
        self.connections.begin_anew();
        self.reload.undone = true;
        true
    }

    fn forget_answered(&mut self, answered: bool) {
        if answered {
            self.reload.asked = None;
        }
    }

    /// Waits until the old worker has handed over, and takes over. Returns false if there is nothing to take over.
    pub fn take_over(&mut self, link: &OwnedFd) -> bool {
        let (mut incoming, mut beats) = (Incoming::default(), Vec::new());
        self.approach();
        self.send_to_supervisor(&Control::Standby);
        loop {
            let mut interests = [Interest::read(self.control.as_raw_fd()), Interest::read(link.as_raw_fd())];
            let _ = wait(&mut interests, STANDBY_WAIT);
            match Control::receive(&self.control) {
                Ok(Some(Control::Beat { beats: number, late_us })) => beats.push((number, late_us)),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return false,
                _ => (),
            }
            match incoming.receive(link) {
                Ok(true) => break,
                // Each change that is made now is one less to be made while nobody serves.
                Ok(false) if self.machine.is_behind() => drop(self.machine.catch_up()),
                Ok(false) => (),
                Err(_) => return false,
            }
        }
        match self.restore(&mut incoming) {
            Ok(()) => {
                beats.iter().for_each(|(number, late_us)| self.note_beat(*number, *late_us));
                true
            }
            Err((reason, text)) => {
                self.send_to_supervisor(&Control::ReloadFailed { reason, text });
                false
            }
        }
    }

    /// Follows the old worker until there is little left to catch up with: it has made changes while this one started.
    fn approach(&self) {
        let started = Instant::now();
        while started.elapsed() < APPROACH_LIMIT {
            let round = Instant::now();
            let followed = self.machine.catch_up().is_ok();
            if !followed || round.elapsed() < APPROACHED || !self.machine.is_behind() {
                return; // a journal that cannot be followed is noticed once the old worker has handed over
            }
        }
    }

    /// Makes the state of the old worker that of this one.
    fn restore(&mut self, incoming: &mut Incoming) -> Result<(), (ReloadReason, String)> {
        let unusable = |error: io::Error| (ReloadReason::Version, format!("the state cannot be read: {error}"));
        let bytes = incoming.bytes().map_err(unusable)?;
        let mut rest = &bytes[..];
        let head = Head::unpack(&mut rest).ok_or_else(not_valid)?;
        self.machine.follow_last().map_err(|why| (ReloadReason::State, why))?;
        let arrived = match (self.machine.position(), &head.position) {
            (Some(new), Some(old)) => new.replaces(old),
            (new, old) => new.is_none() && old.is_none(),
        };
        if !arrived || head.embedded != embedded_digest() {
            let text = "the new worker did not arrive at the weights and the journal of the old one";
            return Err((ReloadReason::State, text.into()));
        }
        let next_fd = &mut || incoming.next_fd();
        self.connections.restore(&mut rest, next_fd).ok_or_else(not_valid)?;
        self.machine.uploads().restore(&mut rest, next_fd).ok_or_else(not_valid)?;
        // From here on the old worker cannot go on as if nothing had happened.
        self.send_to_supervisor(&Control::TookOver);
        self.machine.take_over();
        self.has_more = true; // reading is tried at once
        (self.last_beat, self.reload.asked) = (head.last_beat, head.asked);
        self.reload.gap_us = monotonic_us().saturating_sub(head.frozen_us);
        Ok(())
    }
}

/// What stands before the connections in the state.
struct Head {
    /// When the old worker stopped, in microseconds of the monotonic clock.
    frozen_us: u64,
    /// The last beat that it has told of.
    last_beat: u64,
    position: Option<Position>,
    /// SHA-256 of the model inside the executable, which is another one in another executable.
    embedded: Vec<u8>,
    /// The unanswered request `reload`.
    asked: Option<(u64, Value)>,
}

impl Packed for Head {
    fn pack(&self, out: &mut Vec<u8>) {
        self.frozen_us.pack(out);
        self.last_beat.pack(out);
        self.position.map(|position| position.generation).pack(out);
        self.position.map(|position| position.fingerprint).pack(out);
        self.position.is_some_and(|position| position.open).pack(out);
        self.embedded.pack(out);
        let (connection, id) = self.asked.clone().unzip();
        connection.pack(out);
        id.pack(out);
    }

    fn unpack(bytes: &mut &[u8]) -> Option<Self> {
        let (frozen_us, last_beat) = (u64::unpack(bytes)?, u64::unpack(bytes)?);
        let place = Option::unpack(bytes)?.zip(Option::unpack(bytes)?);
        let open = bool::unpack(bytes)?;
        let position = place.map(|(generation, fingerprint)| Position { generation, fingerprint, open });
        let embedded = Vec::unpack(bytes)?;
        let asked = Option::unpack(bytes)?.zip(Option::unpack(bytes)?);
        Some(Head { frozen_us, last_beat, position, embedded, asked })
    }
}

fn embedded_digest() -> Vec<u8> {
    Sha256::digest(EMBEDDED_MODEL).to_vec()
}

fn not_valid() -> (ReloadReason, String) {
    (ReloadReason::Version, "the state of the old worker is not valid".into())
}

/// The bytes of an upload as a sealed file. They are copied where another worker still maps them, or the file is longer.
fn sealed(upload: Upload) -> io::Result<OwnedFd> {
    let len = upload.bytes().map_or(0, <[u8]>::len);
    let file = upload.into_file();
    if file_len(file.as_fd())? == len as i64 && seal(file.as_fd()).is_ok() {
        return Ok(file);
    }
    sealed_file(c"reload", &[Mapping::private(file.as_fd(), 0, len)?.bytes()])
}
