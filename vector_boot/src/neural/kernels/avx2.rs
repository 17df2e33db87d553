//! Kernels for AVX2, FMA and F16C: two vectors hold the sixteen tokens of a tile.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::kernels_for;
use super::table::{Kernels, Product, ROWS};
use crate::element::{self, Storage};
use crate::gguf::TensorType;
use crate::neural::lanes::Lanes;

kernels_for!("avx2,fma,f16c");

/// Rows at once: twelve sums, two inputs and a weight are what sixteen registers hold.
const HALF: usize = ROWS / 2;

/// # Safety
/// `product` reaches inside its slice; each x holds `depth`, each c holds [`ROWS`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply<const N: usize>(product: Product<'_>, x: [*const Lanes; N], c: [*mut Lanes; N]) {
    let (a, half) = (product.a.as_ptr(), HALF * product.stride);
    let (next, last) = product.next.split_at(product.next.len() / 2);
    for (tile, (x, c)) in x.into_iter().zip(c).enumerate() {
        let hints = if tile == 0 { [next, last] } else { [&[][..]; 2] };
        // SAFETY: the caller's promise; `HALF` rows follow the first `HALF`, in `product` as in c.
        unsafe {
            multiply_half(Product { next: hints[0], ..product }, a, x.cast(), c.cast());
            multiply_half(Product { next: hints[1], ..product }, a.add(half), x.cast(), c.add(HALF).cast());
        }
    }
}

/// # Safety
/// `a` is the first of [`HALF`] rows of `product`; x holds `depth` tiles' features, c holds [`HALF`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply_half(product: Product<'_>, a: *const f32, x: *const f32, c: *mut f32) {
    let step = product.next.len() / product.depth.max(1);
    let mut sums = [[_mm256_setzero_ps(); 2]; HALF];
    // SAFETY: every access is inside what the caller promised; `Lanes` are aligned to 64 bytes; a prefetch may get any
    // address.
    unsafe {
        for (row, sums) in sums.iter_mut().enumerate() {
            *sums = [_mm256_load_ps(c.add(16 * row)), _mm256_load_ps(c.add(16 * row + 8))];
        }
        for k in 0..product.depth {
            _mm_prefetch::<_MM_HINT_T1>(product.next.as_ptr().wrapping_add(k * step).cast());
            let x = [_mm256_load_ps(x.add(16 * k)), _mm256_load_ps(x.add(16 * k + 8))];
            for (row, sums) in sums.iter_mut().enumerate() {
                let a = _mm256_broadcast_ss(&*a.add(row * product.stride + k));
                *sums = [_mm256_fmadd_ps(a, x[0], sums[0]), _mm256_fmadd_ps(a, x[1], sums[1])];
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            _mm256_store_ps(c.add(16 * row), sums[0]);
            _mm256_store_ps(c.add(16 * row + 8), sums[1]);
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn decode(tensor_type: TensorType, bytes: &[u8], out: &mut [f32]) {
    match Storage::of(tensor_type) {
        Some(Storage::F16) => {
            let (halves, last_halves) = bytes.as_chunks::<16>();
            let (vectors, last) = out.as_chunks_mut::<8>();
            for (halves, out) in halves.iter().zip(vectors) {
                // SAFETY: the chunks are eight elements long, as the load and the store need.
                unsafe {
                    let halves = _mm_loadu_si128(halves.as_ptr().cast());
                    _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(halves));
                }
            }
            Storage::F16.dequantize(last_halves, last);
        }
        Some(storage) => storage.dequantize(bytes, out),
        None => {
            // A matrix is only made of a type that decodes.
            let _ = element::dequantize(tensor_type, bytes, out);
        }
    }
}
