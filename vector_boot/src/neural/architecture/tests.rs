use proptest::prelude::*;

use super::*;
use crate::gguf::tests::builder::{string, Entry, File, Tensor};
use crate::gguf::TensorType;
use crate::neural::config::Pooling;

const F32: u32 = 0;
const F16: u32 = 1;
const Q8_0: u32 = 8;
const I8: u32 = 24;
const I32: u32 = 26;
const IQ4_NL: u32 = 20;
const TOKENS: u64 = 7;

fn tensor(name: &str, dims: &[u64], type_id: u32) -> Tensor {
    let layout = TensorType::from_id(type_id).unwrap();
    let bytes = dims.iter().product::<u64>() / layout.block_elements() * layout.block_bytes();
    Tensor { name: name.into(), dims: dims.into(), type_id, bytes, offset: None }
}

/// A valid bert of two blocks: width 32, feed-forward width 64, 4 heads, 8 positions; the second block is fused.
fn bert() -> File {
    let strings: Vec<u8> = (0..TOKENS).flat_map(|id| string(id.to_string().as_bytes())).collect();
    let entries = vec![
        Entry::text("general.architecture", b"bert"),
        Entry::u32("bert.block_count", 2),
        Entry::u32("bert.context_length", 8),
        Entry::u32("bert.embedding_length", 32),
        Entry::u32("bert.feed_forward_length", 64),
        Entry::u32("bert.attention.head_count", 4),
        Entry::new("bert.attention.layer_norm_epsilon", 6, &1e-12f32.to_le_bytes()),
        Entry::new("bert.attention.causal", 7, &[0]),
        Entry::u32("bert.pooling_type", 1),
        Entry::text("tokenizer.ggml.model", b"bert"),
        Entry::array("tokenizer.ggml.tokens", 8, TOKENS, &strings),
        Entry::u32("tokenizer.ggml.token_type_count", 2),
    ];
    let mut tensors = vec![
        tensor("token_embd.weight", &[32, TOKENS], Q8_0),
        tensor("position_embd.weight", &[32, 8], F32),
        tensor("token_types.weight", &[32, 2], F32),
    ];
    let mut pair = |stem: &str, dims: &[u64], type_id| {
        tensors.push(tensor(&format!("{stem}.weight"), dims, type_id));
        tensors.push(tensor(&format!("{stem}.bias"), &dims[dims.len() - 1..], F32));
    };
    pair("token_embd_norm", &[32], F32);
    for part in ["attn_q", "attn_k", "attn_v"] {
        pair(&format!("blk.0.{part}"), &[32, 32], F16);
    }
    pair("blk.1.attn_qkv", &[32, 96], Q8_0);
    for block in 0..2 {
        pair(&format!("blk.{block}.attn_output"), &[32, 32], F16);
        pair(&format!("blk.{block}.attn_output_norm"), &[32], F32);
        pair(&format!("blk.{block}.ffn_up"), &[32, 64], F16);
        pair(&format!("blk.{block}.ffn_down"), &[64, 32], Q8_0);
        pair(&format!("blk.{block}.layer_output_norm"), &[32], F32);
    }
    File { entries, tensors, ..File::default() }
}

fn checked(file: &File) -> Result<Hyperparameters, NetworkError> {
    check(&Gguf::parse(&file.bytes()).expect("a sound container"))
}

/// The bert with a metadata entry put in place of the one with its key, or added.
fn with(entry: Entry) -> File {
    let mut file = without(std::str::from_utf8(&entry.key).unwrap());
    file.entries.push(entry);
    file
}

/// The bert without the key or tensor of this name.
fn without(name: &str) -> File {
    let mut file = bert();
    file.entries.retain(|entry| entry.key != name.as_bytes());
    file.tensors.retain(|tensor| tensor.name != name.as_bytes());
    file
}

/// The bert with this tensor, in the place of one with its name.
fn with_tensor(new: Tensor) -> File {
    let mut file = without(std::str::from_utf8(&new.name).unwrap());
    file.tensors.push(new);
    file
}

#[track_caller]
fn invalid(file: &File, why: &str) {
    assert_eq!(checked(file), Err(NetworkError::Invalid(why.to_string())));
}

#[track_caller]
fn unsupported(file: &File, why: &str) {
    assert_eq!(checked(file), Err(NetworkError::Unsupported(why.to_string())));
}

#[test]
fn hyperparameters_are_read() {
    let numbers = checked(&bert()).unwrap();
    assert_eq!((numbers.blocks, numbers.context, numbers.embedding, numbers.feed_forward), (2, 8, 32, 64));
    assert_eq!((numbers.heads, numbers.tokens, numbers.token_types), (4, 7, Some(2)));
    assert_eq!((numbers.epsilon, numbers.pooling, numbers.max_tokens), (1e-12, Pooling::Mean, 8));
    let config = numbers.config();
    assert_eq!((config.blocks, config.embedding, config.feed_forward, config.heads), (2, 32, 64, 4));
    assert_eq!((config.context, config.normalize), (8, true));
}

#[test]
fn the_limit_of_tokens_never_exceeds_the_context() {
    let key = "vector_boot.max_tokens";
    for (limit, most) in [(2, 2), (5, 5), (8, 8), (256, 8)] {
        let numbers = checked(&with(Entry::u32(key, limit))).unwrap();
        assert_eq!((numbers.max_tokens, numbers.config().context), (most, most as usize), "{limit}");
    }
    invalid(&with(Entry::u32(key, 1)), &format!("{key} is 1, expected at least 2"));
    invalid(&with(Entry::text(key, b"256")), &format!("{key} is a string of 3 bytes, expected a number of type u32"));
}

#[test]
fn parts_that_llama_cpp_does_without_may_be_absent() {
    let mut file = without("token_types.weight");
    assert!(checked(&file).is_ok());
    file.tensors.retain(|tensor| {
        let name = std::str::from_utf8(&tensor.name).unwrap();
        name.contains("norm") || !name.ends_with(".bias")
    });
    assert!(checked(&file).is_ok());
    let bias = with_tensor(tensor("blk.0.ffn_up.bias", &[32], F32));
    invalid(&bias, "tensor blk.0.ffn_up.bias has the shape 32, expected 64");
    let types = with_tensor(tensor("token_types.weight", &[32, 3], F32));
    invalid(&types, "tensor token_types.weight has the shape 32 x 3, expected 32 x 2");
}

#[test]
fn a_rerankers_classifier_may_be_there() {
    let mut file = bert();
    file.tensors.push(tensor("cls.weight", &[32, 32], F16));
    file.tensors.push(tensor("cls.bias", &[32], F32));
    file.tensors.push(tensor("cls.output.weight", &[32, 3], F16));
    file.tensors.push(tensor("cls.output.bias", &[3], F32));
    assert!(checked(&file).is_ok());
    let wrong = with_tensor(tensor("cls.output.weight", &[64, 3], F16));
    invalid(&wrong, "tensor cls.output.weight has the shape 64 x 3, expected 32 x 3 or more");
}

#[test]
fn attention_of_other_shapes_is_unsupported() {
    for (name, same, other) in [("head_count_kv", 4, 2), ("key_length", 8, 16), ("value_length", 8, 4)] {
        let key = format!("bert.attention.{name}");
        assert!(checked(&with(Entry::u32(&key, same))).is_ok());
        unsupported(&with(Entry::u32(&key, other)), &format!("{key} is {other}, expected {same}"));
    }
}

#[test]
fn what_makes_no_embeddings_is_unsupported() {
    let only = "only bert makes embeddings";
    let llama = with(Entry::text("general.architecture", b"llama"));
    unsupported(&llama, &format!("the model's architecture is llama, {only}"));
    unsupported(&without("general.architecture"), &format!("the model has no general.architecture, {only}"));
    let t5 = with(Entry::text("tokenizer.ggml.model", b"t5"));
    unsupported(&t5, &format!("the model's tokenizer is t5, {only}"));
    let choices = "expected 1 (mean), 2 (cls) or 3 (last)";
    for (number, name) in [(0, "0 (none)"), (4, "4 (rank)")] {
        unsupported(&with(Entry::u32("bert.pooling_type", number)), &format!("bert.pooling_type is {name}, {choices}"));
    }
    let absent = format!("bert.pooling_type is absent, {choices}: give the pooling type when the image is built");
    unsupported(&without("bert.pooling_type"), &absent);
    let types = "expected one of F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1";
    let exotic = with_tensor(tensor("blk.0.ffn_up.weight", &[32, 64], IQ4_NL));
    unsupported(&exotic, &format!("tensor blk.0.ffn_up.weight has the type IQ4_NL, {types}"));
}

#[test]
fn cls_and_last_pooling_are_read() {
    for (number, pooling) in [(2, Pooling::Cls), (3, Pooling::Last)] {
        let numbers = checked(&with(Entry::u32("bert.pooling_type", number))).unwrap();
        assert_eq!(numbers.pooling, pooling);
    }
}

#[test]
fn wrong_keys_are_named() {
    invalid(&with(Entry::u32("bert.pooling_type", 5)), "bert.pooling_type is 5, expected 0 to 4");
    invalid(&with(Entry::new("bert.pooling_type", 7, &[1])), "bert.pooling_type is true, expected a u32");
    invalid(&with(Entry::new("bert.attention.causal", 7, &[1])), "bert.attention.causal is true, expected false");
    invalid(&with(Entry::u32("bert.attention.causal", 0)), "bert.attention.causal is 0, expected false");
    let divisor = "bert.attention.head_count is 5, expected a divisor of embedding_length, 32";
    invalid(&with(Entry::u32("bert.attention.head_count", 5)), divisor);
    let key = "bert.attention.head_count";
    invalid(&with(Entry::u32(key, 0)), &format!("{key} is 0, expected at least 1"));
    invalid(&with(Entry::new(key, 5, &[4, 0, 0, 0])), &format!("{key} is 4, expected a number of type u32"));
    let large = format!("{key} is 4294967300, expected a number of type u32");
    invalid(&with(Entry::new(key, 10, &4_294_967_300u64.to_le_bytes())), &large);
    invalid(&with(Entry::u32("bert.context_length", 1)), "bert.context_length is 1, expected at least 2");
    for epsilon in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let key = "bert.attention.layer_norm_epsilon";
        let file = with(Entry::new(key, 6, &epsilon.to_le_bytes()));
        invalid(&file, &format!("{key} is {epsilon}, expected a finite f32 above 0"));
    }
    let tokens = with(Entry::u32("tokenizer.ggml.tokens", 3));
    invalid(&tokens, "tokenizer.ggml.tokens is 3, expected an array of strings");
    let architecture = with(Entry::u32("general.architecture", 3));
    invalid(&architecture, "general.architecture is 3, expected a string");
}

#[test]
fn a_u64_that_fits_and_absent_optional_keys_are_accepted() {
    let wide = with(Entry::new("bert.block_count", 10, &2u64.to_le_bytes()));
    assert_eq!(checked(&wide).unwrap().blocks, 2);
    assert!(checked(&without("bert.attention.causal")).is_ok());
    assert_eq!(checked(&without("tokenizer.ggml.token_type_count")).unwrap().token_types, None);
}

#[test]
fn required_keys_and_tensors_are_missed() {
    for key in ["block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count"] {
        invalid(&without(&format!("bert.{key}")), &format!("bert.{key} is absent, expected a u32"));
    }
    for tensor in bert().tensors {
        let name = String::from_utf8(tensor.name).unwrap();
        if name == "token_types.weight" || (name.ends_with(".bias") && !name.contains("norm")) {
            continue;
        }
        // Without its matrix, a fused projection is not one: the first of three matrices is missed.
        let missed = name.replace("blk.1.attn_qkv.weight", "blk.1.attn_q.weight");
        match checked(&without(&name)) {
            Err(NetworkError::Invalid(why)) => assert!(why.starts_with(&format!("tensor {missed} is absent")), "{why}"),
            other => panic!("without {name}: {other:?}"),
        }
    }
}

#[test]
fn wrong_tensors_are_named() {
    let transposed = with_tensor(tensor("blk.0.ffn_up.weight", &[64, 32], F16));
    invalid(&transposed, "tensor blk.0.ffn_up.weight has the shape 64 x 32, expected 32 x 64");
    let flat = with_tensor(tensor("blk.1.ffn_up.bias", &[64, 1], F32));
    invalid(&flat, "tensor blk.1.ffn_up.bias has the shape 64 x 1, expected 64");
    let rows = with_tensor(tensor("token_embd.weight", &[32, TOKENS + 1], F16));
    invalid(&rows, "tensor token_embd.weight has the shape 32 x 8, expected 32 x 7");
    let short = with_tensor(tensor("position_embd.weight", &[32, 7], F32));
    invalid(&short, "tensor position_embd.weight has the shape 32 x 7, expected 32 x 8 or more");
    let norm = with_tensor(tensor("token_embd_norm.weight", &[32], Q8_0));
    invalid(&norm, "tensor token_embd_norm.weight has the type Q8_0, expected one of F32 F16 BF16");
    let bytes = with_tensor(tensor("blk.0.attn_q.weight", &[32, 32], I8));
    let types = "F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1";
    invalid(&bytes, &format!("tensor blk.0.attn_q.weight has the type I8, expected one of {types}"));
    let extra = with_tensor(tensor("output.weight", &[32, 32], F16));
    invalid(&extra, "tensor output.weight has no role in a bert, expected it absent");
    let both = with_tensor(tensor("blk.1.attn_q.weight", &[32, 32], F16));
    invalid(&both, "tensor blk.1.attn_q.weight has no role in a bert, expected it absent");
}

#[test]
fn blocks_are_counted() {
    let count = |blocks| with(Entry::u32("bert.block_count", blocks));
    invalid(&count(1), "bert.block_count is 1, expected 2, the number of blk.N among the tensors");
    invalid(&count(u32::MAX), "bert.block_count is 4294967295, expected 2, the number of blk.N among the tensors");
    let mut file = count(u32::MAX);
    file.tensors.push(tensor("blk.4294967294.ffn_up.weight", &[32, 64], F16));
    assert!(matches!(checked(&file), Err(NetworkError::Invalid(why)) if why.starts_with("tensor blk.2.attn_q.weight")));
    let padded = with_tensor(tensor("blk.01.ffn_up.weight", &[32, 64], F16));
    invalid(&padded, "tensor blk.01.ffn_up.weight has no role in a bert, expected it absent");
}

#[test]
fn the_machines_tensors_are_no_part_of_the_model() {
    let mut file = bert();
    for name in ["hw.mmio", "cortex_journal", "kernel.0", "kernel.7", "evolved.0", "evolved.7"] {
        file.tensors.push(tensor(name, &[32], I32));
    }
    assert!(checked(&file).is_ok());
    file.tensors.push(tensor("kernel.8", &[32], I32));
    invalid(&file, "tensor kernel.8 has no role in a bert, expected it absent");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// However a valid bert is changed, an error is one line, and a model that is accepted has the same dimensions.
    #[test]
    fn changed_models_get_a_verdict(
        key in any::<prop::sample::Index>(),
        value in any::<u32>(),
        which in any::<prop::sample::Index>(),
        dims in prop::collection::vec(prop::sample::select(vec![32u64, 64, 96, 7, 8, 1]), 1..4),
        type_id in prop::sample::select(vec![0u32, 1, 2, 3, 6, 7, 8, 20, 24, 30]),
        change_tensor: bool,
    ) {
        let mut file = bert();
        if change_tensor {
            let name = String::from_utf8(which.get(&file.tensors).name.clone()).unwrap();
            if !dims[0].is_multiple_of(TensorType::from_id(type_id).unwrap().block_elements()) {
                return Ok(());
            }
            file = with_tensor(tensor(&name, &dims, type_id));
        } else {
            let key = String::from_utf8(key.get(&file.entries).key.clone()).unwrap();
            file = with(Entry::u32(&key, value));
        }
        match checked(&file) {
            Ok(numbers) => prop_assert_eq!((numbers.embedding, numbers.blocks), (32, 2)),
            Err(error) => prop_assert!(!error.to_string().contains('\n')),
        }
    }
}
