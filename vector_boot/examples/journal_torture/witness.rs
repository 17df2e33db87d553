//! Tells another process what a machine does, at once: it knows all of it when this process ends at any moment.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;

use vector_boot::journal::device::simulated::{Disk, Event};
use vector_boot::journal::storage::BlockDevice;
use vector_boot::sys::allocations::uncounted;

/// Bytes of the head of a record: its kind and two numbers.
const HEAD: usize = 17;

/// Where it is told. Clones are the same place.
#[derive(Clone)]
pub struct Witness(Arc<File>);

/// What was told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// What was written and flushed.
    pub events: Vec<Event>,
    /// What was acknowledged: the number of events, the index of the state and the number of the boot.
    pub acknowledged: Vec<(usize, usize, u64)>,
}

impl Witness {
    /// One that writes to the standard output, without a buffer.
    ///
    /// # Errors
    /// If the system has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Witness(Arc::new(io::stdout().as_fd().try_clone_to_owned()?.into())))
    }

    fn put(&self, kind: u8, numbers: [u64; 2], bytes: &[u8]) -> io::Result<()> {
        let mut head = [kind; HEAD];
        head[1..9].copy_from_slice(&numbers[0].to_le_bytes());
        head[9..].copy_from_slice(&numbers[1].to_le_bytes());
        (&*self.0).write_all(&head)?;
        (&*self.0).write_all(bytes)
    }

    /// This state was acknowledged in this boot.
    ///
    /// # Errors
    /// If nobody reads it.
    pub fn acknowledged(&self, state: usize, boot: u64) -> io::Result<()> {
        self.put(b'A', [state as u64, boot], &[])
    }

    /// A handle of the disk, of which every write and flush is told before it returns.
    pub fn handle(&self, disk: &Disk) -> Box<dyn BlockDevice> {
        Box::new(Witnessed { disk: disk.clone(), witness: self.clone() })
    }
}

struct Witnessed {
    disk: Disk,
    witness: Witness,
}

impl BlockDevice for Witnessed {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        uncounted(|| self.disk.read(offset, buffer))
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        uncounted(|| self.disk.write(offset, bytes))?;
        self.witness.put(b'W', [offset, bytes.len() as u64], bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        uncounted(|| self.disk.flush())?;
        self.witness.put(b'F', [0; 2], &[])
    }
}

/// Reads what a process has told.
///
/// # Errors
/// If it ends in a record, or there is another kind.
pub fn read(mut told: &[u8]) -> Result<Told, String> {
    let mut read = Told::default();
    while let Some((head, rest)) = told.split_first_chunk::<HEAD>() {
        let number = |at: usize| head[at..].iter().take(8).rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        told = rest;
        match head[0] {
            b'A' => read.acknowledged.push((read.events.len(), number(1) as usize, number(9))),
            b'F' => read.events.push(Event::Flush),
            b'W' => {
                let (bytes, rest) = told.split_at_checked(number(9) as usize).ok_or("a write ends early")?;
                read.events.push(Event::Write(number(1), bytes.to_vec()));
                told = rest;
            }
            kind => return Err(format!("a record of kind {kind} was told")),
        }
    }
    told.is_empty().then_some(read).ok_or_else(|| "a record ends early".into())
}
