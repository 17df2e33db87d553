//! Where the blob of a mutation comes from.

use super::uploads::Upload;
use super::Machine;
use crate::mutation::request::Mutation;
use crate::protocol::{code, parse_hex, Blob, BlobBytes, Request, RequestError};

/// The blob of a mutation.
pub(super) enum BlobSource<'a> {
    None,
    Message(&'a BlobBytes),
    Upload(Upload),
}

impl BlobSource<'_> {
    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            BlobSource::None => &[],
            BlobSource::Message(bytes) => bytes,
            BlobSource::Upload(upload) => upload.bytes().unwrap_or_default(),
        }
    }

    /// CRC-32C of them.
    pub(super) fn crc(&self) -> u32 {
        match self {
            BlobSource::None => 0,
            BlobSource::Message(bytes) => bytes.crc(),
            BlobSource::Upload(upload) => upload.crc(),
        }
    }

    /// The id of the upload; zero if it is none.
    pub(super) fn upload_id(&self) -> [u8; 16] {
        match self {
            BlobSource::None | BlobSource::Message(_) => [0; 16],
            BlobSource::Upload(upload) => upload.id,
        }
    }
}

impl Machine {
    /// The blob of a mutation. An upload is taken: it must be put back if the mutation is refused.
    ///
    /// # Errors
    /// 1012, 1011 or -32602.
    pub(super) fn source<'a>(
        &self,
        request: &'a Request,
        connection: u64,
        mutation: &Mutation,
    ) -> Result<BlobSource<'a>, RequestError> {
        let unknown = || RequestError::new(code::UNUSABLE_BLOB, "there is no such upload, or it is not complete");
        match &request.blob {
            Blob::Bytes(bytes) => Ok(BlobSource::Message(bytes)),
            Blob::Upload(id) => {
                let id = parse_hex(id).ok_or_else(unknown)?;
                self.uploads().take(connection, &id).map(BlobSource::Upload).ok_or_else(unknown)
            }
            _ => {
                request.no_blob()?;
                let needed = mutation.edits.iter().any(|edit| edit.part().is_some_and(|part| part.len > 0));
                match needed {
                    true => {
                        Err(RequestError::new(code::UNUSABLE_BLOB, "the blob is missing: an edit has a part of it"))
                    }
                    false => Ok(BlobSource::None),
                }
            }
        }
    }
}
