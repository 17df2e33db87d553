//! The requests of an update. The worker hands the bytes to the process that writes; it cannot write itself.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use serde_json::{json, Value};

use super::{Service, CONTROL_LIMIT};
use crate::esp::Slot;
use crate::protocol::{code, required, Blob, Method, Request, RequestError, UpdateReason};
use crate::standalone::boot::judge::Order;
use crate::standalone::control::Control;

/// After which time a client may try again while another request of an update is not answered.
const RETRY_MS: u64 = 1000;
/// An update that is not continued for so long ends.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// What a worker knows of an update.
#[derive(Default)]
pub struct Update {
    /// The request that has not been answered yet: its connection and its id.
    asked: Option<(u64, Value)>,
    link: Option<Link>,
}

/// The process that writes.
struct Link {
    socket: OwnedFd,
    slot: Option<Slot>,
    used: Instant,
}

impl Update {
    /// The descriptor on which the process that writes answers.
    pub fn fd(&self) -> Option<RawFd> {
        self.link.as_ref().map(|link| link.socket.as_raw_fd())
    }

    /// Whether a request is not answered yet.
    pub fn is_busy(&self) -> bool {
        self.asked.is_some()
    }
}

fn failed(reason: UpdateReason, text: &str) -> RequestError {
    RequestError::new(code::UPDATE_FAILED, text).with(json!({"reason": reason.name()}))
}

fn no_update() -> RequestError {
    failed(UpdateReason::Order, "no update is under way: begin one")
}

impl Service {
    /// Begins what a request of an update asks for. The answer comes with the messages of the process that writes.
    ///
    /// # Errors
    /// The first check that fails.
    pub(super) fn handle_update(&mut self, request: &Request, connection: u64) -> Result<(), RequestError> {
        let started = match request.method {
            Method::UpdateBegin => self.begin_update(request, connection),
            Method::UpdateWrite => self.write_update(request, connection),
            _ => self.commit_update(request),
        };
        started?;
        self.update.asked = Some((connection, request.id.clone()));
        if let Some(connection) = self.connections.numbered(connection) {
            connection.held = true;
        }
        Ok(())
    }

    fn begin_update(&mut self, request: &Request, connection: u64) -> Result<(), RequestError> {
        let mut params = request.params.clone();
        let slot_bytes = required("slot_bytes", params.integer("slot_bytes")?)?;
        let sha256 = required("slot_sha256", params.hex::<32>("slot_sha256")?)?;
        let key = params.hex::<32>("key")?;
        let (generation, build) = (params.integer("base_generation")?, params.text("base_build")?);
        params.finish()?;
        if !matches!(request.blob, Blob::Bytes(_) | Blob::Upload(_)) {
            request.no_blob()?;
            let text = "the blob is missing: send the header of the image and the boot file as an upload";
            return Err(RequestError::new(code::UNUSABLE_BLOB, text));
        }
        self.require_idle()?;
        self.require_seal(request, connection)?;
        self.machine.require_state(generation, build.as_deref())?;
        let file = self.brought(request, connection)?;
        self.update.link = None; // ends the update before
        let order = Control::Update(Order { slot_bytes, sha256, key });
        order.send_with(&self.control, file.as_fd()).map_err(|_| RequestError::new(code::BUSY, "busy"))
    }

    fn write_update(&mut self, request: &Request, connection: u64) -> Result<(), RequestError> {
        let mut params = request.params.clone();
        let offset = required("offset", params.integer("offset")?)?;
        params.finish()?;
        if matches!(request.blob, Blob::None) {
            return Err(RequestError::new(code::UNUSABLE_BLOB, "the blob is missing: send the next bytes"));
        }
        self.require_idle()?;
        if self.update.link.is_none() {
            return Err(no_update());
        }
        let piece = self.brought(request, connection)?;
        self.tell_writer(&Control::UpdatePiece { offset }, Some(piece))
    }

    fn commit_update(&mut self, request: &Request) -> Result<(), RequestError> {
        request.params.clone().finish()?;
        request.no_blob()?;
        self.require_idle()?;
        self.tell_writer(&Control::UpdateCommit, None)
    }

    /// Checks that no other request of an update or a reload waits for its answer.
    fn require_idle(&self) -> Result<(), RequestError> {
        if self.update.is_busy() || self.reload.is_busy() {
            let busy = RequestError::new(code::BUSY, "another request of an update, or a reload, is under way");
            return Err(busy.with(json!({"retry_ms": RETRY_MS})));
        }
        Ok(())
    }

    fn tell_writer(&mut self, control: &Control, file: Option<OwnedFd>) -> Result<(), RequestError> {
        let link = self.update.link.as_mut().ok_or_else(no_update)?;
        link.used = Instant::now();
        let sent = match file {
            Some(file) => control.send_with(&link.socket, file.as_fd()),
            None => control.send(&link.socket),
        };
        sent.map_err(|error| {
            failed(UpdateReason::Stopped, &format!("the process that writes cannot be reached: {error}"))
        })
    }

    /// Handles a message of the supervisor that concerns an update.
    pub(super) fn handle_update_message(&mut self, control: Control, fd: Option<OwnedFd>) {
        match (control, fd) {
            (Control::UpdateLink { slot }, Some(socket)) => {
                self.update.link = Some(Link { socket, slot: Slot::of_number(slot), used: Instant::now() });
            }
            (Control::UpdateFailed { reason, text }, _) => self.answer_update(Err(failed(reason, &text))),
            _ => (),
        }
    }

    /// Handles what the process that writes has said, and ends an update that is not continued.
    pub(super) fn hear_writer(&mut self) {
        for _ in 0..CONTROL_LIMIT {
            let Some(link) = &self.update.link else { return };
            let slot = link.slot.map(|slot| slot.to_string());
            let idle = !self.update.is_busy() && link.used.elapsed() > IDLE_LIMIT;
            let answer = match Control::receive(&link.socket) {
                Ok(Some(Control::UpdateReady)) => Ok(json!({"slot": slot})),
                Ok(Some(Control::UpdateWritten { bytes })) => Ok(json!({"written": bytes})),
                Ok(Some(Control::UpdateDone)) => {
                    self.update.link = None;
                    Ok(json!({"slot": slot}))
                }
                Ok(Some(Control::UpdateFailed { reason, text })) => {
                    self.update.link = None;
                    Err(failed(reason, &text))
                }
                Ok(_) => continue,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if idle {
                        self.update.link = None;
                    }
                    return;
                }
                Err(_) => {
                    self.update.link = None;
                    Err(failed(UpdateReason::Stopped, "the process that writes has ended"))
                }
            };
            self.answer_update(answer);
        }
    }

    fn answer_update(&mut self, answer: Result<Value, RequestError>) {
        let Some((number, id)) = self.update.asked.take() else { return };
        if let Some(connection) = self.connections.numbered(number) {
            connection.held = false;
        }
        self.answer_with(number, &id, answer.map(Into::into));
        self.has_more = true; // what waited behind it
    }
}
