//! Checks that bytes in a storage type hold finite numbers only.

use crate::element::{bf16_is_finite, f16_is_finite};
use crate::gguf::TensorType;

/// Where a type stores numbers that can be infinite or NaN: each element, or the scales at these offsets of a block.
enum Floats {
    /// It has integers only.
    None,
    F32(&'static [usize]),
    F64,
    F16(&'static [usize]),
    Bf16,
    /// Four nibbles of an f16, the highest of each of the last four u16 (IQ1_M).
    ScatteredF16,
    /// Powers of two in one byte, the last code NaN (OCP Microscaling Formats 1.0).
    E8m0,
    /// Four unsigned 8-bit floats, the last code NaN.
    Ue4m3,
}

/// By type id; the layouts are those of ggml-common.h.
fn floats(tensor_type: TensorType) -> Floats {
    match tensor_type.id() {
        0 | 15 => Floats::F32(&[0]), // F32, Q8_K: d
        28 => Floats::F64,
        30 => Floats::Bf16,
        3 | 7 | 9 => Floats::F16(&[0, 2]), // Q4_1, Q5_1: d, m; Q8_1: d, s
        12 | 13 => Floats::F16(&[0, 2]),   // Q4_K, Q5_K: d, dmin
        10 => Floats::F16(&[80, 82]),      // Q2_K: d, dmin after scales and codes
        11 => Floats::F16(&[108]),         // Q3_K
        14 => Floats::F16(&[208]),         // Q6_K
        34 => Floats::F16(&[52]),          // TQ1_0
        35 => Floats::F16(&[64]),          // TQ2_0
        29 => Floats::ScatteredF16,
        39 => Floats::E8m0,
        40 => Floats::Ue4m3,
        24..=27 => Floats::None, // I8 I16 I32 I64
        _ => Floats::F16(&[0]),  // F16, and d at the start of a block: Q4_0 Q5_0 Q8_0 IQ* Q1_0 Q2_0
    }
}

/// Whether all elements of whole blocks, or the scales stored in them, are finite. Bytes after the last whole block
/// are not checked.
pub fn all_finite(tensor_type: TensorType, blocks: &[u8]) -> bool {
    let bytes = tensor_type.block_bytes() as usize;
    match floats(tensor_type) {
        Floats::None => true,
        // Types of single elements have arms of their own: these loops are vectorised.
        Floats::F32(_) if bytes == 4 => every::<4>(blocks, |x| f32::from_le_bytes(x).is_finite()),
        Floats::F16(_) if bytes == 2 => every::<2>(blocks, |x| f16_is_finite(u16::from_le_bytes(x))),
        Floats::Bf16 => every::<2>(blocks, |x| bf16_is_finite(u16::from_le_bytes(x))),
        Floats::F64 => every::<8>(blocks, |x| f64::from_le_bytes(x).is_finite()),
        Floats::F32(places) => blocks.chunks_exact(bytes).all(|block| {
            places.iter().all(|at| every::<4>(&block[*at..at + 4], |x| f32::from_le_bytes(x).is_finite()))
        }),
        Floats::F16(places) => blocks
            .chunks_exact(bytes)
            .all(|block| places.iter().all(|at| f16_is_finite(u16::from_le_bytes([block[*at], block[at + 1]])))),
        Floats::ScatteredF16 => blocks.chunks_exact(bytes).all(|block| {
            let nibble = |i: usize| u16::from(block[bytes - 8 + 2 * i + 1] >> 4) << (4 * i);
            f16_is_finite(nibble(0) | nibble(1) | nibble(2) | nibble(3))
        }),
        Floats::E8m0 => blocks.chunks_exact(bytes).all(|block| block[0] != 0xFF),
        Floats::Ue4m3 => blocks.chunks_exact(bytes).all(|block| block[..4].iter().all(|d| d & 0x7F != 0x7F)),
    }
}

/// Whether every group of N bytes is finite. It does not stop at the first that is not: that is faster.
fn every<const N: usize>(bytes: &[u8], is_finite: impl Fn([u8; N]) -> bool) -> bool {
    bytes.as_chunks::<N>().0.iter().fold(true, |finite, element| finite & is_finite(*element))
}
