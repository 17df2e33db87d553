//! The request `upload`: blobs that are too large for one message, sent in pieces.

mod memory;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{MutexGuard, PoisonError};

use serde_json::json;

use super::Machine;
use crate::hw_mmio::word;
use crate::protocol::packing::{pack_all, unpack_all, Packed};
use crate::protocol::{
    code, required, Blob, BlobBytes, Reply, Request, RequestError, CONNECTIONS_LIMIT, OPEN_UPLOADS_LIMIT,
    UPLOAD_IDLE_MS, UPLOAD_LIMIT,
};
use crate::sys::monotonic_us;
use memory::{SpareMemory, UploadMemory};

/// How long an upload is kept after the connection has ended, and unused before another one may replace it.
const IDLE_US: u64 = UPLOAD_IDLE_MS * 1000;

/// The memory of an upload is kept for the next one if it is at most one part in so many of what is available.
const SPARE_SHARE: u64 = 8;

/// Uploads whose connection has ended, at most: as many as all connections can have open.
const LEFT_LIMIT: usize = OPEN_UPLOADS_LIMIT * CONNECTIONS_LIMIT;

/// One upload.
pub struct Upload {
    /// Chosen by the client.
    pub id: [u8; 16],
    owner: Owner,
    memory: UploadMemory,
    received: usize,
    /// CRC-32C of what was received.
    crc: u32,
    used_us: u64,
}

/// Who may use an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// The connection with this number.
    Connection(u64),
    /// Any connection that names it: its own has ended, at this time.
    Left(u64),
}

impl Upload {
    /// Its bytes; `None` while some are missing.
    pub fn bytes(&self) -> Option<&[u8]> {
        Some(self.memory.bytes()).filter(|bytes| bytes.len() == self.received)
    }

    /// Their CRC-32C.
    pub fn crc(&self) -> u32 {
        self.crc
    }

    /// Its memory file, which can be longer than the upload; nothing maps it here.
    pub fn into_file(self) -> OwnedFd {
        self.memory.into_file()
    }

    fn new(id: [u8; 16], owner: Owner, memory: UploadMemory, now_us: u64) -> Self {
        Upload { id, owner, memory, received: 0, crc: 0, used_us: now_us }
    }

    fn pack(&self, out: &mut Vec<u8>) {
        self.id.pack(out);
        let (left, number) = match self.owner {
            Owner::Connection(number) => (false, number),
            Owner::Left(since_us) => (true, since_us),
        };
        left.pack(out);
        let (total, received) = (self.memory.len() as u64, self.received as u64);
        [number, total, received, u64::from(self.crc), self.used_us].iter().for_each(|number| number.pack(out));
    }

    fn unpack(bytes: &mut &[u8], file: OwnedFd) -> Option<Self> {
        let (id, left) = (Packed::unpack(bytes)?, bool::unpack(bytes)?);
        let number = u64::unpack(bytes)?;
        let (total, received) = (usize::unpack(bytes)?, usize::unpack(bytes)?);
        let crc = u32::try_from(u64::unpack(bytes)?).ok()?;
        let memory = UploadMemory::of_file(file, total)?;
        let owner = if left { Owner::Left(number) } else { Owner::Connection(number) };
        let received = Some(received).filter(|received| *received <= total)?;
        Some(Upload { id, owner, memory, received, crc, used_us: u64::unpack(bytes)? })
    }
}

/// The open uploads of all connections. One that was left behind by a connection belongs to the next that names it.
#[derive(Default)]
pub struct Uploads {
    open: Vec<Upload>,
    spare: SpareMemory,
    /// The connections that are open.
    connections: Vec<u64>,
}

impl Uploads {
    fn find(&self, connection: u64, id: &[u8; 16]) -> Option<usize> {
        let own = |upload: &Upload| upload.owner == Owner::Connection(connection) && upload.id == *id;
        let left = |upload: &Upload| matches!(upload.owner, Owner::Left(_)) && upload.id == *id;
        self.open.iter().position(own).or_else(|| self.open.iter().position(left))
    }

    /// The bytes of a complete upload; `None` if this connection has none with this id.
    pub fn bytes(&self, connection: u64, id: &[u8; 16]) -> Option<&[u8]> {
        self.open[self.find(connection, id)?].bytes()
    }

    /// Removes a complete upload and returns it; `None` if this connection has none with this id.
    pub fn take(&mut self, connection: u64, id: &[u8; 16]) -> Option<Upload> {
        let found = self.find(connection, id).filter(|found| self.open[*found].bytes().is_some())?;
        let mut upload = self.open.swap_remove(found);
        upload.owner = Owner::Connection(connection);
        Some(upload)
    }

    /// Puts back an upload that was not used.
    fn put_back(&mut self, mut upload: Upload) {
        // The connection may have ended meanwhile.
        if !matches!(upload.owner, Owner::Connection(owner) if self.connections.contains(&owner)) {
            upload.owner = Owner::Left(monotonic_us());
        }
        self.open.push(upload);
    }

    /// Keeps the memory of an upload that was used up, if it has at most `limit` bytes.
    fn recycle(&mut self, upload: Upload, limit: usize) {
        self.spare.keep(upload.memory, limit, monotonic_us());
    }

    /// Frees the memory that is kept for the next upload.
    pub fn drop_spare(&mut self) {
        self.spare.clear();
    }

    /// Notes that a connection was made.
    pub fn note_connection(&mut self, connection: u64) {
        if !self.connections.contains(&connection) {
            self.connections.push(connection);
        }
    }

    /// Notes that a connection has ended.
    pub fn note_end(&mut self, connection: u64, now_us: u64) {
        self.connections.retain(|open| *open != connection);
        for upload in self.open.iter_mut().filter(|upload| upload.owner == Owner::Connection(connection)) {
            upload.owner = Owner::Left(now_us);
        }
        let left = |upload: &Upload| match upload.owner {
            Owner::Left(since_us) => Some(since_us),
            Owner::Connection(_) => None,
        };
        let mut since: Vec<u64> = self.open.iter().filter_map(left).collect();
        since.sort_unstable();
        if let Some(excess) = since.len().checked_sub(LEFT_LIMIT + 1) {
            self.open.retain(|upload| left(upload).is_none_or(|since_us| since_us > since[excess]));
        }
    }

    /// Packs what is known of them, without their bytes.
    pub fn pack(&self, out: &mut Vec<u8>) {
        pack_all(self.connections.iter(), out);
        self.open.len().pack(out);
        self.open.iter().for_each(|upload| upload.pack(out));
    }

    /// The memory files of all uploads, in the order in which they are packed.
    pub fn files(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.open.iter().map(|upload| upload.memory.file())
    }

    /// Takes the place of packed ones, whose files come from `next_file`; `None` if they are not valid.
    pub fn restore(&mut self, bytes: &mut &[u8], next_file: &mut dyn FnMut() -> Option<OwnedFd>) -> Option<()> {
        let connections = unpack_all(bytes)?;
        let count = usize::unpack(bytes)?;
        let open = (0..count).map(|_| Upload::unpack(bytes, next_file()?)).collect::<Option<_>>()?;
        *self = Uploads { open, connections, spare: SpareMemory::default() };
        Some(())
    }

    /// Drops the uploads whose connection has ended too long ago, and memory that was not used again.
    pub fn expire(&mut self, now_us: u64) {
        self.spare.expire(now_us);
        let is_old =
            |upload: &Upload| matches!(upload.owner, Owner::Left(since) if now_us.saturating_sub(since) > IDLE_US);
        self.open.retain(|upload| !is_old(upload));
    }

    /// Bytes that the open uploads other than this one have yet to receive, over all connections.
    fn promised(&self, connection: u64, id: &[u8; 16]) -> u64 {
        let own = self.find(connection, id);
        let others = self.open.iter().enumerate().filter(|(index, _)| Some(*index) != own);
        others.map(|(_, upload)| (upload.memory.len() - upload.received) as u64).sum()
    }

    /// Checks that a connection may have one more upload; one that was not used for long makes room.
    fn make_room(&mut self, connection: u64, now_us: u64) -> Result<(), RequestError> {
        let own = |upload: &&Upload| upload.owner == Owner::Connection(connection);
        if self.open.iter().filter(own).count() < OPEN_UPLOADS_LIMIT {
            return Ok(());
        }
        let oldest = self.open.iter().filter(own).map(|upload| upload.used_us).min().unwrap_or(now_us);
        let wait_us = IDLE_US.saturating_sub(now_us.saturating_sub(oldest));
        if wait_us > 0 {
            let text = format!("{OPEN_UPLOADS_LIMIT} uploads are open: finish one of them");
            return Err(RequestError::new(code::BUSY, text).with(json!({"retry_ms": wait_us.div_ceil(1000)})));
        }
        self.open.retain(|upload| !own(&upload) || upload.used_us != oldest);
        Ok(())
    }

    fn open(&mut self, connection: u64, id: [u8; 16], total: usize, now_us: u64) -> Result<&mut Upload, RequestError> {
        let owner = Owner::Connection(connection);
        if self.find(connection, &id).is_none_or(|found| self.open[found].owner != owner) {
            self.make_room(connection, now_us)?;
        }
        let found = match self.find(connection, &id) {
            Some(found) => found,
            None => {
                let memory = self.spare.take(total).map_err(|_| no_memory())?;
                self.open.push(Upload::new(id, owner, memory, now_us));
                self.open.len() - 1
            }
        };
        self.open[found].owner = owner;
        Ok(&mut self.open[found])
    }

    /// Adds a piece. Returns the number of bytes received so far.
    fn add(
        &mut self,
        connection: u64,
        id: [u8; 16],
        offset: usize,
        total: usize,
        piece: &BlobBytes,
    ) -> Result<usize, RequestError> {
        let now_us = monotonic_us();
        if offset != 0 && self.find(connection, &id).is_none() {
            return Err(RequestError::new(code::UNUSABLE_BLOB, "there is no such upload: start it with offset 0"));
        }
        if offset.checked_add(piece.len()).is_none_or(|end| end > total) {
            return Err(RequestError::new(
                code::INVALID_PARAMS,
                format!("the piece ends after the total of {total} bytes"),
            ));
        }
        let upload = self.open(connection, id, total, now_us)?;
        upload.used_us = now_us;
        let refuse = |text: String| {
            Err(RequestError::new(code::INVALID_PARAMS, text).with(json!({"received": upload.received})))
        };
        if upload.memory.len() != total {
            return refuse(format!("the upload was started with a total of {}", upload.memory.len()));
        }
        let end = offset + piece.len();
        // The piece was sent again because its reply was lost.
        let repeated = end <= upload.received && upload.memory.bytes()[offset..end] == **piece;
        if !repeated && offset != upload.received {
            return refuse(format!("{} bytes were received: continue from there", upload.received));
        }
        if !repeated {
            upload.memory.write(offset, piece).map_err(|_| no_memory())?;
            upload.crc = crate::crc::combine(upload.crc, piece.crc(), piece.len());
            upload.received = end;
        }
        Ok(upload.received)
    }
}

fn no_memory() -> RequestError {
    RequestError::new(code::UNUSABLE_BLOB, "there is not enough memory for this upload")
}

impl Machine {
    /// The open uploads.
    pub fn uploads(&self) -> MutexGuard<'_, Uploads> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a connection was made. Numbers of connections must not return.
    pub fn note_connection(&self, connection: u64) {
        self.uploads().note_connection(connection);
    }

    /// Notes that a connection has ended: its uploads are kept for some time.
    pub fn note_end_of_connection(&self, connection: u64) {
        self.uploads().note_end(connection, monotonic_us());
    }

    /// Drops uploads that nobody has come back for. To be called regularly.
    pub fn expire_uploads(&self) {
        self.uploads().expire(monotonic_us());
    }

    /// Ends the use of an upload that was taken: one that is not `used` up can be used again.
    pub(super) fn finish_upload(&self, upload: Upload, used: bool) {
        match used {
            true => self.uploads().recycle(upload, self.spare_limit()),
            false => self.uploads().put_back(upload),
        }
    }

    /// Bytes of memory that may be kept for the next upload: a small part of what is available.
    fn spare_limit(&self) -> usize {
        let available = u64::from(self.page().get(word::MEMORY_AVAILABLE_KIB)) * 1024;
        if available == 0 {
            usize::MAX
        } else {
            usize::try_from(available / SPARE_SHARE).unwrap_or(usize::MAX)
        }
    }

    pub(super) fn upload(&self, request: &Request, connection: u64) -> Result<Reply, RequestError> {
        let mut params = request.params.clone();
        let id = required("upload", params.hex("upload")?)?;
        let offset = required("offset", params.integer("offset")?)?;
        let total = required("total", params.integer("total")?)?;
        params.finish()?;
        if total == 0 {
            return Err(RequestError::new(code::INVALID_PARAMS, "parameter \"total\" must be at least 1"));
        }
        let promised = self.uploads().promised(connection, &id);
        let available = u64::from(self.page().get(word::MEMORY_AVAILABLE_KIB)) * 1024 / 4 * 3;
        let available = if available > 0 { available.saturating_sub(promised).max(1) } else { 0 };
        if total > UPLOAD_LIMIT as u64 || (available > 0 && total > available) {
            let limit = if available > 0 { (UPLOAD_LIMIT as u64).min(available) } else { UPLOAD_LIMIT as u64 };
            return Err(RequestError::new(
                code::UNUSABLE_BLOB,
                format!("an upload of {total} bytes is too large: the limit is {limit}"),
            ));
        }
        let Blob::Bytes(piece) = &request.blob else {
            request.no_blob()?;
            return Err(RequestError::new(code::UNUSABLE_BLOB, "the piece is missing: send it as the blob"));
        };
        // Both are at most 2^53, and total is at most 2^30.
        let received = self.uploads().add(connection, id, offset as usize, total as usize, piece)?;
        Ok(json!({"received": received}).into())
    }
}

#[cfg(test)]
mod tests;
