//! One hostile file, at least, for every rule.

use super::builder::{string, Entry, File, Tensor};
use crate::gguf::{Gguf, GgufError, Rule, METADATA_LIMIT};

#[track_caller]
fn refused(bytes: &[u8], rule: Rule) -> GgufError {
    let error = Gguf::parse(bytes).expect_err("accepted");
    assert_eq!(error.rule, rule, "{error}");
    assert!(error.offset <= bytes.len() as u64, "{error}");
    assert!(!error.to_string().contains('\n'), "{error}");
    error
}

#[track_caller]
fn refused_entry(entry: Entry, rule: Rule) -> GgufError {
    refused(&File { entries: vec![entry], ..File::default() }.bytes(), rule)
}

#[track_caller]
fn refused_tensor(change: impl FnOnce(&mut Tensor), rule: Rule) -> GgufError {
    let mut file = File::default();
    change(&mut file.tensors[1]);
    refused(&file.bytes(), rule)
}

#[test]
fn a_sound_file_is_read_back() {
    let bytes = File::default().bytes();
    let gguf = Gguf::parse(&bytes).unwrap();
    assert_eq!(gguf.text("general.architecture"), Some("test"));
    assert_eq!(gguf.tensors[1].name, "b.weight");
    assert_eq!(gguf.tensors[1].shape(), [8]);
    assert_eq!((gguf.tensors[1].offset, gguf.tensors[1].bytes), (32, 32));
    assert_eq!(gguf.data_offset % 32, 0);
}

#[test]
fn r1_magic() {
    refused(b"", Rule::R1);
    refused(b"GGU", Rule::R1);
    let mut bytes = File::default().bytes();
    bytes[..4].copy_from_slice(b"FUGG");
    assert_eq!(refused(&bytes, Rule::R1).offset, 0);
}

#[test]
fn r2_version() {
    refused(b"GGUF", Rule::R2);
    for version in [0, 1, 4, 0x0300_0000] {
        assert_eq!(refused(&File { version, ..File::default() }.bytes(), Rule::R2).offset, 4);
    }
    Gguf::parse(&File { version: 2, ..File::default() }.bytes()).unwrap();
}

#[test]
fn r3_counts() {
    refused(&File::default().bytes()[..20], Rule::R3);
    for count in [1 << 20, u64::MAX, u64::MAX / 24, u64::MAX / 13 + 1] {
        refused(&File { tensor_count: Some(count), ..File::default() }.bytes(), Rule::R3);
        refused(&File { metadata_count: Some(count), ..File::default() }.bytes(), Rule::R3);
    }
    let entry = Entry::new("a", 10, &[]); // the u64 is missing, and nothing follows
    let file = File { entries: vec![entry], tensors: vec![], ..File::default() }.bytes();
    refused(&file[..24 + 13], Rule::R3);
}

#[test]
fn r4_keys() {
    for key in [&b""[..], b".", b"a.", b".a", b"a..b", b"a b", b"a\0", "ä".as_bytes(), b"a\n"] {
        let mut entry = Entry::u32("a", 0);
        entry.key = key.into();
        refused_entry(entry, Rule::R4);
    }
    let mut entry = Entry::u32("a", 0);
    entry.key = vec![b'a'; 65_536];
    refused_entry(entry.clone(), Rule::R4);
    entry.key = vec![b'a'; 65_535];
    Gguf::parse(&File { entries: vec![entry], ..File::default() }.bytes()).unwrap();
    let entry = Entry::u32("nomic-bert.Block_Count.0", 0);
    Gguf::parse(&File { entries: vec![entry], ..File::default() }.bytes()).unwrap();
}

#[test]
fn r5_unique_keys() {
    let entries = vec![Entry::u32("a", 0), Entry::u32("b", 0), Entry::u32("a", 0)];
    let error = refused(&File { entries, ..File::default() }.bytes(), Rule::R5);
    assert_eq!(error.offset, 24 + 2 * 17);
}

#[test]
fn r6_value_types() {
    refused_entry(Entry::new("a", 13, &[0; 8]), Rule::R6);
    refused_entry(Entry::new("a", u32::MAX, &[0; 8]), Rule::R6);
}

#[test]
fn r7_strings() {
    for len in [u64::MAX, 1 << 63, 1 << 32, 4096] {
        refused_entry(Entry::new("a", 8, &len.to_le_bytes()), Rule::R7);
        refused_entry(Entry::array("a", 8, 1, &len.to_le_bytes()), Rule::R7);
    }
    refused_entry(Entry::text("a", &vec![b'x'; (64 << 20) + 1]), Rule::R7);
}

#[test]
fn long_strings_are_limited_by_the_head_as_a_whole() {
    // A chat template or a whole tokenizer.json may take megabytes.
    let file = |bytes: usize| {
        let entries = vec![Entry::text("tokenizer.huggingface.json", &vec![b'x'; bytes]), Entry::u32("a", 7)];
        File { entries, ..File::default() }.bytes()
    };
    let long = file((1 << 20) + 1);
    assert_eq!(Gguf::parse(&long).unwrap().text("tokenizer.huggingface.json").map(str::len), Some((1 << 20) + 1));
    let head = (METADATA_LIMIT - 4096) as usize;
    assert!(Gguf::parse(&file(head)).is_ok());
    let error = refused(&file(METADATA_LIMIT as usize), Rule::R3);
    assert!(error.to_string().ends_with("expected at most 50331648 bytes of header, metadata and tensor entries"));
}

#[test]
fn r8_utf8() {
    refused_entry(Entry::text("a", b"\xff"), Rule::R8);
    refused_entry(Entry::array("a", 8, 2, &[string(b"fine"), string(b"\xc0\x80")].concat()), Rule::R8);
}

#[test]
fn r9_bools() {
    refused_entry(Entry::new("a", 7, &[2]), Rule::R9);
    let error = refused_entry(Entry::array("a", 7, 3, &[0, 1, 255]), Rule::R9);
    assert_eq!(error.field.to_string(), "metadata[0].value[2]");
}

#[test]
fn r10_array_element_types() {
    refused_entry(Entry::array("a", 9, 0, &[]), Rule::R10);
    refused_entry(Entry::array("a", 13, 0, &[]), Rule::R10);
}

#[test]
fn r11_arrays() {
    for count in [u64::MAX, 1 << 62, 1 << 61, 1 << 40, 1000] {
        refused_entry(Entry::array("a", 10, count, &[]), Rule::R11);
        refused_entry(Entry::array("a", 8, count, &[]), Rule::R11);
    }
    refused_entry(Entry::array("a", 0, (4 << 20) + 1, &vec![0; (4 << 20) + 1]), Rule::R11);
}

#[test]
fn r12_alignment() {
    for alignment in [0u32, 1, 4, 13, 48] {
        refused_entry(Entry::u32("general.alignment", alignment), Rule::R12);
    }
    refused_entry(Entry::new("general.alignment", 5, &32u32.to_le_bytes()), Rule::R12);
    refused_entry(Entry::array("general.alignment", 4, 1, &32u32.to_le_bytes()), Rule::R12);
    // However long the value is, the refusal is short.
    let long = Entry::array("general.alignment", 0, 1 << 20, &vec![0; 1 << 20]);
    assert!(refused_entry(long, Rule::R12).to_string().contains("an array of 1048576 elements"));
    for alignment in [8u32, 4096] {
        let entries = vec![Entry::u32("general.alignment", alignment)];
        let bytes = File { entries, alignment: alignment.into(), ..File::default() }.bytes();
        assert_eq!(Gguf::parse(&bytes).unwrap().alignment, alignment);
    }
}

#[test]
fn r13_tensor_names() {
    for name in [&b""[..], b"a\0b", b"\xff", &[b'a'; 64]] {
        refused_tensor(|tensor| tensor.name = name.into(), Rule::R13);
    }
    let mut file = File::default();
    file.tensors[0].name = vec![b'a'; 63];
    Gguf::parse(&file.bytes()).unwrap();
}

#[test]
fn r14_unique_tensors() {
    refused_tensor(|tensor| tensor.name = b"a.weight".into(), Rule::R14);
}

#[test]
fn r15_dimension_count() {
    refused_tensor(|tensor| tensor.dims = vec![], Rule::R15);
    refused_tensor(|tensor| tensor.dims = vec![8, 1, 1, 1, 1], Rule::R15);
}

#[test]
fn r16_dimensions() {
    for dim in [0, 1 << 63, u64::MAX] {
        refused_tensor(|tensor| tensor.dims = vec![8, dim], Rule::R16);
    }
}

#[test]
fn r17_tensor_types() {
    for id in [4, 5, 31, 32, 33, 36, 37, 38, 43, 256, u32::MAX] {
        refused_tensor(|tensor| tensor.type_id = id, Rule::R17);
    }
}

#[test]
fn r18_whole_blocks() {
    // 32 elements in all, but rows of 8: the total fits blocks of 32, the row does not.
    refused_tensor(|tensor| (tensor.dims, tensor.type_id) = (vec![8, 4], 8), Rule::R18);
}

#[test]
fn r19_sizes() {
    for dims in [vec![1 << 32, 1 << 32], vec![1 << 62, 2], vec![(1 << 63) - 1; 4], vec![1 << 40], vec![1 << 20]] {
        refused_tensor(|tensor| tensor.dims = dims, Rule::R19);
    }
}

#[test]
fn r20_alignment_of_offsets() {
    refused_tensor(|tensor| tensor.offset = Some(33), Rule::R20);
    refused_tensor(|tensor| tensor.offset = Some(u64::MAX), Rule::R20);
}

#[test]
fn r21_data_inside_the_file() {
    refused_tensor(|tensor| tensor.offset = Some(u64::MAX - 31), Rule::R21);
    let bytes = File::default().bytes();
    refused(&bytes[..bytes.len() - 1], Rule::R21);
}

#[test]
fn r22_contiguous() {
    refused_tensor(|tensor| tensor.offset = Some(0), Rule::R22);
    let mut file = File::default();
    (file.tensors[0].offset, file.tensors[1].offset) = (Some(32), Some(0));
    refused(&file.bytes(), Rule::R22);
}

#[test]
fn r23_nothing_behind_the_data() {
    let mut bytes = File::default().bytes();
    let len = bytes.len() as u64;
    bytes.push(0);
    assert_eq!(refused(&bytes, Rule::R23).offset, len);
    // The padding of the last tensor may be missing, as the mapping loader of llama.cpp allows.
    let tensors = vec![Tensor::f32("a", 3)];
    let bytes = File { tensors, ..File::default() }.bytes();
    Gguf::parse(&bytes[..bytes.len() - 20]).unwrap();
    refused(&bytes[..bytes.len() - 21], Rule::R21);
}

#[test]
fn r24_splits() {
    refused_entry(Entry::new("split.count", 2, &2u16.to_le_bytes()), Rule::R24);
    let entries = vec![Entry::new("split.count", 2, &1u16.to_le_bytes())];
    Gguf::parse(&File { entries, ..File::default() }.bytes()).unwrap();
}

#[test]
fn refusals_are_one_printable_line() {
    let mut entry = Entry::u32("a", 0);
    entry.key = b"\x1b[31m\r\n\xff".repeat(100);
    let text = refused_entry(entry, Rule::R4).to_string();
    assert!(text.len() < 400 && text.chars().all(|c| !c.is_control()), "{text}");
}
