//! Messages between supervisor and worker: fixed size, one a packet.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::protocol::{parse_hex, ReloadReason, UpdateReason};
use crate::rts::hex;
use crate::standalone::boot::judge::Order;
use crate::sys::message;

/// Bytes of every message.
pub const MESSAGE_BYTES: usize = 256;
/// Where the digest and the text of a message start.
const DIGEST: usize = 16;
const TEXT: usize = DIGEST + 32;
const TEXT_BYTES: usize = MESSAGE_BYTES - TEXT;

/// A message.
#[derive(Debug, Clone, PartialEq)]
pub enum Control {
    /// To the worker: a beat, and how late it was.
    Beat {
        /// Number of the beat.
        beats: u64,
        /// Its lateness in microseconds.
        late_us: u32,
    },
    /// To the supervisor: the runtime is initialised.
    RuntimeReady,
    /// To the supervisor: the tensors are loaded.
    TensorsReady {
        /// How many.
        tensors: u64,
        /// SHA-256 of the executable that the image was built with, if the model's image records it.
        binary: Option<[u8; 32]>,
    },
    /// To the worker, once it has reported on its model: serve requests.
    Serve {
        /// SHA-256 of the running executable.
        executable: [u8; 32],
        /// Why the machine is in emergency mode, if it is.
        emergency: Option<String>,
    },
    /// To the supervisor: the journal is replayed, requests are answered from now on.
    Serving,
    /// To the supervisor: the model cannot be served, or no longer.
    Failed {
        /// Why, in one line.
        text: String,
    },
    /// To the supervisor: end the machine.
    Shutdown {
        /// Whether to boot it again.
        reboot: bool,
    },
    /// To the supervisor: start this many orphans, for the test of reaping.
    Orphans {
        /// How many.
        count: u64,
    },
    /// To the supervisor, with a sealed memory file: replace the worker by this executable.
    Reload {
        /// Whether the file is an RTS image with the executable, and not the executable itself.
        image: bool,
        /// The public key that signed the image, if the client gave one.
        key: Option<[u8; 32]>,
    },
    /// From the child that judges such a file, with the executable as a sealed memory file.
    Verified {
        /// SHA-256 of the executable.
        executable: [u8; 32],
    },
    /// From a probe run: the runtime of the executable works.
    Probed {
        /// Its version of the protocol.
        protocol: u32,
        /// Its version of the state that a worker hands over.
        state: u64,
    },
    /// From a new worker: it is ready to take over.
    Standby,
    /// To the old worker, with its end of a socket to the new one: hand over as soon as nothing runs.
    HandOver,
    /// From the old worker: it has handed over and does nothing more.
    Frozen,
    /// From the new worker: it serves from now on.
    TookOver,
    /// To the old worker: serve again.
    Resume {
        /// Whether the new one has not served at all.
        untouched: bool,
        /// Whether the request `reload` has been answered.
        answered: bool,
    },
    /// To the supervisor or to the worker that serves: the reload has failed.
    ReloadFailed {
        /// Why.
        reason: ReloadReason,
        /// Why, in one line.
        text: String,
    },
    /// To the new worker: its probation is over, the request `reload` is to be answered.
    ReloadDone,
    /// From the child that has read or changed the boot entries.
    Entries {
        /// The tries that the slot which runs has left; `None` once it was found good.
        counter: Option<u32>,
        /// Whether the other slot would be started if this one were out of tries.
        alternative: bool,
        /// Why another slot than the default one runs, if it does.
        fell_back: Option<String>,
    },
    /// From such a child: it could not.
    EntriesFailed {
        /// Why, in one line.
        text: String,
    },
    /// To the supervisor, with a sealed memory file (the header of an RTS image and a boot file): update the other slot.
    Update(Order),
    /// From the child that judges such a file: it is sound.
    UpdateSound,
    /// To the worker, with its end of a socket to the process that writes.
    UpdateLink {
        /// The number of the slot that is written.
        slot: u32,
    },
    /// From the process that writes: it is ready for the bytes of the partition.
    UpdateReady,
    /// To the process that writes, with a sealed memory file: the next bytes.
    UpdatePiece {
        /// Where they belong.
        offset: u64,
    },
    /// From the process that writes: so many bytes are written in all.
    UpdateWritten {
        /// How many.
        bytes: u64,
    },
    /// To the process that writes: complete the update.
    UpdateCommit,
    /// From the process that writes: the next boot starts the slot.
    UpdateDone,
    /// To the worker, or from a child: the update has failed.
    UpdateFailed {
        /// Why.
        reason: UpdateReason,
        /// Why, in one line.
        text: String,
    },
    /// To the worker: test yourself, and note the result in the shared words.
    SelfTest,
    /// To the supervisor: a line about the journal for the console.
    Notice {
        /// The line.
        text: String,
    },
}

impl Control {
    fn encode(&self) -> [u8; MESSAGE_BYTES] {
        const NONE: (u32, [u8; 32], &str) = (0, [0; 32], "");
        let key;
        let (kind, number, (small, digest, text)) = match self {
            Control::Beat { beats, late_us } => (1, *beats, (*late_us, [0; 32], "")),
            Control::RuntimeReady => (2, 0, NONE),
            Control::TensorsReady { tensors, binary } => {
                (3, *tensors, (u32::from(binary.is_some()), binary.unwrap_or_default(), ""))
            }
            Control::Failed { text } => (4, 0, (0, [0; 32], text.as_str())),
            Control::Shutdown { reboot } => (5, u64::from(*reboot), NONE),
            Control::Orphans { count } => (6, *count, NONE),
            Control::Serving => (8, 0, NONE),
            Control::Reload { image, key } => {
                (9, u64::from(*image), (u32::from(key.is_some()), key.unwrap_or_default(), ""))
            }
            Control::Verified { executable } => (10, 0, (0, *executable, "")),
            Control::Probed { protocol, state } => (11, *state, (*protocol, [0; 32], "")),
            Control::Standby => (12, 0, NONE),
            Control::HandOver => (13, 0, NONE),
            Control::Frozen => (14, 0, NONE),
            Control::TookOver => (15, 0, NONE),
            Control::Resume { untouched, answered } => (16, u64::from(*untouched), (u32::from(*answered), [0; 32], "")),
            Control::ReloadFailed { reason, text } => (17, *reason as u64, (0, [0; 32], text.as_str())),
            Control::ReloadDone => (18, 0, NONE),
            Control::Notice { text } => (20, 0, (0, [0; 32], text.as_str())),
            Control::Entries { counter, alternative, fell_back } => {
                let flags = u32::from(counter.is_some()) | u32::from(*alternative) << 1;
                (21, u64::from(counter.unwrap_or(0)), (flags, [0; 32], fell_back.as_deref().unwrap_or_default()))
            }
            Control::EntriesFailed { text } => (22, 0, (0, [0; 32], text.as_str())),
            Control::SelfTest => (23, 0, NONE),
            Control::Update(order) => {
                key = order.key.map(|key| hex(&key)).unwrap_or_default();
                (24, order.slot_bytes, (0, order.sha256, key.as_str()))
            }
            Control::UpdateSound => (25, 0, NONE),
            Control::UpdateLink { slot } => (26, 0, (*slot, [0; 32], "")),
            Control::UpdateReady => (27, 0, NONE),
            Control::UpdatePiece { offset } => (28, *offset, NONE),
            Control::UpdateWritten { bytes } => (29, *bytes, NONE),
            Control::UpdateCommit => (30, 0, NONE),
            Control::UpdateDone => (31, 0, NONE),
            Control::UpdateFailed { reason, text } => (32, *reason as u64, (0, [0; 32], text.as_str())),
            Control::Serve { executable, emergency } => {
                (7, 0, (u32::from(emergency.is_some()), *executable, emergency.as_deref().unwrap_or_default()))
            }
        };
        let mut bytes = [0; MESSAGE_BYTES];
        bytes[0] = kind;
        bytes[4..8].copy_from_slice(&small.to_le_bytes());
        bytes[8..16].copy_from_slice(&number.to_le_bytes());
        bytes[DIGEST..TEXT].copy_from_slice(&digest);
        write_text(&mut bytes[TEXT..], text);
        bytes
    }

    fn decode(bytes: &[u8; MESSAGE_BYTES]) -> Option<Self> {
        let small = u32::from_le_bytes(*bytes[4..].first_chunk()?);
        let number = u64::from_le_bytes(*bytes[8..].first_chunk()?);
        let digest = *bytes[DIGEST..].first_chunk()?;
        Some(match bytes[0] {
            1 => Control::Beat { beats: number, late_us: small },
            2 => Control::RuntimeReady,
            3 => Control::TensorsReady { tensors: number, binary: (small != 0).then_some(digest) },
            4 => Control::Failed { text: read_text(&bytes[TEXT..]) },
            5 => Control::Shutdown { reboot: number != 0 },
            6 => Control::Orphans { count: number },
            8 => Control::Serving,
            9 => Control::Reload { image: number != 0, key: (small != 0).then_some(digest) },
            10 => Control::Verified { executable: digest },
            11 => Control::Probed { protocol: small, state: number },
            12 => Control::Standby,
            13 => Control::HandOver,
            14 => Control::Frozen,
            15 => Control::TookOver,
            16 => Control::Resume { untouched: number != 0, answered: small != 0 },
            17 => {
                let reason = *ReloadReason::ALL.get(usize::try_from(number).ok()?)?;
                Control::ReloadFailed { reason, text: read_text(&bytes[TEXT..]) }
            }
            18 => Control::ReloadDone,
            20 => Control::Notice { text: read_text(&bytes[TEXT..]) },
            21 => Control::Entries {
                counter: (small & 1 != 0).then_some(u32::try_from(number).ok()?),
                alternative: small & 2 != 0,
                fell_back: Some(read_text(&bytes[TEXT..])).filter(|text| !text.is_empty()),
            },
            22 => Control::EntriesFailed { text: read_text(&bytes[TEXT..]) },
            23 => Control::SelfTest,
            24 => {
                let key = read_text(&bytes[TEXT..]);
                let key =
                    Some(key).filter(|key| !key.is_empty()).map(|key| parse_hex(&key).ok_or(())).transpose().ok()?;
                Control::Update(Order { slot_bytes: number, sha256: digest, key })
            }
            25 => Control::UpdateSound,
            26 => Control::UpdateLink { slot: small },
            27 => Control::UpdateReady,
            28 => Control::UpdatePiece { offset: number },
            29 => Control::UpdateWritten { bytes: number },
            30 => Control::UpdateCommit,
            31 => Control::UpdateDone,
            32 => {
                let reason = *UpdateReason::ALL.get(usize::try_from(number).ok()?)?;
                Control::UpdateFailed { reason, text: read_text(&bytes[TEXT..]) }
            }
            7 => Control::Serve { executable: digest, emergency: (small != 0).then(|| read_text(&bytes[TEXT..])) },
            _ => return None,
        })
    }

    /// Sends without blocking.
    ///
    /// # Errors
    /// If the other end's buffer is full or the other end is closed.
    pub fn send(&self, socket: &OwnedFd) -> io::Result<()> {
        message::send(socket, &self.encode())
    }

    /// Sends a message with a descriptor, without blocking.
    ///
    /// # Errors
    /// If the other end's buffer is full or the other end is closed.
    pub fn send_with(&self, socket: &OwnedFd, fd: BorrowedFd<'_>) -> io::Result<()> {
        message::send_with(socket, &self.encode(), &[fd])
    }

    /// Receives the next message and the descriptor that came with it; `None` for one that is not valid.
    ///
    /// # Errors
    /// WouldBlock if there is none, UnexpectedEof if the other end is closed.
    pub fn receive_with(socket: &OwnedFd) -> io::Result<Option<(Self, Option<OwnedFd>)>> {
        let mut bytes = [0; MESSAGE_BYTES];
        match message::receive_with(socket, &mut bytes)? {
            (0, _) => Err(io::ErrorKind::UnexpectedEof.into()),
            (MESSAGE_BYTES, fds) => Ok(Control::decode(&bytes).map(|control| (control, fds.into_iter().next()))),
            _ => Ok(None),
        }
    }

    /// Receives the next message; `None` for one that is not valid.
    ///
    /// # Errors
    /// WouldBlock if there is none, UnexpectedEof if the other end is closed.
    pub fn receive(socket: &OwnedFd) -> io::Result<Option<Self>> {
        let mut bytes = [0; MESSAGE_BYTES];
        match message::receive(socket, &mut bytes)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            MESSAGE_BYTES => Ok(Control::decode(&bytes)),
            _ => Ok(None),
        }
    }
}

/// Writes as much of a text as fits into `bytes`, which hold zeros; characters that are not printable ASCII become `?`.
pub fn write_text(bytes: &mut [u8], text: &str) {
    for (place, c) in bytes.iter_mut().zip(text.chars()) {
        *place = if c == ' ' || c.is_ascii_graphic() { c as u8 } else { b'?' };
    }
}

/// Reads such a text; what is not printable ASCII becomes `?`, so that a hostile sender cannot forge console lines.
pub fn read_text(bytes: &[u8]) -> String {
    let text = bytes.iter().take(TEXT_BYTES).take_while(|byte| **byte != 0);
    text.map(|byte| if *byte == b' ' || byte.is_ascii_graphic() { char::from(*byte) } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_whole_and_in_order() {
        let (a, b) = message::pair().unwrap();
        let sent = [
            Control::Beat { beats: 1 << 40, late_us: 7 },
            Control::Failed { text: "why".repeat(69) },
            Control::TensorsReady { tensors: 7, binary: Some([9; 32]) },
            Control::Serve { executable: [8; 32], emergency: Some("why".into()) },
            Control::Serve { executable: [8; 32], emergency: None },
            Control::Shutdown { reboot: true },
            Control::Serving,
            Control::Notice { text: "torn".into() },
            Control::Orphans { count: 1000 },
            Control::Reload { image: true, key: Some([7; 32]) },
            Control::Reload { image: false, key: None },
            Control::Verified { executable: [6; 32] },
            Control::Probed { protocol: 1, state: 2 },
            Control::Standby,
            Control::HandOver,
            Control::Frozen,
            Control::TookOver,
            Control::Resume { untouched: true, answered: false },
            Control::Resume { untouched: false, answered: true },
            Control::ReloadFailed { reason: ReloadReason::Probation, text: "why".into() },
            Control::ReloadDone,
            Control::Entries { counter: Some(3), alternative: false, fell_back: None },
            Control::Entries { counter: None, alternative: true, fell_back: Some("why".into()) },
            Control::EntriesFailed { text: "why".into() },
            Control::SelfTest,
            Control::Update(Order { slot_bytes: 1 << 40, sha256: [5; 32], key: Some([4; 32]) }),
            Control::Update(Order { slot_bytes: 4096, sha256: [5; 32], key: None }),
            Control::UpdateSound,
            Control::UpdateLink { slot: 2 },
            Control::UpdateReady,
            Control::UpdatePiece { offset: 1 << 40 },
            Control::UpdateWritten { bytes: 1 << 40 },
            Control::UpdateCommit,
            Control::UpdateDone,
            Control::UpdateFailed { reason: UpdateReason::Stopped, text: "why".into() },
        ];
        sent.iter().for_each(|control| control.send(&a).unwrap());
        for control in &sent {
            assert_eq!(Control::receive(&b).unwrap().as_ref(), Some(control));
        }
        assert_eq!(Control::receive(&b).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        Control::HandOver.send_with(&a, std::os::fd::AsFd::as_fd(&a)).unwrap();
        assert!(matches!(Control::receive_with(&b), Ok(Some((Control::HandOver, Some(_))))));
        drop(a);
        assert_eq!(Control::receive(&b).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn texts_cannot_forge_lines() {
        let mut bytes = [0; TEXT_BYTES];
        write_text(&mut bytes, "a\nvector_boot: phase=heartbeat\u{1b}[2J");
        assert_eq!(read_text(&bytes), "a?vector_boot: phase=heartbeat?[2J");
        bytes[1] = b'\n';
        assert!(!read_text(&bytes).contains('\n'));
    }
}
