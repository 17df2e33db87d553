//! One connection: bytes received, requests that wait, bytes to send.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::link::{Link, Received};
use crate::protocol::packing::{pack_all, unpack_all, Packed};
use crate::protocol::{
    Blob, Envelope, Framer, Incoming, Message, Reply, Request, RequestError, LINE_LIMIT, OUTSTANDING_LIMIT,
};

/// The most received bytes that are not yet split into messages.
const INBOX_LIMIT: usize = 64 << 10;
/// The most bytes that are read before the other connections have their turn.
const TURN_BYTES: usize = 256 << 10;
/// With more bytes than this waiting to be sent, no further request is handled.
const OUTBOX_LIMIT: usize = 4 << 20;
/// With more bytes than this waiting to be sent, events are dropped.
const EVENT_LIMIT: usize = 256 << 10;
/// A buffer that is empty and larger than this is given back.
const KEPT_BYTES: usize = 2 << 20;
/// Memory of a parsed line, for each of its bytes: a list of small numbers takes this much.
const PARSED_BYTES: usize = 16;
/// Characters of a client's name that are kept.
const NAME_LIMIT: usize = 64;

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
    queue: VecDeque<(Pending, usize)>,
    /// Memory of what waits, about.
    queued_bytes: usize,
    /// Received bytes of the message that is not complete yet.
    begun_bytes: usize,
    /// The kinds of events that the host has subscribed to.
    pub subscriptions: Vec<String>,
    /// The name that the client gave in `hello`.
    pub client: Option<String>,
    framer: Framer,
    inbox: Vec<u8>,
    outbox: VecDeque<u8>,
    /// Whether the host has closed its side: its requests are answered, then the connection ends.
    input_ended: bool,
    /// Whether something may be there to read.
    readable: bool,
    /// Whether reading has stopped on this side, so that a pause of the host's is no time-out.
    paused: bool,
    /// Whether a request is being done outside this process: those behind it wait.
    pub held: bool,
}

impl Packed for Pending {
    fn pack(&self, out: &mut Vec<u8>) {
        match self {
            Pending::Request(request, at) => {
                0u64.pack(out);
                request.pack(out);
                u64::try_from(at.elapsed().as_micros()).unwrap_or(u64::MAX).pack(out);
            }
            Pending::Refused(id, error) => {
                1u64.pack(out);
                id.pack(out);
                (error.code as u64).pack(out);
                error.message.pack(out);
                error.data.pack(out);
            }
            Pending::Bye => 2u64.pack(out),
        }
    }

    fn unpack(bytes: &mut &[u8]) -> Option<Self> {
        Some(match u64::unpack(bytes)? {
            0 => {
                let request = Request::unpack(bytes)?;
                let age = Duration::from_micros(u64::unpack(bytes)?);
                Pending::Request(request, Instant::now().checked_sub(age)?)
            }
            1 => {
                let (id, code) = (Value::unpack(bytes)?, u64::unpack(bytes)? as i64);
                let (message, data) = (String::unpack(bytes)?, Option::unpack(bytes)?);
                Pending::Refused(id, RequestError { code, message, data })
            }
            2 => Pending::Bye,
            _ => return None,
        })
    }
}

/// Everything but the stream itself. A worker that takes over reads at once, and a pause before that is no time-out.
impl Packed for Connection {
    fn pack(&self, out: &mut Vec<u8>) {
        self.number.pack(out);
        self.queue.len().pack(out);
        for (pending, bytes) in &self.queue {
            pending.pack(out);
            bytes.pack(out);
        }
        self.begun_bytes.pack(out);
        pack_all(self.subscriptions.iter(), out);
        self.client.pack(out);
        self.framer.pack(out);
        self.inbox.pack(out);
        self.outbox.len().pack(out);
        let (first, second) = self.outbox.as_slices();
        out.extend_from_slice(first);
        out.extend_from_slice(second);
        self.input_ended.pack(out);
        self.held.pack(out);
    }

    fn unpack(bytes: &mut &[u8]) -> Option<Self> {
        let number = u64::unpack(bytes)?;
        let waiting = usize::unpack(bytes)?;
        let unpacked = (0..waiting).map(|_| Some((Pending::unpack(bytes)?, usize::unpack(bytes)?)));
        let queue = unpacked.collect::<Option<VecDeque<(Pending, usize)>>>()?;
        let queued_bytes = queue.iter().fold(0usize, |sum, (_, bytes)| sum.saturating_add(*bytes));
        Some(Connection {
            queue,
            queued_bytes,
            begun_bytes: usize::unpack(bytes)?,
            subscriptions: unpack_all(bytes)?,
            client: Option::unpack(bytes)?,
            framer: Framer::unpack(bytes)?,
            inbox: Vec::unpack(bytes)?,
            outbox: Vec::unpack(bytes)?.into(),
            input_ended: bool::unpack(bytes)?,
            held: bool::unpack(bytes)?,
            readable: true,
            paused: true,
            ..Connection::fresh(number)
        })
    }
}

impl Connection {
    /// A new connection.
    pub fn fresh(number: u64) -> Self {
        Connection {
            number,
            queue: VecDeque::new(),
            queued_bytes: 0,
            begun_bytes: 0,
            subscriptions: Vec::new(),
            client: None,
            framer: Framer::default(),
            inbox: Vec::new(),
            outbox: VecDeque::new(),
            input_ended: false,
            readable: false,
            paused: false,
            held: false,
        }
    }

    /// Begins anew on the same stream, after another process has served it: what was received or queued is lost.
    pub fn begin_anew(&mut self) {
        let (subscriptions, client) = (std::mem::take(&mut self.subscriptions), self.client.take());
        *self = Connection { subscriptions, client, readable: true, ..Connection::fresh(self.number) };
    }

    /// Reading had stopped for some time: that is no time-out.
    pub fn note_pause(&mut self) {
        (self.paused, self.readable) = (true, true);
    }

    fn has_room(&self) -> bool {
        self.queue.len() < OUTSTANDING_LIMIT && self.outbox.len() < OUTBOX_LIMIT
    }

    /// Whether more may be read now. `memory`: whether there is memory for further requests of this connection.
    pub fn may_read(&self, memory: bool) -> bool {
        memory && !self.input_ended && self.has_room() && self.inbox.len() < INBOX_LIMIT
    }

    /// Notes that there is something to read, or the end.
    pub fn note_readable(&mut self) {
        self.readable = true;
    }

    /// Memory of the requests that wait, about.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Bytes that wait to be sent.
    pub fn unsent_bytes(&self) -> usize {
        self.outbox.len()
    }

    /// What waits at a position of the queue.
    pub fn waiting(&self, position: usize) -> Option<&Pending> {
        self.queue.get(position).map(|(pending, _)| pending)
    }

    /// Removes what waits at a position of the queue.
    pub fn take(&mut self, position: usize) -> Option<Pending> {
        let (pending, bytes) = self.queue.remove(position)?;
        self.queued_bytes -= bytes;
        Some(pending)
    }

    /// Removes the first waiting request that `is_it` holds for. Returns whether there was one.
    pub fn remove_first(&mut self, is_it: impl Fn(&Request) -> bool) -> bool {
        let found = self
            .queue
            .iter()
            .position(|(pending, _)| matches!(pending, Pending::Request(request, _) if is_it(request)));
        found.and_then(|position| self.take(position)).is_some()
    }

    fn push(&mut self, pending: Pending, bytes: usize) {
        self.queued_bytes += bytes;
        self.queue.push_back((pending, bytes));
    }

    /// Queues a message that was received whole.
    fn push_message(&mut self, message: Message) {
        let begun = std::mem::take(&mut self.begun_bytes);
        let blob = if let Blob::Bytes(bytes) = &message.blob { bytes.len() } else { 0 };
        self.push(Pending::open(message), blob + PARSED_BYTES * begun.saturating_sub(blob).min(LINE_LIMIT));
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
    pub fn deadline_ms(&self, memory: bool) -> Option<u64> {
        self.framer.deadline_ms().filter(|_| memory && self.has_room() && !self.input_ended)
    }

    /// Whether the host has closed its side and nothing waits any more.
    pub fn is_drained(&self) -> bool {
        let nothing_waits = self.queue.is_empty() && self.inbox.is_empty() && self.outbox.is_empty();
        self.input_ended && !self.held && nothing_waits
    }

    /// Whether the host has closed its side.
    pub fn input_has_ended(&self) -> bool {
        self.input_ended
    }

    /// Reads as much as is available and allowed. The bytes of a blob go to their place at once.
    ///
    /// # Errors
    /// If the connection has failed.
    pub fn read(&mut self, link: &mut Link, now_ms: u64, memory: bool) -> io::Result<()> {
        let mut left = TURN_BYTES;
        while self.readable && left > 0 && self.may_read(memory) {
            let in_blob = match self.inbox.is_empty() {
                true => self.framer.take_blob(now_ms, |blob, missing| link.read(blob, missing.min(left))),
                false => None,
            };
            let is_blob = in_blob.is_some();
            let room = (INBOX_LIMIT - self.inbox.len()).min(left);
            match in_blob.unwrap_or_else(|| link.read(&mut self.inbox, room))? {
                Received::Nothing => self.readable = false,
                Received::End => (self.readable, self.input_ended) = (false, true),
                Received::Bytes(count) => {
                    left = left.saturating_sub(count);
                    self.begun_bytes += if is_blob { count } else { 0 };
                }
            }
        }
        Ok(())
    }

    /// Splits received bytes into messages and queues them.
    pub fn split(&mut self, now_ms: u64, memory: bool) -> Split {
        if !memory || !self.has_room() {
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
            let left = rest.len();
            let incoming = self.framer.next(&mut rest, now_ms);
            self.begun_bytes += left - rest.len();
            let Some(incoming) = incoming else { break };
            split.moved = true;
            match incoming {
                Incoming::Resync => (split.resync, self.begun_bytes) = (true, 0),
                Incoming::Message(message) => self.push_message(message),
                Incoming::Refused(error) => {
                    self.begun_bytes = 0;
                    self.push(Pending::Refused(Value::Null, error), 0);
                }
            }
        }
        let used = inbox.len() - rest.len();
        inbox.drain(..used);
        self.inbox = inbox;
        if self.inbox.is_empty() {
            if let Some(Incoming::Message(message)) = self.framer.tick(now_ms) {
                split.moved = true;
                self.push_message(message);
            }
        }
        split
    }

    /// Notes the name that the client gave, shortened to what fits a message about it.
    pub fn note_client(&mut self, name: &str) {
        self.client = Some(name.chars().take(NAME_LIMIT).collect());
    }

    /// Queues bytes to be sent.
    pub fn send(&mut self, bytes: &[u8]) {
        self.outbox.extend(bytes);
    }

    /// Queues an answer. A client that waited for it may send the next request at once: reading is tried before waiting.
    pub fn answer(&mut self, id: &Value, answer: Result<Reply, RequestError>) {
        self.readable = true;
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
        if self.outbox.is_empty() && self.outbox.capacity() > KEPT_BYTES {
            self.outbox = VecDeque::new();
        }
        Ok(())
    }
}
