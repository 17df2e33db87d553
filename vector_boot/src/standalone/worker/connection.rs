//! One connection: bytes received, requests that wait, bytes to send.

use std::collections::VecDeque;
use std::io;
use std::time::Instant;

use serde_json::Value;

use super::link::{Link, Received};
use crate::protocol::{Envelope, Framer, Incoming, Message, Reply, Request, RequestError, OUTSTANDING_LIMIT};

/// The most received bytes that are not yet split into messages.
const INBOX_LIMIT: usize = 64 << 10;
/// With more bytes than this waiting to be sent, no further request is handled.
const OUTBOX_LIMIT: usize = 4 << 20;
/// With more bytes than this waiting to be sent, events are dropped.
const EVENT_LIMIT: usize = 256 << 10;

/// What waits to be handled, in the order of arrival.
pub enum Pending {
    /// A request, and when it arrived.
    Request(Request, Instant),
    /// The id and the error to answer to a message that is not a request.
    Refused(Value, RequestError),
    /// The host's `bye`: it knows that the machine stops.
    Bye,
}

impl Pending {
    fn open(message: Message) -> Self {
        match Envelope::open(message) {
            Ok(Envelope::Request(request)) => Pending::Request(request, Instant::now()),
            Ok(Envelope::Bye) => Pending::Bye,
            Err(refused) => Pending::Refused(refused.id, refused.error),
        }
    }
}

/// What [`Connection::split`] found.
#[derive(Debug, Clone, Copy, Default)]
pub struct Split {
    /// Whether anything was queued or discarded.
    pub moved: bool,
    /// Whether the host sent a byte 0xFF, which asks for the greeting.
    pub resync: bool,
}

/// The state of one connection.
pub struct Connection {
    /// Number of the connection; answers for an older one are not sent to this one.
    pub number: u64,
    /// What waits to be handled.
    pub queue: VecDeque<Pending>,
    /// The kinds of events that the host has subscribed to.
    pub subscriptions: Vec<String>,
    framer: Framer,
    inbox: Vec<u8>,
    outbox: VecDeque<u8>,
    /// Whether the host has closed its side: its requests are answered, then the connection ends.
    input_ended: bool,
    /// Whether reading has stopped on this side, so that a pause of the host's is no time-out.
    paused: bool,
}

impl Connection {
    /// A new connection.
    pub fn fresh(number: u64) -> Self {
        Connection {
            number,
            queue: VecDeque::new(),
            subscriptions: Vec::new(),
            framer: Framer::default(),
            inbox: Vec::new(),
            outbox: VecDeque::new(),
            input_ended: false,
            paused: false,
        }
    }

    fn has_room(&self) -> bool {
        self.queue.len() < OUTSTANDING_LIMIT && self.outbox.len() < OUTBOX_LIMIT
    }

    /// Whether more may be read now.
    pub fn may_read(&self) -> bool {
        !self.input_ended && self.has_room() && self.inbox.len() < INBOX_LIMIT
    }

    /// Whether something waits to be written.
    pub fn has_output(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Whether so much waits to be sent that no request may be handled.
    pub fn is_full(&self) -> bool {
        self.outbox.len() >= OUTBOX_LIMIT
    }

    /// When a blob that the host has begun times out, if it can.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.framer.deadline_ms().filter(|_| self.has_room() && !self.input_ended)
    }

    /// Whether the host has closed its side and nothing waits any more.
    pub fn is_drained(&self) -> bool {
        self.input_ended && self.queue.is_empty() && self.inbox.is_empty() && self.outbox.is_empty()
    }

    /// Whether the host has closed its side.
    pub fn input_has_ended(&self) -> bool {
        self.input_ended
    }

    /// Reads as much as is available and allowed.
    ///
    /// # Errors
    /// If the connection has failed.
    pub fn read(&mut self, link: &mut Link) -> io::Result<()> {
        while link.is_connected() && self.may_read() {
            let held = self.inbox.len();
            self.inbox.resize(INBOX_LIMIT, 0);
            let got = link.read(&mut self.inbox[held..]);
            let count = if let Ok(Received::Bytes(count)) = got { count } else { 0 };
            self.inbox.truncate(held + count);
            match got? {
                Received::Nothing => break,
                Received::End => self.input_ended = true,
                Received::Bytes(_) => (),
            }
        }
        Ok(())
    }

    /// Splits received bytes into messages and queues them.
    pub fn split(&mut self, now_ms: u64) -> Split {
        if !self.has_room() {
            self.paused = true;
            return Split::default();
        }
        if std::mem::take(&mut self.paused) {
            self.framer.resume(now_ms);
        }
        let mut inbox = std::mem::take(&mut self.inbox);
        let mut rest = &inbox[..];
        let mut split = Split::default();
        while self.has_room() {
            let Some(incoming) = self.framer.next(&mut rest, now_ms) else { break };
            split.moved = true;
            match incoming {
                Incoming::Resync => split.resync = true,
                Incoming::Refused(error) => self.queue.push_back(Pending::Refused(Value::Null, error)),
                Incoming::Message(message) => self.queue.push_back(Pending::open(message)),
            }
        }
        let used = inbox.len() - rest.len();
        inbox.drain(..used);
        self.inbox = inbox;
        if self.inbox.is_empty() {
            if let Some(Incoming::Message(message)) = self.framer.tick(now_ms) {
                split.moved = true;
                self.queue.push_back(Pending::open(message));
            }
        }
        split
    }

    /// Queues bytes to be sent.
    pub fn send(&mut self, bytes: &[u8]) {
        self.outbox.extend(bytes);
    }

    /// Queues an answer.
    pub fn answer(&mut self, id: &Value, answer: Result<Reply, RequestError>) {
        self.send(&answer.map_or_else(|error| error.to_bytes(id), |reply| reply.to_bytes(id)));
    }

    /// Queues an event if the host has subscribed to its kind and reads fast enough.
    pub fn send_event(&mut self, kind: &str, line: impl FnOnce() -> Vec<u8>) {
        if self.subscriptions.iter().any(|wanted| wanted == kind) && self.outbox.len() < EVENT_LIMIT {
            self.send(&line());
        }
    }

    /// Sends as much as the host accepts now.
    ///
    /// # Errors
    /// If the connection has failed.
    pub fn write(&mut self, link: &mut Link) -> io::Result<()> {
        while !self.outbox.is_empty() {
            match link.write(self.outbox.as_slices().0)? {
                0 => break,
                written => drop(self.outbox.drain(..written)),
            }
        }
        Ok(())
    }
}
