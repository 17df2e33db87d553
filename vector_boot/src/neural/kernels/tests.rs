use proptest::prelude::*;

use super::arithmetic::{Arithmetic, Emulated};
use super::*;
use crate::element;
use crate::gguf::TensorType;
use crate::neural::lanes::{Lanes, LANES};

fn fast_variants() -> Vec<&'static Kernels> {
    Variant::ALL.into_iter().filter(|variant| *variant != Variant::Portable).filter_map(Variant::kernels).collect()
}

fn any_config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

/// Bits, with all NaNs alike.
fn bits(values: &[Lanes]) -> Vec<u32> {
    let canonical = |x: &f32| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() };
    values.iter().flat_map(|lanes| lanes.0.iter().map(canonical)).collect()
}

/// Numbers of ordinary size, spread by a linear congruence.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn tiles(count: usize, seed: u32) -> Vec<Lanes> {
    numbers(count * LANES, seed).as_chunks().0.iter().copied().map(Lanes).collect()
}

proptest! {
    #![proptest_config(any_config())]

    #[test]
    fn the_emulated_multiply_add_is_the_fused_one(a in any::<u32>(), b in any::<u32>(), c in any::<u32>()) {
        let [a, b, c] = [a, b, c].map(f32::from_bits);
        let (ours, fused) = (Emulated::mul_add(a, b, c), a.mul_add(b, c));
        prop_assert!(ours.to_bits() == fused.to_bits() || (ours.is_nan() && fused.is_nan()), "{a:e} {b:e} {c:e}");
    }

    #[test]
    fn near_cancellation_and_ties_round_once(a in -4096i32..4096, b in -4096i32..4096, c in any::<i16>(), shift in -70i32..40) {
        let scale = 2f32.powi(shift);
        let (a, b) = (a as f32 * 1.000_000_1, b as f32 * scale);
        for c in [-a * b, -(a * b) + f32::from(c) * scale, f32::from(c) / 3.0, f32::MIN_POSITIVE * 0.5] {
            prop_assert_eq!(Emulated::mul_add(a, b, c).to_bits(), a.mul_add(b, c).to_bits());
        }
    }

    #[test]
    fn elementwise_variants_agree_on_all_floats(raw in prop::collection::vec(any::<[u32; LANES]>(), 1..23), scale in 0.01f32..2.0) {
        let values: Vec<Lanes> = raw.iter().map(|lanes| Lanes(lanes.map(f32::from_bits))).collect();
        let reference = Variant::Portable.kernels().unwrap();
        let weight = numbers(values.len(), 1);
        let norm = NormValues { weight: &weight, bias: &weight, epsilon: 1e-12 };
        for kernels in fast_variants() {
            let [mut ours, mut theirs] = [values.clone(), values.clone()];
            (kernels.gelu)(&mut ours);
            (reference.gelu)(&mut theirs);
            prop_assert_eq!(bits(&ours), bits(&theirs));
            let [mut ours, mut theirs] = [values.clone(), values.clone()];
            let sums = [(kernels.softmax)(&mut ours, scale), (reference.softmax)(&mut theirs, scale)];
            prop_assert_eq!(bits(&ours), bits(&theirs));
            prop_assert_eq!(bits(&sums[..1]), bits(&sums[1..]));
            let [mut ours, mut theirs] = [values.clone(), values.clone()];
            (kernels.layer_norm)(&mut ours, &values, norm);
            (reference.layer_norm)(&mut theirs, &values, norm);
            prop_assert_eq!(bits(&ours), bits(&theirs));
        }
    }

    #[test]
    fn decoders_agree_with_the_scalar_one(stored in prop::collection::vec(any::<u8>(), 0..2000), id in 0u32..31) {
        let tensor_type = TensorType::from_id(id).filter(|tensor_type| element::dequantize(*tensor_type, &[], &mut []).is_ok());
        let tensor_type = tensor_type.unwrap_or(TensorType::from_id(1).unwrap());
        let blocks = stored.len() / tensor_type.block_bytes() as usize;
        let stored = &stored[..blocks * tensor_type.block_bytes() as usize];
        let mut expected = vec![0.0; blocks * tensor_type.block_elements() as usize];
        element::dequantize(tensor_type, stored, &mut expected).unwrap();
        for kernels in fast_variants() {
            let mut decoded = vec![0.0; expected.len()];
            (kernels.decode)(tensor_type, stored, &mut decoded);
            for (a, b) in decoded.iter().zip(&expected) {
                prop_assert!(a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()));
            }
        }
    }
}

#[test]
fn products_agree_and_are_products() {
    for (depth, stride) in [(1, 1), (3, 7), (32, 32), (47, 64), (512, 528)] {
        let (a, x) = (numbers(ROWS * stride, 5), [tiles(depth, 6), tiles(depth, 7)]);
        let start = tiles(2 * ROWS, 8);
        for (next, kernels) in Variant::ALL.into_iter().filter_map(Variant::kernels).flat_map(|k| [(0, k), (999, k)]) {
            let hint = vec![0; next];
            let product = Product { a: &a, stride, depth, next: &hint };
            let mut both = start.clone();
            let (c0, c1) = both.split_at_mut(ROWS);
            (kernels.multiply_two)(product, [&x[0], &x[1]], [c0, c1]);
            let mut single = start.clone();
            (kernels.multiply)(product, &x[0], &mut single[..ROWS]);
            (kernels.multiply)(product, &x[1], &mut single[ROWS..]);
            assert_eq!(bits(&both), bits(&single));
            for (index, c) in both.iter().enumerate() {
                let row = &a[index % ROWS * stride..];
                for lane in 0..LANES {
                    let terms = (0..depth).map(|k| (row[k], x[index / ROWS][k].0[lane]));
                    let chain = terms.clone().fold(start[index].0[lane], |sum, (a, x)| a.mul_add(x, sum));
                    let exact =
                        terms.fold(f64::from(start[index].0[lane]), |sum, (a, x)| sum + f64::from(a) * f64::from(x));
                    assert_eq!(c.0[lane].to_bits(), chain.to_bits());
                    assert!((f64::from(chain) - exact).abs() < 1e-4);
                }
            }
        }
    }
}

#[test]
fn gelu_exp_and_norm_are_near_the_exact_ones() {
    let portable = Variant::Portable.kernels().unwrap();
    // erf by its Taylor series, in f64.
    let erf = |x: f64| {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    };
    for step in -400..=400 {
        let x = step as f32 / 80.0;
        let mut value = [Lanes::splat(x)];
        (portable.gelu)(&mut value);
        let exact = f64::from(x) / 2.0 * (1.0 + erf(f64::from(x) / 2f64.sqrt()));
        assert!((f64::from(value[0].0[3]) - exact).abs() < 8e-7, "gelu({x}) = {} not {exact}", value[0].0[3]);
        let mut scores = [Lanes::splat(x - 5.0), Lanes::splat(0.0)];
        let inverse = (portable.softmax)(&mut scores, 4.0);
        let exact = (4.0 * f64::from(x - 5.0)).exp();
        assert!((f64::from(scores[0].0[0]) / exact - 1.0).abs() < 3e-7 && scores[1].0[0] == 1.0);
        assert!((f64::from(inverse.0[0]) * (1.0 + exact) - 1.0).abs() < 3e-7);
    }
    for (x, expected) in [(-1e30, 0.0), (1e30, 1e30), (-8.0, 0.0), (0.0, 0.0)] {
        let mut value = [Lanes::splat(x)];
        (portable.gelu)(&mut value);
        assert_eq!(value[0], Lanes::splat(expected));
    }
    let mut values = tiles(101, 3);
    let column: Vec<f64> = values.iter().map(|lanes| 2.0 * f64::from(lanes.0[7])).collect();
    let (weight, bias) = (numbers(101, 4), numbers(101, 5));
    (portable.layer_norm)(&mut values, &tiles(101, 3), NormValues { weight: &weight, bias: &bias, epsilon: 1e-3 });
    let mean = column.iter().sum::<f64>() / 101.0;
    let variance = column.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / 101.0;
    for (i, x) in column.iter().enumerate() {
        let exact = (x - mean) / (variance + f64::from(1e-3f32)).sqrt() * f64::from(weight[i]) + f64::from(bias[i]);
        assert!((f64::from(values[i].0[7]) - exact).abs() < 2e-6);
    }
}
