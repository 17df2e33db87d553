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
    /// What was written before is durable, except what an earlier failed flush may have lost.
    Flush,
    /// A flush failed: what was written since the last one may be lost, also if a later flush succeeds.
    FailedFlush,
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
    failures: u64,
    fault: Option<Fault>,
    /// Where the space of a sparse file ends.
    space: Option<u64>,
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

    /// Number of calls that failed.
    pub fn failures(&self) -> u64 {
        self.state().failures
    }

    /// From now on, this call fails.
    pub fn fail(&self, fault: Option<Fault>) {
        let mut state = self.state();
        state.fault = fault.map(|fault| Fault { after: state.calls[fault.call as usize] + fault.after, ..fault });
    }

    /// From now on, there is no space for what is written from this offset on.
    pub fn limit_space(&self, from: Option<u64>) {
        self.state().space = from;
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
                self.failures += 1;
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
        let range = state.range(offset, bytes.len())?;
        let counted = state.count(Call::Write);
        let space = state.space.map_or(usize::MAX, |from| from.saturating_sub(offset) as usize);
        let counted = counted.and(if space < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) });
        // A write that fails has done a half, or as much as there was space for.
        let bytes = if counted.is_ok() { bytes } else { &bytes[..space.min(bytes.len() / 2)] };
        state.bytes[range.start..range.start + bytes.len()].copy_from_slice(bytes);
        state.events.push(Event::Write(offset, bytes.to_vec()));
        counted
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut state = self.state();
        let counted = state.count(Call::Flush);
        state.events.push(if counted.is_ok() { Event::Flush } else { Event::FailedFlush });
        counted
    }
}

/// What a cut of the power may leave.
pub struct Cut<'a> {
    /// The contents that are certain, before what follows.
    pub certain: Vec<u8>,
    /// What was written after that, in order, and whether it is durable.
    pub later: Vec<(u64, &'a [u8], bool)>,
}

impl<'a> Cut<'a> {
    /// The cut before event number `cut`, of a disk with these contents in the beginning.
    pub fn new(mut bytes: Vec<u8>, events: &'a [Event], cut: usize) -> Self {
        let (mut later, mut since) = (Vec::<(u64, &[u8], bool)>::new(), 0);
        for event in &events[..cut] {
            match event {
                Event::Write(offset, bytes) => later.push((*offset, &bytes[..], false)),
                Event::FailedFlush => since = later.len(),
                Event::Flush => {
                    later[since..].iter_mut().for_each(|write| write.2 = true);
                    since = later.len();
                }
            }
        }
        let certain = later.iter().take_while(|write| write.2).count();
        later.drain(..certain).for_each(|(offset, written, _)| put(&mut bytes, offset, written));
        Cut { certain: bytes, later }
    }

    /// Number of sectors that may be as before or as written.
    pub fn sectors(&self) -> usize {
        self.later.iter().filter(|write| !write.2).map(|(_, bytes, _)| bytes.len() / SECTOR).sum()
    }

    /// The contents, if of the open sectors those are as written that `written` says, which is called in order.
    pub fn contents(&self, mut written: impl FnMut(usize) -> bool) -> Vec<u8> {
        let (mut bytes, mut number) = (self.certain.clone(), 0);
        for (offset, new, durable) in &self.later {
            for (index, sector) in new.chunks(SECTOR).enumerate() {
                let is_written = *durable || written(number);
                number += usize::from(!durable);
                if is_written {
                    put(&mut bytes, offset + (index * SECTOR) as u64, sector);
                }
            }
        }
        bytes
    }
}

/// Carries out an event.
pub fn apply(bytes: &mut [u8], event: &Event) {
    if let Event::Write(offset, written) = event {
        put(bytes, *offset, written);
    }
}

fn put(bytes: &mut [u8], offset: u64, new: &[u8]) {
    bytes[offset as usize..offset as usize + new.len()].copy_from_slice(new);
}
