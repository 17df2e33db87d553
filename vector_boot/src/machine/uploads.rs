//! The request `upload`: blobs that are too large for one message, sent in pieces.

use serde_json::json;

use super::Machine;
use crate::hw_mmio::word;
use crate::protocol::{
    code, required, Blob, Reply, Request, RequestError, OPEN_UPLOADS_LIMIT, UPLOAD_IDLE_MS, UPLOAD_LIMIT,
};
use crate::sys::memory::Mapping;
use crate::sys::monotonic_us;

/// How long an upload is kept after the connection has ended, and unused before another one may replace it.
const IDLE_US: u64 = UPLOAD_IDLE_MS * 1000;

/// One upload.
pub struct Upload {
    /// Chosen by the client.
    pub id: [u8; 16],
    memory: Mapping,
    received: usize,
    used_us: u64,
}

impl Upload {
    /// Its bytes; `None` while some are missing.
    pub fn bytes(&self) -> Option<&[u8]> {
        Some(self.memory.bytes()).filter(|bytes| bytes.len() == self.received)
    }
}

/// The open uploads.
#[derive(Default)]
pub struct Uploads {
    open: Vec<Upload>,
    disconnected_us: Option<u64>,
}

impl Uploads {
    /// Removes a complete upload and returns it; `None` if there is none with this id.
    pub fn take(&mut self, id: &[u8; 16]) -> Option<Upload> {
        let found = self.open.iter().position(|upload| upload.id == *id && upload.bytes().is_some())?;
        Some(self.open.swap_remove(found))
    }

    /// Puts back an upload that was not used.
    pub fn put_back(&mut self, upload: Upload) {
        self.open.push(upload);
    }

    /// Notes that the client has connected or disconnected.
    pub fn note_connection(&mut self, connected: bool, now_us: u64) {
        self.disconnected_us = (!connected).then_some(now_us);
    }

    /// Drops all uploads if the client has been disconnected for too long.
    pub fn expire(&mut self, now_us: u64) {
        if self.disconnected_us.is_some_and(|since| now_us.saturating_sub(since) > IDLE_US) {
            self.open.clear();
        }
    }

    /// Bytes that the open uploads other than this one have yet to receive.
    fn promised(&self, id: &[u8; 16]) -> u64 {
        let others = self.open.iter().filter(|upload| upload.id != *id);
        others.map(|upload| (upload.memory.bytes().len() - upload.received) as u64).sum()
    }

    fn open(&mut self, id: [u8; 16], total: usize, now_us: u64) -> Result<&mut Upload, RequestError> {
        if let Some(known) = self.open.iter().position(|upload| upload.id == id) {
            return Ok(&mut self.open[known]);
        }
        if self.open.len() >= OPEN_UPLOADS_LIMIT {
            let oldest = self.open.iter().map(|upload| upload.used_us).min().unwrap_or(now_us);
            let wait_us = IDLE_US.saturating_sub(now_us.saturating_sub(oldest));
            if wait_us > 0 {
                let text = format!("{OPEN_UPLOADS_LIMIT} uploads are open: finish one of them");
                return Err(RequestError::new(code::BUSY, text).with(json!({"retry_ms": wait_us.div_ceil(1000)})));
            }
            self.open.retain(|upload| upload.used_us != oldest);
        }
        let memory = Mapping::zeroed(total)
            .map_err(|_| RequestError::new(code::UNUSABLE_BLOB, "there is not enough memory for this upload"))?;
        self.open.push(Upload { id, memory, received: 0, used_us: now_us });
        let last = self.open.len() - 1;
        Ok(&mut self.open[last])
    }

    /// Adds a piece. Returns the number of bytes received so far.
    fn add(&mut self, id: [u8; 16], offset: usize, total: usize, piece: &[u8]) -> Result<usize, RequestError> {
        let now_us = monotonic_us();
        if offset != 0 && !self.open.iter().any(|upload| upload.id == id) {
            return Err(RequestError::new(code::UNUSABLE_BLOB, "there is no such upload: start it with offset 0"));
        }
        if offset.checked_add(piece.len()).is_none_or(|end| end > total) {
            return Err(RequestError::new(
                code::INVALID_PARAMS,
                format!("the piece ends after the total of {total} bytes"),
            ));
        }
        let upload = self.open(id, total, now_us)?;
        upload.used_us = now_us;
        let refuse = |text: String| {
            Err(RequestError::new(code::INVALID_PARAMS, text).with(json!({"received": upload.received})))
        };
        if upload.memory.bytes().len() != total {
            return refuse(format!("the upload was started with a total of {}", upload.memory.bytes().len()));
        }
        let end = offset + piece.len();
        // The piece was sent again because its reply was lost.
        let repeated = end <= upload.received && upload.memory.bytes()[offset..end] == *piece;
        if !repeated && offset != upload.received {
            return refuse(format!("{} bytes were received: continue from there", upload.received));
        }
        if !repeated {
            upload.memory.bytes_mut()[offset..end].copy_from_slice(piece);
            upload.received = end;
        }
        Ok(upload.received)
    }
}

impl Machine {
    pub(super) fn upload(&self, request: &Request) -> Result<Reply, RequestError> {
        let mut params = request.params.clone();
        let id = required("upload", params.hex("upload")?)?;
        let offset = required("offset", params.integer("offset")?)?;
        let total = required("total", params.integer("total")?)?;
        params.finish()?;
        if total == 0 {
            return Err(RequestError::new(code::INVALID_PARAMS, "parameter \"total\" must be at least 1"));
        }
        let promised = self.uploads().promised(&id);
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
        let received = self.uploads().add(id, offset as usize, total as usize, piece)?;
        Ok(json!({"received": received}).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_in_order_and_may_be_repeated() {
        let mut uploads = Uploads::default();
        assert_eq!(uploads.add([1; 16], 0, 5, b"abc").unwrap(), 3);
        assert_eq!(uploads.add([1; 16], 0, 5, b"abc").unwrap(), 3);
        assert_eq!(uploads.add([1; 16], 3, 5, b"def").unwrap_err().code, -32602);
        for (offset, total, piece) in [(0, 5, &b"abd"[..]), (4, 5, b"e"), (3, 6, b"de")] {
            let error = uploads.add([1; 16], offset, total, piece).unwrap_err();
            assert_eq!((error.code, error.data), (-32602, Some(json!({"received": 3}))));
        }
        assert!(uploads.take(&[1; 16]).is_none());
        assert_eq!(uploads.add([1; 16], 3, 5, b"de").unwrap(), 5);
        assert_eq!(uploads.take(&[1; 16]).unwrap().bytes().unwrap(), b"abcde");
        assert_eq!(uploads.add([1; 16], 3, 5, b"de").unwrap_err().code, 1012);
    }

    #[test]
    fn four_are_open_at_most_and_a_host_that_left_is_forgotten() {
        let mut uploads = Uploads::default();
        for number in 0..4 {
            uploads.add([number; 16], 0, 1, b"x").unwrap();
        }
        let error = uploads.add([9; 16], 0, 1, b"x").unwrap_err();
        assert_eq!(error.code, code::BUSY);
        let now = monotonic_us();
        uploads.expire(now + 2 * IDLE_US);
        assert!(uploads.take(&[0; 16]).is_some());
        uploads.note_connection(false, now);
        uploads.expire(now + IDLE_US);
        assert!(uploads.take(&[1; 16]).is_some());
        uploads.expire(now + IDLE_US + 1);
        assert!(uploads.take(&[2; 16]).is_none());
    }
}
