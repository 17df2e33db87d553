//! The 16-bit floats. Conversions are branch-free, so that loops over them vectorise.

/// Exponent bits of an f16.
const F16_EXPONENT: u16 = 0x7C00;
/// Exponent bits of a bf16.
const BF16_EXPONENT: u16 = 0x7F80;
/// Exponent bits of an f32.
const F32_EXPONENT: u32 = 0x7F80_0000;

/// f32 of an f16: exact; a NaN becomes quiet and keeps its payload.
#[inline(always)]
pub fn f16_to_f32(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let magnitude = u32::from(half & 0x7FFF) << 13;
    let normal = magnitude + (112 << 23);
    // A subnormal is an integer count of 2^-24: as the mantissa of 2^-14 it is exact after that one is subtracted.
    let subnormal = (f32::from_bits(magnitude + (113 << 23)) - f32::from_bits(113 << 23)).to_bits();
    let special = magnitude | F32_EXPONENT | (u32::from(magnitude > 0x0F80_0000) << 22);
    let bits = match magnitude {
        0..0x0080_0000 => subnormal,
        0x0F80_0000.. => special,
        _ => normal,
    };
    f32::from_bits(bits | sign)
}

/// Nearest f16, ties to even; too large becomes infinite, NaN stays NaN.
#[inline(always)]
pub fn f32_to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let magnitude = bits & 0x7FFF_FFFF;
    // Change the bias of the exponent, and round away 13 bits: add half an ulp less one, plus one where the kept part is odd.
    let odd = (magnitude >> 13) & 1;
    let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xFFF + odd) >> 13;
    // Near 0.5 one ulp is 2^-24, the step of the subnormals: the addition rounds.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let not_a_number = 0x7E00 | ((magnitude >> 13) & 0x1FF);
    let special = if magnitude > F32_EXPONENT { not_a_number } else { 0x7C00 };
    let half = match magnitude {
        0..0x3880_0000 => subnormal,
        0x4780_0000.. => special,
        _ => normal,
    };
    (half | sign) as u16
}

/// f32 of a bf16: exact, NaN payloads included.
#[inline(always)]
pub fn bf16_to_f32(half: u16) -> f32 {
    f32::from_bits(u32::from(half) << 16)
}

/// Nearest bf16, ties to even; too large becomes infinite, NaN stays NaN and becomes quiet.
#[inline(always)]
pub fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    (if value.is_nan() { quiet } else { rounded }) as u16
}

#[inline(always)]
pub(crate) fn f16_is_finite(half: u16) -> bool {
    half & F16_EXPONENT != F16_EXPONENT
}

#[inline(always)]
pub(crate) fn bf16_is_finite(half: u16) -> bool {
    half & BF16_EXPONENT != BF16_EXPONENT
}
