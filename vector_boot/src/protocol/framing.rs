//! Splits the byte stream into messages: a line of JSON, and the blob that the line announces.

use serde_json::{Map, Value};

use super::packing::{pack_bytes, Packed};
use super::{code, RequestError, BLOB_LIMIT, BLOB_STALL_MS, DISCARD_SILENCE_MS, LINE_LIMIT};

/// Outside a blob, this byte drops the line in progress and asks for a new greeting.
const RESYNC: u8 = 0xFF;

/// The blob of a message, or what is wrong with it.
#[derive(Debug, Clone, PartialEq)]
pub enum Blob {
    /// The line announces no blob.
    None,
    /// The bytes; their checksum is right.
    Bytes(BlobBytes),
    /// The id of an upload (32 hexadecimal digits) that takes the place of the bytes.
    Upload(String),
    /// All announced bytes were read, but their checksum is not the announced one.
    ChecksumWrong,
    /// Some announced bytes are missing: none was read for [`BLOB_STALL_MS`].
    Stalled,
    /// More than [`BLOB_LIMIT`] bytes were announced.
    TooLarge,
    /// The announcement is not valid. If it names a number of bytes, they were read and dropped.
    Malformed,
}

/// Bytes with their checksum, so that it is computed once only.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BlobBytes {
    bytes: Vec<u8>,
    crc: u32,
}

impl BlobBytes {
    /// Their CRC-32C.
    pub fn crc(&self) -> u32 {
        self.crc
    }

    /// The bytes.
    pub fn into_vec(self) -> Vec<u8> {
        self.bytes
    }
}

impl From<Vec<u8>> for BlobBytes {
    fn from(bytes: Vec<u8>) -> Self {
        let crc = crate::crc::crc32c(&bytes);
        BlobBytes { bytes, crc }
    }
}

impl std::ops::Deref for BlobBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// One JSON object with its blob.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The members of the object, without `blob`.
    pub members: Map<String, Value>,
    /// Its blob.
    pub blob: Blob,
}

/// The next item of the stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    /// A message; not yet checked to be a request.
    Message(Message),
    /// Input that is not a message: answer it with id null.
    Refused(RequestError),
    /// The byte 0xFF: send the greeting again.
    Resync,
}

enum FramerState {
    Line { dropping: bool },
    Blob { members: Map<String, Value>, wanted: usize, crc: Option<u32> },
    Discarding,
}

/// Reads the stream in pieces of any size. Times are milliseconds of any clock that never goes back.
pub struct Framer {
    state: FramerState,
    /// What was read of the current line or blob.
    buffer: Vec<u8>,
    /// Memory for the next blob, see [`Framer::recycle`].
    spare: Vec<u8>,
    last_byte_ms: u64,
}

impl Default for Framer {
    fn default() -> Self {
        Framer { state: FramerState::Line { dropping: false }, buffer: Vec::new(), spare: Vec::new(), last_byte_ms: 0 }
    }
}

impl Framer {
    /// Reads `input` up to the end of the next item, and removes what it has read from `input`. `None`: all of `input`
    /// was read, and no item is complete.
    pub fn next(&mut self, input: &mut &[u8], now_ms: u64) -> Option<Incoming> {
        // Bytes of a blob that have arrived are never taken for lines, however late they are read.
        if matches!(self.state, FramerState::Discarding) {
            self.tick(now_ms);
        }
        if self.missing() == Some(0) {
            return self.finish_blob(None); // `take_blob` has read its last bytes
        }
        while !input.is_empty() {
            self.last_byte_ms = now_ms;
            let incoming = match &mut self.state {
                FramerState::Discarding => {
                    *input = &[];
                    None
                }
                FramerState::Blob { wanted, .. } => {
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
                FramerState::Line { .. } => self.read_line(input),
            };
            if incoming.is_some() {
                return incoming;
            }
        }
        None
    }

    /// Uses the memory of an earlier blob for the next one: new memory takes the kernel longer than the copy of the bytes.
    pub fn recycle(&mut self, mut old: Vec<u8>) {
        old.clear();
        self.spare = old;
    }

    /// How many bytes of a blob are missing, if one is being read.
    fn missing(&self) -> Option<usize> {
        match self.state {
            FramerState::Blob { wanted, .. } => Some(wanted - self.buffer.len()),
            _ => None,
        }
    }

    /// Lets `read` append the next bytes of the stream to the blob that is being read: at most as many as its second
    /// argument says. That saves copying them. `None` if no byte of a blob is missing. [`Framer::next`] returns the message.
    pub fn take_blob<T>(&mut self, now_ms: u64, read: impl FnOnce(&mut Vec<u8>, usize) -> T) -> Option<T> {
        let missing = self.missing().filter(|missing| *missing > 0)?;
        let held = self.buffer.len();
        let result = read(&mut self.buffer, missing);
        self.buffer.truncate(held + missing);
        if self.buffer.len() > held {
            self.last_byte_ms = now_ms;
        }
        Some(result)
    }

    /// Ends a blob or a discarding whose time is over. Call it at [`Framer::deadline_ms`].
    pub fn tick(&mut self, now_ms: u64) -> Option<Incoming> {
        if now_ms < self.deadline_ms()? {
            return None;
        }
        match self.state {
            FramerState::Blob { .. } => self.finish_blob(Some(Blob::Stalled)),
            _ => {
                self.state = FramerState::Line { dropping: false };
                None
            }
        }
    }

    /// Reading was paused on this side until now: that time does not count as silence of the sender.
    pub fn resume(&mut self, now_ms: u64) {
        self.last_byte_ms = now_ms;
    }

    /// When to call [`Framer::tick`]; `None` for never.
    pub fn deadline_ms(&self) -> Option<u64> {
        match self.state {
            FramerState::Line { .. } => None,
            FramerState::Blob { .. } => Some(self.last_byte_ms + BLOB_STALL_MS),
            FramerState::Discarding => Some(self.last_byte_ms + DISCARD_SILENCE_MS),
        }
    }

    fn read_line(&mut self, input: &mut &[u8]) -> Option<Incoming> {
        let end = input.iter().position(|byte| matches!(*byte, b'\n' | RESYNC));
        let piece = &input[..end.unwrap_or(input.len())];
        let FramerState::Line { dropping } = &mut self.state else { return None };
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
            return Some(Incoming::Refused(RequestError::new(
                code::PARSE_ERROR,
                format!("the line is longer than {LINE_LIMIT} bytes"),
            )));
        }
        let last = input.first()?;
        *input = &input[1..];
        self.state = FramerState::Line { dropping: false };
        let line = std::mem::take(&mut self.buffer);
        match *last {
            RESYNC => Some(Incoming::Resync),
            _ if was_dropping => None,
            _ => self.finish_line(&line),
        }
    }

    fn finish_line(&mut self, line: &[u8]) -> Option<Incoming> {
        let refuse = |code, text: &str| Some(Incoming::Refused(RequestError::new(code, text)));
        let mut members = match serde_json::from_slice(line) {
            Ok(Value::Object(members)) => members,
            Ok(Value::Array(_)) => {
                return refuse(code::INVALID_REQUEST, "batches are not supported: send one object per line");
            }
            Ok(_) => return refuse(code::INVALID_REQUEST, "the line is not a JSON object"),
            Err(_) => return refuse(code::PARSE_ERROR, "the line is not JSON"),
        };
        let Some(announced) = members.remove("blob") else {
            return Some(Incoming::Message(Message { members, blob: Blob::None }));
        };
        let blob = match announcement(&announced) {
            Announcement::Upload(id) => Blob::Upload(id),
            Announcement::Malformed => Blob::Malformed,
            Announcement::TooLarge => {
                self.state = FramerState::Discarding;
                Blob::TooLarge
            }
            Announcement::Bytes { count, crc } => {
                self.buffer = std::mem::take(&mut self.spare);
                self.buffer.reserve_exact(count);
                self.state = FramerState::Blob { members, wanted: count, crc };
                return None;
            }
        };
        Some(Incoming::Message(Message { members, blob }))
    }

    fn finish_blob(&mut self, failed: Option<Blob>) -> Option<Incoming> {
        let state = std::mem::replace(&mut self.state, FramerState::Line { dropping: false });
        let bytes = std::mem::take(&mut self.buffer);
        let FramerState::Blob { members, crc, .. } = state else { return None };
        let blob = match (failed, crc) {
            (Some(failed), _) => failed,
            (None, None) => Blob::Malformed,
            (None, Some(crc)) => {
                let bytes = BlobBytes::from(bytes);
                if bytes.crc == crc {
                    Blob::Bytes(bytes)
                } else {
                    Blob::ChecksumWrong
                }
            }
        };
        Some(Incoming::Message(Message { members, blob }))
    }
}

/// The time of the last byte is left out: see [`Framer::resume`].
impl Packed for Framer {
    fn pack(&self, out: &mut Vec<u8>) {
        match &self.state {
            FramerState::Line { dropping } => {
                0u64.pack(out);
                dropping.pack(out);
            }
            FramerState::Blob { members, wanted, crc } => {
                1u64.pack(out);
                members.pack(out);
                wanted.pack(out);
                crc.map(u64::from).pack(out);
            }
            FramerState::Discarding => 2u64.pack(out),
        }
        pack_bytes(&self.buffer, out);
    }

    fn unpack(bytes: &mut &[u8]) -> Option<Self> {
        let state = match u64::unpack(bytes)? {
            0 => FramerState::Line { dropping: bool::unpack(bytes)? },
            1 => {
                let (members, wanted) = (Map::unpack(bytes)?, usize::unpack(bytes).filter(|len| *len <= BLOB_LIMIT)?);
                let crc = match Option::<u64>::unpack(bytes)? {
                    Some(crc) => Some(u32::try_from(crc).ok()?),
                    None => None,
                };
                FramerState::Blob { members, wanted, crc }
            }
            2 => FramerState::Discarding,
            _ => return None,
        };
        let mut buffer: Vec<u8> = Vec::unpack(bytes)?;
        if let FramerState::Blob { wanted, .. } = state {
            buffer.reserve_exact(wanted.checked_sub(buffer.len())?);
        }
        Some(Framer { state, buffer, ..Framer::default() })
    }
}

enum Announcement {
    /// `count` bytes follow; `crc` is `None` if the announced checksum is not valid.
    Bytes {
        count: usize,
        crc: Option<u32>,
    },
    TooLarge,
    Upload(String),
    Malformed,
}

fn announcement(blob: &Value) -> Announcement {
    let Some(members) = blob.as_object() else { return Announcement::Malformed };
    let hex = |key: &str, digits: usize| {
        let text = members.get(key)?.as_str()?;
        (text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))).then_some(text)
    };
    let Some(bytes) = members.get("bytes") else {
        let upload = hex("upload", 32).filter(|_| members.len() == 1);
        return upload.map_or(Announcement::Malformed, |id| Announcement::Upload(id.to_string()));
    };
    match (bytes.as_u64(), bytes.as_f64()) {
        (Some(count @ 1..), _) if count <= BLOB_LIMIT as u64 => {
            let crc = hex("crc32c", 8).filter(|_| members.len() == 2);
            Announcement::Bytes { count: count as usize, crc: crc.and_then(|crc| u32::from_str_radix(crc, 16).ok()) }
        }
        (_, Some(count)) if count > BLOB_LIMIT as f64 => Announcement::TooLarge,
        _ => Announcement::Malformed,
    }
}
