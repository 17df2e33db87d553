//! The built-in model: the same bytes as `MODEL=tiny` in F16, made by the rule in `image/tiny.py`.

use super::tiny_file::File;
use crate::element::f32_to_f16;
use crate::mutation::noise;

const VOCABULARY: &str = include_str!("../../../spec/tiny_vocab.txt");
const SEED: [u8; 8] = *b"vb-tiny1";

const BLOCKS: u32 = 2;
const CONTEXT: u32 = 128;
const EMBEDDING: u64 = 64;
const FEED_FORWARD: u64 = 128;
const HEADS: u32 = 4;
const TOKEN_TYPES: u32 = 2;

/// ggml's numbers of two tensor types.
const F32: u32 = 0;
const F16: u32 = 1;
/// llama.cpp's numbers: a file mostly of F16, the mean of all tokens, and kinds of tokens.
const MOSTLY_F16: u32 = 1;
const POOLING_MEAN: u32 = 1;
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;

const SPECIAL: [(&str, &str); 6] = [
    ("bos", "[CLS]"),
    ("eos", "[SEP]"),
    ("unknown", "[UNK]"),
    ("seperator", "[SEP]"), // the format's spelling
    ("padding", "[PAD]"),
    ("mask", "[MASK]"),
];

/// The file.
pub fn gguf() -> Vec<u8> {
    let pieces: Vec<&str> = VOCABULARY.lines().collect();
    let mut file = File::default();
    add_metadata(&mut file);
    add_tokenizer(&mut file, &pieces);
    for (name, shape) in shapes(pieces.len() as u64) {
        add_tensor(&mut file, &name, &shape);
    }
    file.finish()
}

fn add_metadata(file: &mut File) {
    file.string("general.architecture", "bert");
    file.string("general.type", "model");
    file.string("general.name", "vector_boot tiny");
    file.string("general.license", "Apache-2.0");
    file.u32("general.file_type", MOSTLY_F16);
    file.u32("general.quantization_version", 2);
    file.u32("bert.block_count", BLOCKS);
    file.u32("bert.context_length", CONTEXT);
    file.u32("bert.embedding_length", EMBEDDING as u32);
    file.u32("bert.feed_forward_length", FEED_FORWARD as u32);
    file.u32("bert.attention.head_count", HEADS);
    file.f32("bert.attention.layer_norm_epsilon", 1e-12);
    file.boolean("bert.attention.causal", false);
    file.u32("bert.pooling_type", POOLING_MEAN);
}

fn add_tokenizer(file: &mut File, pieces: &[&str]) {
    let is_special = |piece: &str| SPECIAL.iter().any(|(_, special)| *special == piece);
    let kinds: Vec<i32> = pieces.iter().map(|piece| if is_special(piece) { CONTROL } else { NORMAL }).collect();
    let marked = |piece: &&str| match piece.strip_prefix("##") {
        _ if is_special(piece) => (*piece).to_string(),
        Some(rest) => rest.to_string(),
        None => ["\u{2581}", piece].concat(),
    };
    let tokens: Vec<String> = pieces.iter().map(marked).collect();
    file.string("tokenizer.ggml.model", "bert");
    file.string("tokenizer.ggml.pre", "jina-v2-en");
    file.u32("tokenizer.ggml.token_type_count", TOKEN_TYPES);
    file.strings("tokenizer.ggml.tokens", &tokens);
    file.integers("tokenizer.ggml.token_type", &kinds);
    for (role, special) in SPECIAL {
        let id = pieces.iter().position(|piece| *piece == special).unwrap_or_default();
        file.u32(&["tokenizer.ggml.", role, "_token_id"].concat(), id as u32);
    }
    file.boolean("tokenizer.ggml.add_bos_token", true);
    file.boolean("tokenizer.ggml.add_eos_token", true);
    file.boolean("tokenizer.ggml.add_sep_token", false);
}

/// Names and shapes in file order, the row length first.
fn shapes(tokens: u64) -> Vec<(String, Vec<u64>)> {
    let (d, ff) = (EMBEDDING, FEED_FORWARD);
    let mut all = Vec::new();
    let mut add = |name: String, shape: &[u64]| all.push((name, shape.to_vec()));
    add("token_embd.weight".into(), &[d, tokens]);
    add("position_embd.weight".into(), &[d, CONTEXT.into()]);
    add("token_types.weight".into(), &[d, TOKEN_TYPES.into()]);
    add("token_embd_norm.weight".into(), &[d]);
    add("token_embd_norm.bias".into(), &[d]);
    for block in 0..BLOCKS {
        let matrices = ["attn_q", "attn_k", "attn_v", "attn_output"].map(|part| (part, d, d));
        for (part, inputs, outputs) in matrices.into_iter().chain([("ffn_up", d, ff), ("ffn_down", ff, d)]) {
            add(format!("blk.{block}.{part}.weight"), &[inputs, outputs]);
            add(format!("blk.{block}.{part}.bias"), &[outputs]);
        }
        for part in ["attn_output_norm", "layer_output_norm"] {
            add(format!("blk.{block}.{part}.weight"), &[d]);
            add(format!("blk.{block}.{part}.bias"), &[d]);
        }
    }
    all
}

/// The factor of a tensor's noise.
fn scale(name: &str) -> f32 {
    match name.rsplit('.').nth(1).unwrap_or_default() {
        _ if !name.ends_with(".weight") => 1.0 / 16.0,
        "token_embd" => 1.0,
        "position_embd" | "token_types" => 1.0 / 8.0,
        "attn_q" | "attn_k" => 1.0 / 4.0,
        "attn_v" | "attn_output" | "ffn_up" | "ffn_down" => 1.0 / 8.0,
        _ => 1.0 / 16.0,
    }
}

fn add_tensor(file: &mut File, name: &str, shape: &[u64]) {
    let mut words = vec![0; shape.iter().product::<u64>() as usize];
    noise::fill(noise::key(SEED, name), 0, &mut words);
    let (offset, scale) = (if name.ends_with("norm.weight") { 1.0 } else { 0.0 }, scale(name));
    let weight = |word: &u64| offset + ((word >> 32).count_ones() as f32 - 16.0) / 4.0 * scale;
    // Vectors and the two small tables are read by row and added: they stay F32.
    let (type_id, bytes): (u32, Vec<u8>) = match name {
        "position_embd.weight" | "token_types.weight" => {
            (F32, words.iter().flat_map(|w| weight(w).to_le_bytes()).collect())
        }
        _ if shape.len() == 1 => (F32, words.iter().flat_map(|w| weight(w).to_le_bytes()).collect()),
        _ => (F16, words.iter().flat_map(|w| f32_to_f16(weight(w)).to_le_bytes()).collect()),
    };
    file.tensor(name, shape, type_id, &bytes);
}
