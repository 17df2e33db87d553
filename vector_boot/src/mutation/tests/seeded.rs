use super::*;
use crate::element::{f16_to_f32, f32_to_f16};
use crate::mutation::noise;
use crate::mutation::seeded::{apply, portable, threshold, Form, Seeded};

fn word(edit: &Seeded, number: usize) -> u64 {
    let mut word = [0];
    noise::fill(edit.key, number as u64, &mut word);
    word[0]
}

fn is_selected(edit: &Seeded, word: u64) -> bool {
    (word % (1 << 32)) < edit.threshold
}

fn z(word: u64) -> f32 {
    (f32::from((word >> 32).count_ones() as u16) - 16.0) / 4.0
}

/// `normal` one block after another.
fn plain_normal(edit: &Seeded, tensor_type: TensorType, data: &[u8]) -> Option<Vec<u8>> {
    let mut result = data.to_vec();
    let elements = tensor_type.block_elements() as usize;
    for (number, block) in result.chunks_exact_mut(block_bytes(tensor_type)).enumerate() {
        let words: Vec<u64> = (0..elements).map(|i| word(edit, number * elements + i)).collect();
        if !words.iter().any(|word| is_selected(edit, *word)) {
            continue;
        }
        let mut values = decoded(tensor_type, block);
        for (x, word) in values.iter_mut().zip(words) {
            if is_selected(edit, word) {
                let delta = edit.scale * z(word);
                *x += delta;
            }
        }
        Storage::of(tensor_type).unwrap().quantize(&values, block).ok()?;
    }
    Some(result)
}

/// `step` and `scale` one block after another.
fn plain_quantized(edit: &Seeded, tensor_type: TensorType, data: &[u8]) -> Option<Vec<u8>> {
    let quantized = Quantized::of(tensor_type).unwrap();
    let (least, greatest) = quantized.code_range();
    let mut result = data.to_vec();
    for (number, block) in result.chunks_exact_mut(block_bytes(tensor_type)).enumerate() {
        if edit.form == Form::Scale {
            let word = word(edit, number);
            let d = f16_to_f32(u16::from_le_bytes([block[0], block[1]])) * (1.0 + edit.scale * z(word));
            if is_selected(edit, word) {
                block[..2].copy_from_slice(&f32_to_f16(d).to_le_bytes());
                f16_to_f32(f32_to_f16(d)).is_finite().then_some(())?;
            }
            continue;
        }
        let mut codes = quantized.codes(block);
        for (i, code) in codes.iter_mut().enumerate() {
            let word = word(edit, number * 32 + i);
            match (is_selected(edit, word), word >> 63) {
                (true, 1) if *code < greatest => *code += 1,
                (true, 0) if *code > least => *code -= 1,
                _ => {}
            }
        }
        quantized.set_codes(block, &codes);
    }
    Some(result)
}

fn density() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), Just(1.0), Just(0.02), 0.0..1.0]
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn normal_is_as_plain_code_does(
        (name, data) in prop::sample::select(&FLOATS[..]).prop_flat_map(|name| {
            (Just(name), blocks(tensor_type(name), 0..if name == "Q8_0" { 24 } else { 700 }))
        }),
        key in any::<[u64; 2]>(),
        density in density(),
        scale in prop_oneof![6 => -1e-3f32..1e-3, 1 => any::<f32>()],
        cut in any::<prop::sample::Index>(),
    ) {
        let tensor_type = tensor_type(name);
        let edit = Seeded { key, threshold: threshold(density), scale, form: Form::Normal };
        let unit = block_bytes(tensor_type);
        let outcome = in_parts(unit, &data, cut, |first, blocks| apply(&edit, tensor_type, first as u64, blocks))?;
        let mut narrow = data.clone();
        prop_assert_eq!(portable(&edit, tensor_type, 0, &mut narrow), outcome.as_ref().map(|_| ()).map_err(|e| *e));
        match plain_normal(&edit, tensor_type, &data) {
            Some(expected) => {
                prop_assert!(outcome == Ok(expected), "{}", name);
                prop_assert!(outcome == Ok(narrow), "{}", name);
            }
            None => prop_assert_eq!(outcome, Err(BlockError::NotFinite)),
        }
    }

    #[test]
    fn step_and_scale_are_as_plain_code_does(
        (name, data) in prop::sample::select(&QUANTIZED[..]).prop_flat_map(|name| {
            (Just(name), blocks(tensor_type(name), 0..24))
        }),
        key in any::<[u64; 2]>(),
        density in density(),
        scale in prop_oneof![6 => -0.5f32..0.5, 1 => any::<f32>()],
        form in prop::sample::select(&[Form::Step, Form::Scale][..]),
        cut in any::<prop::sample::Index>(),
    ) {
        let tensor_type = tensor_type(name);
        let edit = Seeded { key, threshold: threshold(density), scale, form };
        let unit = block_bytes(tensor_type);
        let outcome = in_parts(unit, &data, cut, |first, blocks| apply(&edit, tensor_type, first as u64, blocks))?;
        match plain_quantized(&edit, tensor_type, &data) {
            Some(expected) => prop_assert!(outcome == Ok(expected), "{}", name),
            None => prop_assert_eq!(outcome, Err(BlockError::NotFinite)),
        }
    }
}

#[test]
fn scale_takes_one_word_for_each_of_many_blocks() {
    let edit = Seeded { key: [3, 4], threshold: threshold(0.7), scale: 0.1, form: Form::Scale };
    let blocks = [&[0x66, 0x2E][..], &[7; 32]].concat().repeat(700);
    let mut data = blocks.clone();
    apply(&edit, tensor_type("Q8_0"), 0, &mut data).unwrap();
    assert!(Some(data) == plain_quantized(&edit, tensor_type("Q8_0"), &blocks));
}

#[test]
fn density_is_cut_to_a_threshold() {
    assert_eq!(threshold(0.0), 0);
    assert_eq!(threshold(1.0), 1 << 32);
    assert_eq!(threshold(0.5), 1 << 31);
    assert_eq!(threshold(0.1), 429_496_729);
    assert_eq!(threshold(2f64.powi(-33)), 0);
}

#[test]
fn what_is_not_selected_keeps_its_bits() {
    // NaN and infinity stay where nothing is selected; where something is, they are refused.
    for (name, odd) in [("F16", vec![0x01, 0x7C]), ("BF16", vec![0x81, 0xFF]), ("F32", vec![1, 0, 0x80, 0x7F])] {
        let mut edit = Seeded { key: [1, 2], threshold: 0, scale: 1.0, form: Form::Normal };
        let mut data = odd.repeat(5);
        apply(&edit, tensor_type(name), 0, &mut data).unwrap();
        assert_eq!(data, odd.repeat(5), "{name}");
        edit.threshold = threshold(1.0);
        assert_eq!(apply(&edit, tensor_type(name), 0, &mut data), Err(BlockError::NotFinite), "{name}");
    }
}

#[test]
fn a_q8_0_block_is_encoded_anew_even_where_z_is_zero() {
    // With scale 0 nothing is added, but a selected block no longer has codes that its largest does not fill.
    let block = [&[0x00, 0x3C][..], &[64; 32]].concat();
    let mut edit = Seeded { key: [1, 2], threshold: threshold(1.0), scale: 0.0, form: Form::Normal };
    let mut data = block.clone();
    apply(&edit, tensor_type("Q8_0"), 0, &mut data).unwrap();
    assert_eq!(data[2..], [127; 32]);
    edit.threshold = 0;
    let mut data = block.clone();
    apply(&edit, tensor_type("Q8_0"), 0, &mut data).unwrap();
    assert_eq!(data, block);
}

#[test]
fn refuses_other_types_and_broken_blocks() {
    let mut edit = Seeded { key: [1, 2], threshold: 0, scale: 1.0, form: Form::Normal };
    assert_eq!(apply(&edit, tensor_type("Q4_0"), 0, &mut [0; 18]), Err(BlockError::Unsupported));
    assert_eq!(apply(&edit, tensor_type("F32"), 0, &mut [0; 7]), Err(BlockError::Mismatch));
    edit.form = Form::Step;
    assert_eq!(apply(&edit, tensor_type("F16"), 0, &mut [0; 2]), Err(BlockError::Unsupported));
    assert_eq!(apply(&edit, tensor_type("Q8_0"), u64::MAX, &mut [0; 34]), Ok(()));
}
