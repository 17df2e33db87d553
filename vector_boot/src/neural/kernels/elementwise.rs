//! Kernels other than the matrix product. Each variant compiles them for its own instructions.

use super::arithmetic::Arithmetic;
use super::functions;
use super::table::NormValues;
use crate::neural::lanes::{Lanes, LANES};

/// Sums of a reduction that run side by side; item i goes to sum i mod 4, and the sums are added in pairs.
const SUMS: usize = 4;

#[inline(always)]
fn add_up(sums: [Lanes; SUMS]) -> Lanes {
    let mut total = Lanes::ZERO;
    for lane in 0..LANES {
        total.0[lane] = (sums[0].0[lane] + sums[1].0[lane]) + (sums[2].0[lane] + sums[3].0[lane]);
    }
    total
}

/// Applies GELU to every element.
#[inline(always)]
pub fn gelu<A: Arithmetic>(values: &mut [Lanes]) {
    for value in values {
        for lane in &mut value.0 {
            *lane = functions::gelu::<A>(*lane);
        }
    }
}

/// Replaces the scores of sixteen queries by exp(scale (score - greatest)); one over the sum of these, per query.
#[inline(always)]
pub fn softmax<A: Arithmetic>(scores: &mut [Lanes], scale: f32) -> Lanes {
    let mut greatest = Lanes::splat(f32::NEG_INFINITY);
    for score in scores.iter() {
        for lane in 0..LANES {
            let (a, b) = (score.0[lane], greatest.0[lane]);
            greatest.0[lane] = if a > b { a } else { b };
        }
    }
    let mut sums = [Lanes::ZERO; SUMS];
    let (fours, rest) = scores.as_chunks_mut::<SUMS>();
    for four in fours {
        for (score, sum) in four.iter_mut().zip(&mut sums) {
            exponentiate::<A>(score, &greatest, scale, sum);
        }
    }
    for (score, sum) in rest.iter_mut().zip(&mut sums) {
        exponentiate::<A>(score, &greatest, scale, sum);
    }
    let mut inverse = add_up(sums);
    for lane in &mut inverse.0 {
        *lane = 1.0 / *lane;
    }
    inverse
}

#[inline(always)]
fn exponentiate<A: Arithmetic>(score: &mut Lanes, greatest: &Lanes, scale: f32, sum: &mut Lanes) {
    for lane in 0..LANES {
        let e = functions::exp::<A>((score.0[lane] - greatest.0[lane]) * scale);
        score.0[lane] = e;
        sum.0[lane] += e;
    }
}

/// x = (y - mean) / sqrt(variance + epsilon) * weight + bias with y = x + addend, over the features of sixteen tokens.
#[inline(always)]
pub fn layer_norm<A: Arithmetic>(x: &mut [Lanes], addend: &[Lanes], norm: NormValues<'_>) {
    let count = x.len() as f32;
    let mut sums = [Lanes::ZERO; SUMS];
    for (values, addends) in x.chunks_mut(SUMS).zip(addend.chunks(SUMS)) {
        for ((value, addend), sum) in values.iter_mut().zip(addends).zip(&mut sums) {
            for lane in 0..LANES {
                value.0[lane] += addend.0[lane];
                sum.0[lane] += value.0[lane];
            }
        }
    }
    let mut mean = add_up(sums);
    for lane in &mut mean.0 {
        *lane /= count;
    }
    let mut sums = [Lanes::ZERO; SUMS];
    for values in x.chunks_mut(SUMS) {
        for (value, sum) in values.iter_mut().zip(&mut sums) {
            for lane in 0..LANES {
                value.0[lane] -= mean.0[lane];
                sum.0[lane] = A::mul_add(value.0[lane], value.0[lane], sum.0[lane]);
            }
        }
    }
    let mut factor = add_up(sums);
    for lane in &mut factor.0 {
        *lane = 1.0 / (*lane / count + norm.epsilon).sqrt();
    }
    for ((value, weight), bias) in x.iter_mut().zip(norm.weight).zip(norm.bias) {
        for lane in 0..LANES {
            value.0[lane] = A::mul_add(value.0[lane] * factor.0[lane], *weight, *bias);
        }
    }
}
