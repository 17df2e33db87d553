//! The child that writes the other slot. It has the descriptors of the ESP and of one partition, and no other right; what it
//! writes was judged by another process. It follows the worker's messages until the worker closes the socket.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use super::device::PartitionDevice;
use super::judge::Order;
use super::{Refusal, BUNDLE_HEADER};
use crate::container_file::ContainerFile;
use crate::esp::{Device, Esp, EspError, Slot, Tries};
use crate::protocol::UpdateReason;
use crate::rts::{check_digest, Header};
use crate::standalone::control::Control;
use crate::standalone::reload::elf;
use crate::sys::memory::file_len;
use crate::sys::ready::{wait, Interest};
use crate::sys::{process, sandbox, signal};

/// The inherited descriptors: the socket to the worker, what was brought, the ESP, the partition of the slot.
const LINK: i32 = process::FIRST_INHERITED;
const BROUGHT: i32 = LINK + 1;
const ESP: i32 = LINK + 2;
const SLOT: i32 = LINK + 3;
/// Bytes that are copied at a time.
const PIECE: usize = 1 << 20;
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Runs the child.
///
/// # Errors
/// If it could not answer.
pub fn main(words: &[&str]) -> io::Result<()> {
    let (order, slot) = Order::parse(words).ok_or(io::ErrorKind::InvalidInput)?;
    signal::die_of_faults();
    sandbox::bind_to_parent()?;
    let link = process::inherited(LINK)?;
    let opened = |fd| process::inherited(fd).and_then(|fd| ContainerFile::from_open(File::from(fd)));
    let esp = PartitionDevice::whole(File::from(process::inherited(ESP)?))?;
    let brought = opened(BROUGHT)?;
    let partition = PartitionDevice::whole(File::from(process::inherited(SLOT)?))?.container();
    sandbox::restrict_syscalls()?;
    let started = Update::begin(esp, brought, partition, order, slot);
    match started.and_then(|update| update.follow(&link)) {
        Ok(()) => Ok(()),
        Err((reason, text)) => Control::UpdateFailed { reason, text }.send(&link),
    }
}

/// An update that is under way.
pub struct Update {
    esp: Esp<PartitionDevice>,
    brought: ContainerFile,
    partition: ContainerFile<PartitionDevice>,
    order: Order,
    slot: Slot,
    written: u64,
}

fn of_esp(error: EspError) -> Refusal {
    let reason = match &error {
        EspError::Full { .. } => UpdateReason::Room,
        _ => UpdateReason::Disk,
    };
    (reason, error.to_string())
}

fn of_partition(error: io::Error) -> Refusal {
    (UpdateReason::Disk, format!("the partition of the slot cannot be read or written: {error}"))
}

impl Update {
    /// Checks that everything has room, and takes the entries of the slot away.
    ///
    /// # Errors
    /// Why the update cannot be begun; up to then nothing has changed, unless the disk fails.
    pub fn begin(
        esp: PartitionDevice,
        brought: ContainerFile,
        partition: ContainerFile<PartitionDevice>,
        order: Order,
        slot: Slot,
    ) -> Result<Self, Refusal> {
        let mut esp = Esp::open(esp).map_err(of_esp)?;
        let own = slot.other();
        esp.default_slot().map_err(of_esp)?; // it is changed at the end
        let good = |tries| tries == Some(Tries::Blessed);
        if !good(esp.tries(own).map_err(of_esp)?) && good(esp.tries(slot).map_err(of_esp)?) {
            let text =
                format!("slot {own} is not found good yet, and slot {slot} is needed if it never is: try again later");
            return Err((UpdateReason::Trial, text));
        }
        if order.slot_bytes > partition.len {
            let (needed, room) = (order.slot_bytes, partition.len);
            let text =
                format!("the image and its hash tree need {needed} bytes, and the partition of slot {slot} has {room}");
            return Err((UpdateReason::Room, text));
        }
        esp.check_room(slot, brought.len - BUNDLE_HEADER).map_err(of_esp)?;
        esp.remove(slot).map_err(of_esp)?;
        Ok(Update { esp, brought, partition, order, slot, written: 0 })
    }

    /// Does what the worker says, until it closes the socket or the update is complete.
    fn follow(mut self, link: &OwnedFd) -> Result<(), Refusal> {
        self.say(link, &Control::UpdateReady);
        loop {
            let _ = wait(&mut [Interest::read(link.as_raw_fd())], PATIENCE);
            match Control::receive_with(link) {
                Ok(Some((Control::UpdatePiece { offset }, Some(piece)))) => {
                    self.write(offset, File::from(piece))?;
                    self.say(link, &Control::UpdateWritten { bytes: self.written });
                }
                Ok(Some((Control::UpdateCommit, _))) => {
                    self.commit()?;
                    self.say(link, &Control::UpdateDone);
                    return Ok(());
                }
                Ok(_) => (),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
                Err(_) => return Ok(()), // the worker has ended, or begins another update
            }
        }
    }

    fn say(&self, link: &OwnedFd, control: &Control) {
        let _ = control.send(link); // a worker that has gone needs no answer
    }

    /// Writes a piece behind what was written.
    ///
    /// # Errors
    /// If it belongs elsewhere, or the device fails.
    pub fn write(&mut self, offset: u64, piece: File) -> Result<(), Refusal> {
        let len = file_len(piece.as_fd()).ok().and_then(|len| u64::try_from(len).ok()).unwrap_or(0);
        let fits = self.order.slot_bytes - self.written >= len;
        if offset != self.written || len == 0 || !fits {
            let (written, announced) = (self.written, self.order.slot_bytes);
            let text = format!("expected byte {written} of {announced} next, got {len} bytes for byte {offset}");
            return Err((UpdateReason::Order, text));
        }
        let mut buffer = vec![0; PIECE.min(len as usize)];
        let mut at = 0;
        while at < len {
            let part = &mut buffer[..PIECE.min((len - at) as usize)];
            piece.read_exact_at(part, at).map_err(of_partition)?;
            self.partition.source.write(offset + at, part).map_err(of_partition)?;
            at += part.len() as u64;
        }
        self.written += len;
        Ok(())
    }

    /// Reads back and compares what was written, writes the boot file, and makes the slot the default one.
    ///
    /// # Errors
    /// The first thing that is not as it should be.
    pub fn commit(&mut self) -> Result<(), Refusal> {
        let announced = self.order.slot_bytes;
        if self.written != announced {
            let text = format!("{} bytes were written of {announced} that were announced", self.written);
            return Err((UpdateReason::Order, text));
        }
        self.partition.source.flush().map_err(of_partition)?;
        self.compare()?;
        let brought = &self.brought;
        let bytes = brought.len - BUNDLE_HEADER;
        let source = |at: u64, into: &mut [u8]| brought.source.read_exact_at(into, BUNDLE_HEADER + at);
        self.esp.install(self.slot, bytes, &source).map_err(of_esp)?;
        self.esp.set_default(self.slot).map_err(of_esp)
    }

    fn compare(&self) -> Result<(), Refusal> {
        let partition = &self.partition;
        if partition.sha256(0, self.order.slot_bytes).map_err(of_partition)? != self.order.sha256 {
            let text = "the partition does not hold what was announced: the digests differ";
            return Err((UpdateReason::Digest, text.into()));
        }
        let head = partition.read(0, BUNDLE_HEADER).map_err(of_partition)?;
        if head != self.brought.read(0, BUNDLE_HEADER).map_err(of_partition)? {
            return Err((UpdateReason::Digest, "the image does not begin with the header that was judged".into()));
        }
        let not_sound = |text: String| (UpdateReason::Format, text);
        let header =
            Header::parse(&head, partition.len, partition.container).map_err(|error| not_sound(error.to_string()))?;
        let digest = |offset, bytes| partition.sha256(offset, bytes).map_err(of_partition);
        let binary = digest(BUNDLE_HEADER, header.binary_size)?;
        check_digest("binary_sha256", 40, header.binary_sha256, binary)
            .map_err(|error| not_sound(error.to_string()))?;
        let tensors = digest(header.tensor_offset, header.tensor_size)?;
        check_digest("tensor_sha256", 72, header.tensor_sha256, tensors)
            .map_err(|error| not_sound(error.to_string()))?;
        elf::check(partition, BUNDLE_HEADER, header.binary_size).map_err(not_sound)
    }
}
