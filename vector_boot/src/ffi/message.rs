//! One protocol message in the bytes of one call.

use crate::protocol::{Blob, Failure, Framer, Incoming, Message};

/// What a call said.
#[derive(Debug, PartialEq)]
pub struct Heard {
    /// Whether a byte 0xFF asked for a greeting.
    pub greet: bool,
    /// The message, or why there is none; nothing if a greeting was all that was asked for.
    pub message: Option<Result<Message, Failure>>,
}

/// Reads exactly one message, the bytes 0xFF before it apart.
pub fn read(bytes: &[u8]) -> Heard {
    let mut framer = Framer::default();
    let (mut rest, mut greet) = (bytes, false);
    while !rest.is_empty() {
        let message = match framer.next(&mut rest, 0) {
            Some(Incoming::Resync) => {
                greet = true;
                continue;
            }
            // What such a line announced is passed over, however much of it is here.
            Some(Incoming::Message(message)) if message.blob == Blob::TooLarge => Ok(message),
            Some(Incoming::Message(_)) if !rest.is_empty() => {
                let text = format!("one call carries one message: {} more bytes follow", rest.len());
                Err(Failure::new(-32600, text))
            }
            Some(Incoming::Message(message)) => Ok(message),
            Some(Incoming::Refused(failure)) => Err(failure),
            // There is nothing to wait for: a blob that is not all here has stalled.
            None => match framer.tick(u64::MAX) {
                Some(Incoming::Message(message)) => Ok(message),
                _ => Err(Failure::new(-32700, "the line does not end with a newline")),
            },
        };
        return Heard { greet, message: Some(message) };
    }
    let nothing = Err(Failure::new(-32700, "there is no message"));
    Heard { greet, message: (!greet).then_some(nothing) }
}
