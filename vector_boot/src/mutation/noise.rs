//! The noise of seeded edits: the raw words of Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as
//! 1, 2, 3", 2011), numbered as `numpy.random.Philox(key=key).random_raw()` gives them.
//!
//! The generator is a function of a counter, so any word can be computed without those before it.

use sha2::{Digest, Sha256};

const MULTIPLIERS: [u64; 2] = [0xD2E7_470E_E14C_6C93, 0xCA5A_8263_9512_1157];
/// The fractions of the golden ratio and of the square root of 3: added to the key each round.
const KEY_STEPS: [u64; 2] = [0x9E37_79B9_7F4A_7C15, 0xBB67_AE85_84CA_A73B];
const ROUNDS: usize = 10;
/// Words of one counter.
const WORDS: usize = 4;

/// Key of the noise for a seed and the name of a tensor.
pub fn key(seed: [u8; 8], tensor: &str) -> [u64; 2] {
    let digest = Sha256::new().chain_update(b"vb1").chain_update(seed).chain_update(tensor).finalize();
    let word = |at: usize| digest[at..at + 8].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    [word(0), word(8)]
}

/// Fills `words` with the words of the stream from number `first` on.
#[inline(always)]
pub fn fill(key: [u64; 2], first: u64, words: &mut [u64]) {
    // numpy increments the counter before it generates.
    let mut counter = first / WORDS as u64 + 1;
    let skipped = (first % WORDS as u64) as usize;
    let (lead, rest) = words.split_at_mut(((WORDS - skipped) % WORDS).min(words.len()));
    if !lead.is_empty() {
        lead.copy_from_slice(&block(key, counter)[skipped..skipped + lead.len()]);
        counter += 1;
    }
    let (blocks, tail) = rest.as_chunks_mut::<WORDS>();
    for words in blocks {
        *words = block(key, counter);
        counter += 1;
    }
    tail.copy_from_slice(&block(key, counter)[..tail.len()]);
}

/// The four words of one counter.
#[inline(always)]
fn block(mut key: [u64; 2], counter: u64) -> [u64; WORDS] {
    let mut c = [counter, 0, 0, 0];
    for _ in 0..ROUNDS {
        let (high0, low0) = wide_product(MULTIPLIERS[0], c[0]);
        let (high1, low1) = wide_product(MULTIPLIERS[1], c[2]);
        c = [high1 ^ c[1] ^ key[0], low1, high0 ^ c[3] ^ key[1], low0];
        key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
    }
    c
}

#[inline(always)]
fn wide_product(a: u64, b: u64) -> (u64, u64) {
    let product = u128::from(a) * u128::from(b);
    ((product >> 64) as u64, product as u64)
}
