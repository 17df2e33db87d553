use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::rts::hex;

fn quick() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, cases: 128, ..ProptestConfig::default() }
}

fn tensor_type(name: &str) -> TensorType {
    (0..64).filter_map(TensorType::from_id).find(|one| one.name() == name).unwrap()
}

fn bytes(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn floats(text: &Value) -> Vec<f32> {
    bytes(text).as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../tests/vectors/element.json")).unwrap()
}

#[test]
fn decodes_as_gguf_does() {
    for (name, case) in vectors()["decoded"].as_object().unwrap() {
        let expected = floats(&case["values"]);
        let mut out = vec![0.0; expected.len()];
        dequantize(tensor_type(name), &bytes(&case["blocks"]), &mut out).unwrap();
        assert_eq!(bits(&out), bits(&expected), "{name}");
    }
}

#[test]
fn encodes_q8_0_as_gguf_does() {
    let case = &vectors()["encoded"]["Q8_0"];
    let expected = bytes(&case["blocks"]);
    let mut out = vec![0; expected.len()];
    Storage::Q8_0.quantize(&floats(&case["values"]), &mut out).unwrap();
    assert_eq!(hex(&out), hex(&expected));
}

#[test]
fn other_types_are_unsupported() {
    for id in 0..64 {
        let Some(tensor_type) = TensorType::from_id(id) else { continue };
        let known = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"].contains(&tensor_type.name());
        let mut out = [0.0; 256];
        assert_eq!(dequantize(tensor_type, &[0; 512], &mut out).is_ok(), known, "{tensor_type:?}");
    }
}

/// By the definition of IEEE 754.
fn f16_value(half: u16) -> f64 {
    let (exponent, mantissa) = (i32::from(half >> 10 & 31), f64::from(half & 1023));
    let magnitude = match exponent {
        0 => mantissa * 2f64.powi(-24),
        31 if mantissa == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + mantissa / 1024.0) * 2f64.powi(exponent - 15),
    };
    if half >> 15 == 1 {
        -magnitude
    } else {
        magnitude
    }
}

#[test]
fn every_f16_is_decoded_exactly_and_comes_back() {
    for half in 0..=u16::MAX {
        let x = f16_to_f32(half);
        let expected = f16_value(half);
        if expected.is_nan() {
            assert!(x.is_nan(), "{half:04x}");
            assert_eq!(f32_to_f16(x), half | 0x200, "{half:04x}");
        } else {
            assert_eq!(x.to_bits(), (expected as f32).to_bits(), "{half:04x}");
            assert_eq!(f32_to_f16(x), half, "{half:04x}");
        }
    }
}

/// The nearer of the two neighbours, the even one of two as near; `largest` is the greatest finite code.
fn nearest(x: f32, largest: u16, value: impl Fn(u16) -> f64) -> u16 {
    let (x, sign) = (f64::from(x.abs()), u16::from(x.is_sign_negative()) << 15);
    let (mut below, mut above) = (0, largest + 1); // the codes of non-negative numbers are in order
    while above - below > 1 {
        let middle = below + (above - below) / 2;
        if value(middle) <= x {
            below = middle
        } else {
            above = middle
        }
    }
    // Infinity has the code that the next number would have.
    let step = value(below) - value(below.saturating_sub(1));
    let next = if above > largest { value(largest) + step } else { value(above) };
    let (down, up) = (x - value(below), next - x);
    let code = if down < up || (down == up && below % 2 == 0) { below } else { above };
    sign | code
}

/// Floats of every magnitude, and those near the middle of two 16-bit ones.
fn any_float() -> impl Strategy<Value = f32> {
    let pattern = any::<u32>().prop_filter_map("NaN", |bits| Some(f32::from_bits(bits)).filter(|x| !x.is_nan()));
    let beside_f16 = (any::<u16>(), 0x0FFEu32..0x1003).prop_filter_map("not finite", |(half, more)| {
        Some(f32::from_bits(f16_to_f32(half).to_bits().wrapping_add(more))).filter(|x| x.is_finite())
    });
    let beside_bf16 = (any::<u16>(), 0x7FFEu32..0x8003).prop_filter_map("not finite", |(half, more)| {
        Some(f32::from_bits((u32::from(half) << 16) + more)).filter(|x| x.is_finite())
    });
    let f16_subnormal = (-0.0002f32..0.0002).prop_map(|x| (x * 33_554_432.0).round() / 33_554_432.0);
    prop_oneof![pattern, beside_f16, beside_bf16, f16_subnormal]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn encoding_a_float_takes_the_nearest(x in any_float()) {
        prop_assert_eq!(f32_to_f16(x), nearest(x, 0x7BFF, f16_value));
        prop_assert_eq!(f32_to_bf16(x), nearest(x, 0x7F7F, |half| f64::from(bf16_to_f32(half))));
    }
}

#[test]
fn a_nan_stays_one() {
    for bits in [0x7F80_0001, 0x7FFF_FFFF, 0xFF80_0001, 0xFFFF_FFFF] {
        let x = f32::from_bits(bits);
        assert!(f16_value(f32_to_f16(x)).is_nan());
        assert!(bf16_to_f32(f32_to_bf16(x)).is_nan());
    }
}

/// Q8_0 as the formula says, without tricks.
fn plain_q8_0(values: &[f32]) -> Option<Vec<u8>> {
    let largest = values.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let d = largest / 127.0;
    let stored = f32_to_f16(d);
    let finite = values.iter().all(|x| x.is_finite()) && f16_value(stored).is_finite();
    let mut block = stored.to_le_bytes().to_vec();
    block.extend(values.iter().map(|x| if d == 0.0 { 0 } else { (x / d).round() as i8 as u8 }));
    finite.then_some(block)
}

proptest! {
    #![proptest_config(quick())]

    #[test]
    fn q8_0_is_as_the_formula_says(
        values in prop::collection::vec(prop_oneof![8 => -1.0f32..1.0, 1 => Just(0.0), 1 => any::<f32>()], 32),
        power in -150i32..150,
        halves in any::<bool>(),
    ) {
        // Ties are rare: on a grid of halves of the step they are not.
        let grid = |x: f32| if halves { 127.0 * x.signum() * ((x.abs() * 254.0).round() / 254.0).min(1.0) } else { x };
        let mut values: Vec<f32> = values.iter().map(|x| grid(*x) * 2f32.powi(power)).collect();
        values[0] = if halves { 127.0 * 2f32.powi(power) } else { values[0] };
        let mut block = [0; 34];
        let outcome = Storage::Q8_0.quantize(&values, &mut block);
        match plain_q8_0(&values) {
            Some(expected) => {
                prop_assert!(outcome.is_ok());
                prop_assert_eq!(hex(&block), hex(&expected));
            }
            None => prop_assert_eq!(outcome, Err(NotFiniteError)),
        }
    }

    #[test]
    fn storing_says_whether_all_is_finite(x in any::<f32>(), i in 0usize..64) {
        let mut values = [1.0; 64];
        values[i] = x;
        for (storage, limit) in [(Storage::F32, f32::MAX), (Storage::F16, 65519.99), (Storage::BF16, 3.3961775e38)] {
            let fits = x.abs() <= limit;
            let mut blocks = [0; 256];
            prop_assert_eq!(storage.quantize(&values, &mut blocks).is_ok(), fits, "{:?}", storage);
        }
    }

    #[test]
    fn codes_come_back(block in prop::collection::vec(any::<u8>(), 34)) {
        for name in ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"] {
            let quantized = Quantized::of(tensor_type(name)).unwrap();
            let block = &block[..quantized.block_bytes()];
            let codes = quantized.codes(block);
            let (least, greatest) = quantized.code_range();
            prop_assert!(codes.iter().all(|code| (least..=greatest).contains(code)));
            let mut again = block.to_vec();
            let numbers = tensor_type(name).block_bytes() as usize - 16 - 4 * usize::from(name.starts_with("Q5"));
            if name != "Q8_0" {
                again[numbers..].fill(0);
            }
            quantized.set_codes(&mut again, &codes);
            prop_assert_eq!(&again, block, "{}", name);
        }
    }
}
