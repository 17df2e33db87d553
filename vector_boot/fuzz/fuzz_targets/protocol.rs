#![no_main]
//! Any byte stream, split anywhere, is read into the same messages, and each is accepted or refused without a panic.

use libfuzzer_sys::fuzz_target;
use vector_boot::protocol::{Blob, Envelope, Framer, Incoming, BLOB_LIMIT};

fuzz_target!(|data: &[u8]| {
    let Some((cut, stream)) = data.split_first() else { return };
    let whole = read(stream, stream.len().max(1));
    let pieces = read(stream, usize::from(*cut).max(1));
    assert_eq!(whole, pieces);
    for incoming in whole {
        match incoming {
            Incoming::Message(message) => {
                if let Blob::Bytes(bytes) = &message.blob {
                    assert!(bytes.len() <= BLOB_LIMIT);
                }
                let _ = Envelope::open(message);
            }
            Incoming::Refused(error) => assert!(error.code < 0 && !error.message.contains('\n')),
            Incoming::Resync => (),
        }
    }
});

fn read(stream: &[u8], piece: usize) -> Vec<Incoming> {
    let mut framer = Framer::default();
    let mut all = Vec::new();
    for piece in stream.chunks(piece) {
        let mut rest = piece;
        while let Some(incoming) = framer.next(&mut rest, 0) {
            all.push(incoming);
        }
    }
    all
}
