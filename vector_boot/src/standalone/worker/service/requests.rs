//! The requests about the connection and the process: `subscribe`, `cancel`, `shutdown`, and the notification `bye`.

use serde_json::json;

use super::{Answer, Service, Stopping};
use crate::protocol::{self, code, required, Request, RequestError, BYE_WAIT_MS, EVENT_KINDS};
use crate::standalone::control::Control;
use crate::standalone::worker::runner::Runner;

impl Service {
    /// Sends the supervisor what should be on the console.
    pub fn send_notices(&self) {
        self.machine.take_notices().into_iter().for_each(|text| self.send_to_supervisor(&Control::Notice { text }));
    }

    pub(super) fn subscribe(&mut self, request: &Request, connection: u64) -> Answer {
        let mut params = request.params.clone();
        let events = required("events", params.texts("events", EVENT_KINDS.len())?)?;
        params.finish()?;
        request.no_blob()?;
        if let Some(unknown) = events.iter().find(|event| !EVENT_KINDS.contains(&event.as_str())) {
            let text = format!("there is no event {unknown:?}: expected {}", EVENT_KINDS.join(", "));
            return Err(RequestError::new(code::INVALID_PARAMS, text));
        }
        if let Some(connection) = self.connections.numbered(connection) {
            connection.subscriptions.clone_from(&events);
        }
        Ok(json!({"subscribed": events}).into())
    }

    /// Stops the connection's running request of this id, or removes it from its queue; it is answered in both cases.
    pub(super) fn cancel(&mut self, request: &Request, connection: u64) -> Answer {
        let mut params = request.params.clone();
        let id = required("request", params.request_id("request")?)?;
        params.finish()?;
        request.no_blob()?;
        let mut cancelled = self.runner.cancel(&id, connection);
        if let Some(connection) = self.connections.numbered(connection).filter(|_| !cancelled) {
            if connection.remove_first(|waiting| waiting.id == id && Runner::runs_beside_others(waiting)) {
                connection.answer(&id, Err(protocol::cancelled()));
                cancelled = true;
            }
        }
        Ok(json!({"cancelled": cancelled}).into())
    }

    pub(super) fn shutdown(&mut self, request: &Request, connection: u64) -> Answer {
        let mut params = request.params.clone();
        let reboot = params.boolean("reboot")?.unwrap_or(false);
        params.finish()?;
        request.no_blob()?;
        let deadline_ms = self.now_ms() + BYE_WAIT_MS;
        // The first one decides: another request neither delays the end nor makes it another.
        let first = || Stopping { reboot, connections: vec![], deadline_ms, sent: false };
        let asked = &mut self.stopping.get_or_insert_with(first).connections;
        if !asked.contains(&connection) {
            asked.push(connection);
        }
        Ok(json!({}).into())
    }

    /// A client that asked for the end says that it knows: there is nothing to wait for.
    pub(super) fn handle_bye(&mut self, connection: u64) {
        let now = self.now_ms();
        if let Some(stopping) = self.stopping.as_mut().filter(|stopping| stopping.connections.contains(&connection)) {
            stopping.deadline_ms = now;
        }
    }

    pub(super) fn advance_stop(&mut self) {
        let now = self.now_ms();
        if let Some(stopping) = self.stopping.as_mut().filter(|stopping| !stopping.sent && now >= stopping.deadline_ms)
        {
            stopping.sent = Control::Shutdown { reboot: stopping.reboot }.send(&self.control).is_ok();
            stopping.deadline_ms = now + BYE_WAIT_MS; // when to try again if the message could not be sent
        }
    }
}
