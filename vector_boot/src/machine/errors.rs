//! The error codes of the protocol for the errors of the crate's other modules. This is the only place where such an error
//! becomes a code.

use serde_json::json;

use super::inference::InferenceError;
use crate::journal::JournalError;
use crate::lineage::LineageError;
use crate::mutation::{EditError, EditErrorKind};
use crate::pixel::{PixelError, PixelErrorKind, ProgramError};
use crate::protocol::{cancelled, code, RequestError};

impl From<LineageError> for RequestError {
    fn from(error: LineageError) -> Self {
        match error {
            LineageError::UnknownGeneration(text) => RequestError::new(code::UNKNOWN_GENERATION, text),
            LineageError::Journal(JournalError { reason, text }) => {
                let error = RequestError::new(code::JOURNAL_FAILED, format!("the machine takes no changes: {text}"));
                error.with(json!({"reason": reason.name()}))
            }
        }
    }
}

impl From<EditError> for RequestError {
    fn from(error: EditError) -> Self {
        let code = match error.kind {
            EditErrorKind::Malformed => code::INVALID_PARAMS,
            EditErrorKind::UnknownTensor => code::UNKNOWN_TENSOR,
            EditErrorKind::ProtectedTensor => code::PROTECTED_TENSOR,
            EditErrorKind::OutOfBounds => code::OUT_OF_BOUNDS,
            EditErrorKind::Mismatch => code::MISMATCH,
            EditErrorKind::Unsupported => code::UNSUPPORTED_EDIT,
        };
        RequestError::new(code, error.text)
    }
}

impl From<ProgramError> for RequestError {
    fn from(error: ProgramError) -> Self {
        let code = match error.kind {
            PixelErrorKind::Malformed => code::INVALID_PARAMS,
            PixelErrorKind::UnknownTensor => code::UNKNOWN_TENSOR,
            PixelErrorKind::Mismatch => code::MISMATCH,
            PixelErrorKind::NotFinite => code::NOT_FINITE,
            PixelErrorKind::Unsupported => code::UNSUPPORTED,
            PixelErrorKind::Cancelled => code::CANCELLED,
        };
        RequestError::new(code, error.text).with(json!({"pixel": error.pixel}))
    }
}

impl From<InferenceError> for RequestError {
    fn from(error: InferenceError) -> Self {
        match error {
            InferenceError::Unsupported(text) => RequestError::new(code::UNSUPPORTED, text),
            InferenceError::NotFinite(text) => RequestError::new(code::NOT_FINITE, text),
            InferenceError::Cancelled => cancelled(),
        }
    }
}

impl From<InferenceError> for PixelError {
    fn from(error: InferenceError) -> Self {
        let (kind, text) = match error {
            InferenceError::Unsupported(text) => (PixelErrorKind::Unsupported, text),
            InferenceError::NotFinite(text) => (PixelErrorKind::NotFinite, text),
            InferenceError::Cancelled => (PixelErrorKind::Cancelled, cancelled().message),
        };
        PixelError { kind, text }
    }
}
