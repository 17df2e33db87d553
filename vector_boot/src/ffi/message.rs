//! One protocol message in the bytes of one call.

use crate::protocol::{code, Blob, Framer, Incoming, Message, RequestError};

/// The contents of a call.
#[derive(Debug, PartialEq)]
pub struct CallContents {
    /// Whether a byte 0xFF asked for a greeting.
    pub greet: bool,
    /// The message, or why it is refused; `None` if only a greeting was asked for.
    pub message: Option<Result<Message, RequestError>>,
}

/// Reads exactly one message, which bytes 0xFF may precede. `spare`: memory for its blob.
pub fn read(bytes: &[u8], spare: Vec<u8>) -> CallContents {
    let mut framer = Framer::default();
    framer.recycle(spare);
    let (mut rest, mut greet) = (bytes, false);
    while !rest.is_empty() {
        let message = match framer.next(&mut rest, 0) {
            Some(Incoming::Resync) => {
                greet = true;
                continue;
            }
            // The blob that the line announced is skipped, as far as it is here.
            Some(Incoming::Message(message)) if message.blob == Blob::TooLarge => Ok(message),
            Some(Incoming::Message(_)) if !rest.is_empty() => {
                let text = format!("one call carries one message: {} more bytes follow", rest.len());
                Err(RequestError::new(code::INVALID_REQUEST, text))
            }
            Some(Incoming::Message(message)) => Ok(message),
            Some(Incoming::Refused(error)) => Err(error),
            // No more bytes will come, so an incomplete blob has stalled.
            None => match framer.tick(u64::MAX) {
                Some(Incoming::Message(message)) => Ok(message),
                _ => Err(RequestError::new(code::PARSE_ERROR, "the line does not end with a newline")),
            },
        };
        return CallContents { greet, message: Some(message) };
    }
    let nothing = Err(RequestError::new(code::PARSE_ERROR, "the call has no message"));
    CallContents { greet, message: (!greet).then_some(nothing) }
}
