#![no_main]
//! Any bytes are accepted or refused without a panic, and every accessor of an accepted file can be called.

use libfuzzer_sys::fuzz_target;
use vector_boot::gguf::{Gguf, HeadError, MetadataValue};

fuzz_target!(|data: &[u8]| {
    let verdict = Gguf::parse(data);
    match &verdict {
        Ok(gguf) => walk(gguf, data),
        Err(error) => assert!(error.offset <= data.len() as u64 && !error.to_string().contains('\n')),
    }
    // A shorter head of the same file gives the same result, or asks for more.
    match Gguf::parse_head(&data[..data.len() / 2], data.len() as u64) {
        Ok(_) => assert!(verdict.is_ok()),
        Err(HeadError::Invalid(error)) => assert_eq!(Some(error), verdict.err()),
        Err(HeadError::HeadTooShort) => (),
    }
});

fn walk(gguf: &Gguf<'_>, data: &[u8]) {
    for entry in &gguf.metadata {
        if let MetadataValue::Array(array) = entry.value {
            assert!(array.strings().count() as u64 <= array.len);
        }
    }
    for tensor in &gguf.tensors {
        let start = usize::try_from(gguf.data_offset + tensor.offset).unwrap();
        let end = start + usize::try_from(tensor.bytes).unwrap();
        assert_eq!(data[start..end].len() as u64, tensor.bytes);
        assert!(tensor.elements() > 0);
    }
}
