//! Cuts the byte stream into messages: a line of JSON, and the blob it announces.

use serde_json::{Map, Value};

use super::{Failure, BLOB_LIMIT};

/// Bytes of the longest line, its newline included.
pub const LINE_LIMIT: usize = 65_536;

const RESYNC: u8 = 0xFF;
const STALL_MS: u64 = 2000;
const SILENCE_MS: u64 = 250;

/// What came with a line.
#[derive(Debug, Clone, PartialEq)]
pub enum Blob {
    /// Nothing was announced.
    None,
    /// The bytes, checksum verified.
    Bytes(Vec<u8>),
    /// A reference to an upload, by its id.
    Upload(String),
    /// The announced bytes came, with another checksum.
    ChecksumWrong,
    /// Fewer bytes came than announced, then none for two seconds.
    Stalled,
    /// More was announced than a blob may have.
    TooLarge,
    /// The announcement makes no sense; the bytes it announced, if it said how many, were passed over.
    Malformed,
}

/// One JSON object with its blob.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The object, `blob` taken out.
    pub members: Map<String, Value>,
    /// What came with it.
    pub blob: Blob,
}

/// What the stream held next.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    /// A message; whether it is a request is not judged yet.
    Message(Message),
    /// Something that is no message: answer with id null.
    Refused(Failure),
    /// The other side asks for a fresh start: greet again.
    Resync,
}

enum State {
    Line { dropping: bool },
    Blob { members: Map<String, Value>, wanted: usize, crc: Option<u32> },
    Discarding,
}

/// The reader's state between two pieces of input. Times are milliseconds of any clock that never goes back.
pub struct Framer {
    state: State,
    /// The line or blob so far.
    buffer: Vec<u8>,
    last_byte_ms: u64,
}

impl Default for Framer {
    fn default() -> Self {
        Framer { state: State::Line { dropping: false }, buffer: Vec::new(), last_byte_ms: 0 }
    }
}

impl Framer {
    /// Reads from `input` up to the end of the next item; what it consumed is cut off. `None`: all is consumed.
    pub fn next(&mut self, input: &mut &[u8], now_ms: u64) -> Option<Incoming> {
        // Bytes of a blob that are here have not stalled, however late the reader looks: they must never become lines.
        if matches!(self.state, State::Discarding) {
            self.tick(now_ms);
        }
        while !input.is_empty() {
            self.last_byte_ms = now_ms;
            let incoming = match &mut self.state {
                State::Discarding => {
                    *input = &[];
                    None
                }
                State::Blob { wanted, .. } => {
                    let count = input.len().min(*wanted - self.buffer.len());
                    let complete = self.buffer.len() + count == *wanted;
                    self.buffer.extend_from_slice(&input[..count]);
                    *input = &input[count..];
                    if complete {
                        self.finish_blob(None)
                    } else {
                        None
                    }
                }
                State::Line { .. } => self.read_line(input),
            };
            if incoming.is_some() {
                return incoming;
            }
        }
        None
    }

    /// Gives up what waited too long. Call it when [`Framer::deadline_ms`] has come.
    pub fn tick(&mut self, now_ms: u64) -> Option<Incoming> {
        if now_ms < self.deadline_ms()? {
            return None;
        }
        match self.state {
            State::Blob { .. } => self.finish_blob(Some(Blob::Stalled)),
            _ => {
                self.state = State::Line { dropping: false };
                None
            }
        }
    }

    /// Reading was paused by this side until now: the time does not count as silence of the other.
    pub fn resume(&mut self, now_ms: u64) {
        self.last_byte_ms = now_ms;
    }

    /// When to call [`Framer::tick`], if at all.
    pub fn deadline_ms(&self) -> Option<u64> {
        match self.state {
            State::Line { .. } => None,
            State::Blob { .. } => Some(self.last_byte_ms + STALL_MS),
            State::Discarding => Some(self.last_byte_ms + SILENCE_MS),
        }
    }

    fn read_line(&mut self, input: &mut &[u8]) -> Option<Incoming> {
        let end = input.iter().position(|byte| matches!(*byte, b'\n' | RESYNC));
        let piece = &input[..end.unwrap_or(input.len())];
        let State::Line { dropping } = &mut self.state else { return None };
        let was_dropping = *dropping;
        if !was_dropping {
            *dropping = self.buffer.len() + piece.len() >= LINE_LIMIT;
            if !*dropping {
                self.buffer.extend_from_slice(piece);
            }
        }
        let too_long = *dropping && !was_dropping;
        *input = &input[piece.len()..];
        if too_long {
            self.buffer = Vec::new();
            return Some(Incoming::Refused(Failure::new(-32700, "the line is longer than 65536 bytes")));
        }
        let last = input.first()?;
        *input = &input[1..];
        self.state = State::Line { dropping: false };
        let line = std::mem::take(&mut self.buffer);
        match *last {
            RESYNC => Some(Incoming::Resync),
            _ if was_dropping => None,
            _ => self.finish_line(&line),
        }
    }

    fn finish_line(&mut self, line: &[u8]) -> Option<Incoming> {
        let refuse = |code, text: &str| Some(Incoming::Refused(Failure::new(code, text)));
        let mut members = match serde_json::from_slice(line) {
            Ok(Value::Object(members)) => members,
            Ok(Value::Array(_)) => return refuse(-32600, "batches are not supported: send one object a line"),
            Ok(_) => return refuse(-32600, "the line is not a JSON object"),
            Err(_) => return refuse(-32700, "the line is not JSON"),
        };
        let Some(announced) = members.remove("blob") else {
            return Some(Incoming::Message(Message { members, blob: Blob::None }));
        };
        let blob = match announcement(&announced) {
            Announcement::Upload(id) => Blob::Upload(id),
            Announcement::Nonsense => Blob::Malformed,
            Announcement::TooLarge => {
                self.state = State::Discarding;
                Blob::TooLarge
            }
            Announcement::Bytes { count, crc } => {
                self.buffer = Vec::with_capacity(count);
                self.state = State::Blob { members, wanted: count, crc };
                return None;
            }
        };
        Some(Incoming::Message(Message { members, blob }))
    }

    fn finish_blob(&mut self, failed: Option<Blob>) -> Option<Incoming> {
        let state = std::mem::replace(&mut self.state, State::Line { dropping: false });
        let bytes = std::mem::take(&mut self.buffer);
        let State::Blob { members, crc, .. } = state else { return None };
        let blob = match (failed, crc) {
            (Some(failed), _) => failed,
            (None, None) => Blob::Malformed,
            (None, Some(crc)) if crc32c::crc32c(&bytes) == crc => Blob::Bytes(bytes),
            (None, Some(_)) => Blob::ChecksumWrong,
        };
        Some(Incoming::Message(Message { members, blob }))
    }
}

enum Announcement {
    /// So many bytes follow; `crc` is `None` if it is no checksum.
    Bytes {
        count: usize,
        crc: Option<u32>,
    },
    TooLarge,
    Upload(String),
    Nonsense,
}

fn announcement(blob: &Value) -> Announcement {
    let Some(members) = blob.as_object() else { return Announcement::Nonsense };
    let hex = |key: &str, digits: usize| {
        let text = members.get(key)?.as_str()?;
        (text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))).then_some(text)
    };
    let Some(bytes) = members.get("bytes") else {
        let upload = hex("upload", 32).filter(|_| members.len() == 1);
        return upload.map_or(Announcement::Nonsense, |id| Announcement::Upload(id.to_string()));
    };
    match (bytes.as_u64(), bytes.as_f64()) {
        (Some(count @ 1..), _) if count <= BLOB_LIMIT as u64 => {
            let crc = hex("crc32c", 8).filter(|_| members.len() == 2);
            Announcement::Bytes { count: count as usize, crc: crc.and_then(|crc| u32::from_str_radix(crc, 16).ok()) }
        }
        (_, Some(count)) if count > BLOB_LIMIT as f64 => Announcement::TooLarge,
        _ => Announcement::Nonsense,
    }
}
