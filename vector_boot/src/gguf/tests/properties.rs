//! Laws that hold for any file.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::builder::{string, Entry, File, Tensor};
use crate::gguf::{Gguf, HeadError, MetadataValue, TensorType, ValueType};

fn value() -> impl Strategy<Value = (u32, Vec<u8>)> {
    let scalar = |id: u32, len: usize| vec(any::<u8>(), len).prop_map(move |bytes| (id, bytes));
    let strings = vec(".{0,12}", 0..5)
        .prop_map(|all| (8u32, all.len() as u64, all.iter().flat_map(|s| string(s.as_bytes())).collect::<Vec<u8>>()));
    let numbers = vec(any::<u32>(), 0..9)
        .prop_map(|all| (4u32, all.len() as u64, all.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>()));
    prop_oneof![
        scalar(0, 1),
        scalar(3, 2),
        scalar(4, 4),
        scalar(6, 4),
        scalar(11, 8),
        scalar(12, 8),
        (0u8..2).prop_map(|b| (7, vec![b])),
        ".{0,40}".prop_map(|text| (8, string(text.as_bytes()))),
        prop_oneof![strings, numbers].prop_map(|(id, len, bytes)| (9, Entry::array("", id, len, &bytes).value)),
    ]
}

fn tensor() -> impl Strategy<Value = (Vec<u64>, u32)> {
    let type_id = prop::sample::select((0..43).filter(|id| TensorType::from_id(*id).is_some()).collect::<Vec<_>>());
    (vec(1u64..4, 1..=4), type_id).prop_map(|(mut dims, id)| {
        dims[0] *= TensorType::from_id(id).map_or(1, TensorType::block_elements);
        (dims, id)
    })
}

prop_compose! {
    fn sound_file()(
        version in 2u32..=3,
        alignment in prop::sample::select(vec![8u32, 32, 64, 4096]),
        entries in btree_map("[a-z]{1,4}(\\.[a-z0-9_-]{1,5}){1,3}", value(), 0..8),
        tensors in btree_map("[a-zA-Z0-9._]{1,20}", tensor(), 0..6),
    ) -> File {
        let mut all = vec![Entry::u32("general.alignment", alignment)];
        let taken = |key: &str| key == "general.alignment" || key == "split.count";
        all.extend(entries.into_iter().filter(|(key, _)| !taken(key)).map(|(key, (id, raw))| Entry::new(&key, id, &raw)));
        let tensors = tensors.into_iter().map(|(name, (dims, type_id))| {
            let layout = TensorType::from_id(type_id).unwrap();
            let bytes = dims.iter().product::<u64>() / layout.block_elements() * layout.block_bytes();
            Tensor { name: name.into(), dims, type_id, bytes, offset: None }
        }).collect();
        File { version, alignment: alignment.into(), entries: all, tensors, tensor_count: None, metadata_count: None }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_back(file in sound_file()) {
        let bytes = file.bytes();
        let gguf = Gguf::parse(&bytes).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(gguf.metadata.len(), file.entries.len());
        for (read, written) in gguf.metadata.iter().zip(&file.entries) {
            prop_assert_eq!(read.key.as_bytes(), &written.key[..]);
            match read.value {
                MetadataValue::Str(text) => prop_assert_eq!(string(text.as_bytes()), &written.value[..]),
                MetadataValue::Array(array) => {
                    prop_assert_eq!(array.bytes(), &written.value[12..]);
                    if array.element_type == ValueType::Str {
                        prop_assert_eq!(array.strings().count() as u64, array.len);
                    }
                }
                _ => (),
            }
        }
        prop_assert_eq!(gguf.tensors.len(), file.tensors.len());
        for (read, written) in gguf.tensors.iter().zip(&file.tensors) {
            prop_assert_eq!(read.name.as_bytes(), &written.name[..]);
            prop_assert_eq!(read.shape(), &written.dims[..]);
            prop_assert_eq!(read.bytes, written.bytes);
        }
    }

    #[test]
    fn no_prefix_is_taken_for_the_whole(file in sound_file()) {
        let bytes = file.bytes();
        let whole = Gguf::parse(&bytes).unwrap();
        let data_end = whole.tensors.last().map_or(0, |t| whole.data_offset + t.offset + t.bytes) as usize;
        for len in (0..data_end).step_by(7) {
            prop_assert!(Gguf::parse(&bytes[..len]).is_err(), "accepted {len} of {} bytes", bytes.len());
        }
    }

    #[test]
    fn a_head_gives_the_verdict_of_the_whole(file in sound_file(), cut in 0usize..4096, flip in any::<(usize, u8)>()) {
        let mut bytes = file.bytes();
        let at = flip.0 % bytes.len();
        bytes[at] ^= flip.1;
        let head = &bytes[..cut.min(bytes.len())];
        let verdict = match Gguf::parse_head(head, bytes.len() as u64) {
            Ok(gguf) => Ok(gguf),
            Err(HeadError::Invalid(error)) => Err(error),
            Err(HeadError::HeadTooShort) => return Ok(()),
        };
        // As text, for a NaN among the values equals nothing.
        prop_assert_eq!(format!("{verdict:?}"), format!("{:?}", Gguf::parse(&bytes)));
    }

    #[test]
    fn any_bytes_get_a_verdict(tail in vec(any::<u8>(), 0..200)) {
        let _ = Gguf::parse(&tail);
        let _ = Gguf::parse(&[b"GGUF\x03\0\0\0", &tail[..]].concat());
    }
}
