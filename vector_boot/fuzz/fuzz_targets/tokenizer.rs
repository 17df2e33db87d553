#![no_main]
//! Any text becomes ids of the vocabulary between [CLS] and [SEP], and a limit only cuts; any vocabulary is accepted or
//! refused without a panic.

use libfuzzer_sys::fuzz_target;
use vector_boot::gguf::Gguf;
use vector_boot::neural::architecture;
use vector_boot::neural::tokenizer::Tokenizer;

const PIECES: [&str; 12] = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "\u{2581}a",
    "a",
    "b",
    "\u{2581}.",
    "\u{2581}e",
    "\u{2581}\u{4e2d}",
    "ab",
];

fuzz_target!(|data: &[u8]| {
    if let Ok(gguf) = Gguf::parse(data) {
        let _ = architecture::check(&gguf);
        if let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) {
            check(&tokenizer, "a text, caf\u{e9} \u{2581}[CLS]", 9);
        }
    }
    let Some((limit, text)) = data.split_first() else { return };
    let file = small_model();
    let gguf = Gguf::parse(&file).expect("a sound container");
    let tokenizer = Tokenizer::from_gguf(&gguf).expect("a sound vocabulary");
    check(&tokenizer, &String::from_utf8_lossy(text), usize::from(*limit));
});

fn check(tokenizer: &Tokenizer, text: &str, limit: usize) {
    let whole = tokenizer.encode(text, usize::MAX);
    let ids = tokenizer.encode(text, limit);
    assert!(!whole.truncated && ids.truncated == (ids.ids.len() < whole.ids.len()));
    let (whole, ids) = (whole.ids, ids.ids);
    assert!(whole.iter().all(|id| (*id as usize) < tokenizer.token_count()));
    assert!((2..=limit.max(2)).contains(&ids.len()));
    assert!(whole.starts_with(&ids[..ids.len() - 1]) && ids.last() == whole.last());
}

/// A GGUF of nothing but a vocabulary.
fn small_model() -> Vec<u8> {
    let special = ["bos", "seperator", "unknown", "mask"].into_iter().zip([2u32, 3, 1, 4]);
    let mut file = [&b"GGUF\x03\0\0\0"[..], &0u64.to_le_bytes(), &5u64.to_le_bytes()].concat();
    string(&mut file, "tokenizer.ggml.tokens");
    file.extend([9, 0, 0, 0, 8, 0, 0, 0]);
    file.extend((PIECES.len() as u64).to_le_bytes());
    PIECES.iter().for_each(|piece| string(&mut file, piece));
    for (role, id) in special {
        string(&mut file, &format!("tokenizer.ggml.{role}_token_id"));
        file.extend([4, 0, 0, 0]);
        file.extend(id.to_le_bytes());
    }
    file.resize(file.len().next_multiple_of(32), 0);
    file
}

fn string(file: &mut Vec<u8>, text: &str) {
    file.extend((text.len() as u64).to_le_bytes());
    file.extend(text.as_bytes());
}
