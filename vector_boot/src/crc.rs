//! CRC-32C, by the fastest way on this machine.
//!
//! Processors have an instruction for it. An emulated processor has it too, but there it takes four times as long as
//! tables: so both are timed once, on the first long input.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Shorter inputs are not worth the timing.
const LONG: usize = 4096;
/// How often each way is timed: the shortest time is the least disturbed.
const TRIES: usize = 3;
/// Bytes that the tables take in at a time.
const STRIDE: usize = 16;
/// The polynomial, its bits reversed.
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// The CRC-32C of these bytes.
pub fn crc32c(bytes: &[u8]) -> u32 {
    append(0, bytes)
}

/// The CRC-32C of bytes whose CRC is `crc`, followed by these bytes.
pub fn append(crc: u32, bytes: &[u8]) -> u32 {
    static TABLES_ARE_FASTER: OnceLock<bool> = OnceLock::new();
    match bytes.len() >= LONG && *TABLES_ARE_FASTER.get_or_init(tables_are_faster) {
        true => by_tables(crc, bytes),
        false => crc32c::crc32c_append(crc, bytes),
    }
}

/// The CRC-32C of bytes whose CRC is `first`, followed by `len` bytes whose CRC is `second`.
pub fn combine(first: u32, second: u32, len: usize) -> u32 {
    // The bytes behind move the first remainder up: it is multiplied by x to the power of their bits.
    let bits = (0..usize::BITS as usize).filter(|bit| len >> bit & 1 == 1);
    bits.fold(first, |moved, bit| multiply(POWERS[bit + 3], moved)) ^ second
}

/// The product of two polynomials modulo that of the CRC, all with their bits reversed.
const fn multiply(mut a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    while a != 0 {
        if a >> 31 == 1 {
            product ^= b;
        }
        a <<= 1;
        b = if b & 1 == 1 { b >> 1 ^ POLYNOMIAL } else { b >> 1 };
    }
    product
}

/// `POWERS[n]`: x to the power of two to the power of n, for the number of bits of any length in bytes.
static POWERS: [u32; usize::BITS as usize + 3] = powers();

const fn powers() -> [u32; usize::BITS as usize + 3] {
    let mut powers = [1 << 30; usize::BITS as usize + 3];
    let mut power = 1;
    while power < powers.len() {
        powers[power] = multiply(powers[power - 1], powers[power - 1]);
        power += 1;
    }
    powers
}

fn tables_are_faster() -> bool {
    let bytes = [0xA5; LONG];
    let time = |way: fn(u32, &[u8]) -> u32| {
        let once = |_| {
            let start = Instant::now();
            std::hint::black_box(way(0, std::hint::black_box(&bytes)));
            start.elapsed()
        };
        (0..TRIES).map(once).min().unwrap_or(Duration::ZERO)
    };
    time(by_tables) < time(crc32c::crc32c_append)
}

/// `TABLES[n][byte]`: what a byte contributes that `n` other bytes follow.
static TABLES: [[u32; 256]; STRIDE] = tables();

const fn tables() -> [[u32; 256]; STRIDE] {
    let mut tables = [[0; 256]; STRIDE];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut table = 1;
    while table < STRIDE {
        byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = tables[0][before as usize & 0xFF] ^ before >> 8;
            byte += 1;
        }
        table += 1;
    }
    tables
}

fn by_tables(crc: u32, bytes: &[u8]) -> u32 {
    let mut crc = !crc;
    let (strides, rest) = bytes.as_chunks::<STRIDE>();
    for stride in strides {
        let words = stride.as_chunks::<4>().0;
        let mut next = 0;
        for (place, word) in words.iter().enumerate() {
            let word = u32::from_le_bytes(*word) ^ if place == 0 { crc } else { 0 };
            for (byte, value) in word.to_le_bytes().into_iter().enumerate() {
                next ^= TABLES[STRIDE - 1 - 4 * place - byte][usize::from(value)];
            }
        }
        crc = next;
    }
    for byte in rest {
        crc = TABLES[0][usize::from(*byte ^ crc as u8)] ^ crc >> 8;
    }
    !crc
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_is_castagnoli() {
        assert_eq!((crc32c(b"123456789"), by_tables(0, b"123456789")), (0xE306_9283, 0xE306_9283));
    }

    proptest! {
        #[test]
        fn both_ways_agree(bytes in proptest::collection::vec(any::<u8>(), 0..9000), at in 0usize..9000) {
            let whole = crc32c::crc32c(&bytes);
            let (front, back) = bytes.split_at(at.min(bytes.len()));
            prop_assert_eq!(by_tables(by_tables(0, front), back), whole);
            prop_assert_eq!(append(crc32c(front), back), whole);
            prop_assert_eq!(combine(crc32c(front), crc32c(back), back.len()), whole);
        }

        #[test]
        fn combined_as_by_the_crate(first: u32, second: u32, len in 0usize..1 << 40) {
            prop_assert_eq!(combine(first, second, len), crc32c::crc32c_combine(first, second, len));
        }
    }
}
