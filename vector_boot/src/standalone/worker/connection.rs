//! One connection: what came in, what waits for its turn, what goes out.

use std::collections::VecDeque;
use std::io;
use std::time::Instant;

use serde_json::Value;

use super::link::{Got, Link};
use crate::protocol::{Envelope, Failure, Framer, Incoming, Message, Reply, Request, OUTSTANDING_LIMIT};

/// Bytes read ahead of what is cut into messages, and bytes read at a time.
const INBOX_LIMIT: usize = 64 << 10;
/// With more than this waiting to be written, nothing further is taken up.
const OUTBOX_LIMIT: usize = 4 << 20;
/// With more than this waiting to be written, events are dropped.
const EVENT_LIMIT: usize = 256 << 10;

/// What waits for its turn; everything is answered in the order it came.
pub enum Pending {
    /// A request, and when it came.
    Request(Request, Instant),
    /// Something refused before it was a request, and the id to answer.
    Refused(Value, Failure),
    /// The host has taken note that the machine stops.
    Bye,
}

impl Pending {
    fn open(message: Message) -> Self {
        match Envelope::open(message) {
            Ok(Envelope::Request(request)) => Pending::Request(request, Instant::now()),
            Ok(Envelope::Bye) => Pending::Bye,
            Err((id, failure)) => Pending::Refused(id, failure),
        }
    }
}

/// The state of one connection.
pub struct Connection {
    /// Counts the connections, so that an answer for an older one is told apart.
    pub number: u64,
    /// What waits for its turn.
    pub queue: VecDeque<Pending>,
    /// The events the host wants to hear of.
    pub subscriptions: Vec<String>,
    framer: Framer,
    inbox: Vec<u8>,
    outbox: VecDeque<u8>,
    /// The host has closed its side: what it asked is answered, then the connection ends.
    input_ended: bool,
    /// Reading stopped on this side, so the host's silence means nothing.
    paused: bool,
}

impl Connection {
    /// A connection on which nothing has come or gone.
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

    /// Whether so much waits to be written that nothing may be added.
    pub fn is_full(&self) -> bool {
        self.outbox.len() >= OUTBOX_LIMIT
    }

    /// When the host's silence will mean something, if it does.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.framer.deadline_ms().filter(|_| self.has_room() && !self.input_ended)
    }

    /// Whether the host has closed its side and nothing is left to do for it but what runs.
    pub fn is_drained(&self) -> bool {
        self.input_ended && self.queue.is_empty() && self.inbox.is_empty() && self.outbox.is_empty()
    }

    /// Whether the host has closed its side.
    pub fn input_has_ended(&self) -> bool {
        self.input_ended
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// If the host has gone.
    pub fn read(&mut self, link: &mut Link) -> io::Result<()> {
        while link.is_connected() && self.may_read() {
            let held = self.inbox.len();
            self.inbox.resize(INBOX_LIMIT, 0);
            let got = link.read(&mut self.inbox[held..]);
            let count = if let Ok(Got::Bytes(count)) = got { count } else { 0 };
            self.inbox.truncate(held + count);
            match got? {
                Got::Nothing => break,
                Got::End => self.input_ended = true,
                Got::Bytes(_) => (),
            }
        }
        Ok(())
    }

    /// Cuts what was read into what waits for its turn. Tells whether anything moved, and whether the host asked for
    /// a fresh start.
    pub fn cut(&mut self, now_ms: u64) -> (bool, bool) {
        if !self.has_room() {
            self.paused = true;
            return (false, false);
        }
        if std::mem::take(&mut self.paused) {
            self.framer.resume(now_ms);
        }
        let mut inbox = std::mem::take(&mut self.inbox);
        let mut rest = &inbox[..];
        let (mut moved, mut resync) = (false, false);
        while self.has_room() {
            let Some(incoming) = self.framer.next(&mut rest, now_ms) else { break };
            moved = true;
            match incoming {
                Incoming::Resync => resync = true,
                Incoming::Refused(failure) => self.queue.push_back(Pending::Refused(Value::Null, failure)),
                Incoming::Message(message) => self.queue.push_back(Pending::open(message)),
            }
        }
        let used = inbox.len() - rest.len();
        inbox.drain(..used);
        self.inbox = inbox;
        if self.inbox.is_empty() {
            if let Some(Incoming::Message(message)) = self.framer.tick(now_ms) {
                moved = true;
                self.queue.push_back(Pending::open(message));
            }
        }
        (moved, resync)
    }

    /// Queues bytes to be written.
    pub fn send(&mut self, bytes: &[u8]) {
        self.outbox.extend(bytes);
    }

    /// Queues an answer.
    pub fn answer(&mut self, id: &Value, answer: Result<Reply, Failure>) {
        self.send(&answer.map_or_else(|failure| failure.to_bytes(id), |reply| reply.to_bytes(id)));
    }

    /// Queues an event, unless the host does not want it or reads too slowly for it.
    pub fn tell(&mut self, kind: &str, line: impl FnOnce() -> Vec<u8>) {
        if self.subscriptions.iter().any(|wanted| wanted == kind) && self.outbox.len() < EVENT_LIMIT {
            self.send(&line());
        }
    }

    /// Writes as much as the host takes now.
    ///
    /// # Errors
    /// If the host has gone.
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
