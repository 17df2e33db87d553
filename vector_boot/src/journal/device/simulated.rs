//! A disk in memory, for tests: it records every write and flush, so that each state that a cut of the power can leave
//! can be made of the record, and it fails when it is told to.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::journal::storage::BlockDevice;

/// Bytes that a disk writes as one.
pub const SECTOR: usize = 512;

/// What a disk was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// These bytes were written at this offset.
    Write(u64, Vec<u8>),
    /// What was written before is durable.
    Flush,
}

/// A kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A flush.
    Flush,
}

/// A call that fails.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// The kind of call.
    pub call: Call,
    /// How many calls of this kind succeed before.
    pub after: u64,
    /// Whether all later ones fail too.
    pub for_ever: bool,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    events: Vec<Event>,
    calls: [u64; 3],
    fault: Option<Fault>,
}

/// A disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct Disk(Arc<Mutex<State>>);

impl Disk {
    /// A disk with these contents.
    pub fn new(bytes: Vec<u8>) -> Self {
        Disk(Arc::new(Mutex::new(State { bytes, ..State::default() })))
    }

    /// A disk of zeros.
    pub fn blank(bytes: usize) -> Self {
        Disk::new(vec![0; bytes])
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handle for a journal.
    pub fn handle(&self) -> Box<dyn BlockDevice> {
        Box::new(self.clone())
    }

    /// A copy of its contents.
    pub fn bytes(&self) -> Vec<u8> {
        self.state().bytes.clone()
    }

    /// Changes its contents without a record.
    pub fn alter(&self, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.state().bytes);
    }

    /// Number of events so far.
    pub fn events(&self) -> usize {
        self.state().events.len()
    }

    /// All events so far.
    pub fn record(&self) -> Vec<Event> {
        self.state().events.clone()
    }

    /// Number of calls of a kind so far.
    pub fn calls(&self, call: Call) -> u64 {
        self.state().calls[call as usize]
    }

    /// From now on, this call fails.
    pub fn fail(&self, fault: Option<Fault>) {
        let mut state = self.state();
        state.fault = fault.map(|fault| Fault { after: state.calls[fault.call as usize] + fault.after, ..fault });
    }
}

impl State {
    fn count(&mut self, call: Call) -> io::Result<()> {
        let number = self.calls[call as usize];
        self.calls[call as usize] += 1;
        match self.fault {
            Some(fault)
                if fault.call == call && (number == fault.after || (fault.for_ever && number > fault.after)) =>
            {
                Err(io::Error::other(format!("{call:?} {number} fails")))
            }
            _ => Ok(()),
        }
    }

    fn range(&self, offset: u64, len: usize) -> io::Result<std::ops::Range<usize>> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let end = start.checked_add(len).filter(|end| *end <= self.bytes.len()).ok_or(io::ErrorKind::InvalidInput)?;
        let aligned = start.is_multiple_of(4096) && len.is_multiple_of(4096) && len > 0;
        if !aligned {
            return Err(io::Error::other(format!("a call is not aligned: {len} bytes at {offset}")));
        }
        Ok(start..end)
    }
}

impl BlockDevice for Disk {
    fn size(&self) -> u64 {
        self.state().bytes.len() as u64
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut state = self.state();
        state.count(Call::Read)?;
        let range = state.range(offset, buffer.len())?;
        buffer.copy_from_slice(&state.bytes[range]);
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        state.count(Call::Write)?;
        let range = state.range(offset, bytes.len())?;
        state.bytes[range].copy_from_slice(bytes);
        state.events.push(Event::Write(offset, bytes.to_vec()));
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut state = self.state();
        state.count(Call::Flush)?;
        state.events.push(Event::Flush);
        Ok(())
    }
}

/// What a cut of the power may leave: `bytes` at the beginning of the record, then its first `cut` events.
pub struct Cut<'a> {
    /// The contents that are certain.
    pub certain: Vec<u8>,
    /// Writes that no flush made durable, in order.
    pub open: Vec<(u64, &'a [u8])>,
}

impl<'a> Cut<'a> {
    /// The cut before event number `cut`.
    pub fn new(mut bytes: Vec<u8>, events: &'a [Event], cut: usize) -> Self {
        let flushed = events[..cut].iter().rposition(|event| *event == Event::Flush).map_or(0, |last| last + 1);
        events[..flushed].iter().for_each(|event| apply(&mut bytes, event));
        let write = |event: &'a Event| match event {
            Event::Write(offset, bytes) => Some((*offset, &bytes[..])),
            Event::Flush => None,
        };
        Cut { certain: bytes, open: events[flushed..cut].iter().filter_map(write).collect() }
    }

    /// Number of sectors that may be as before or as written.
    pub fn sectors(&self) -> usize {
        self.open.iter().map(|(_, bytes)| bytes.len() / SECTOR).sum()
    }

    /// The contents, if of the open sectors those are as written that `written` says, which is called in order.
    pub fn contents(&self, mut written: impl FnMut(usize) -> bool) -> Vec<u8> {
        let mut bytes = self.certain.clone();
        let sectors = self.open.iter().flat_map(|(offset, bytes)| {
            bytes.chunks_exact(SECTOR).enumerate().map(move |(n, sector)| (*offset as usize + n * SECTOR, sector))
        });
        for (number, (at, sector)) in sectors.enumerate() {
            if written(number) {
                bytes[at..at + SECTOR].copy_from_slice(sector);
            }
        }
        bytes
    }
}

/// Carries out an event.
pub fn apply(bytes: &mut [u8], event: &Event) {
    if let Event::Write(offset, written) = event {
        bytes[*offset as usize..*offset as usize + written.len()].copy_from_slice(written);
    }
}
