//! Kernels for AVX-512F: one vector holds the sixteen tokens of a tile.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::kernels_for;
use super::table::{Kernels, Product, ROWS};
use crate::element::{self, Storage};
use crate::gguf::TensorType;
use crate::neural::lanes::Lanes;

kernels_for!("avx512f,avx2,fma,f16c");

/// # Safety
/// `product` reaches inside its slice; each x holds `depth`, each c holds [`ROWS`].
#[target_feature(enable = "avx512f,avx2,fma,f16c")]
unsafe fn multiply<const N: usize>(product: Product<'_>, x: [*const Lanes; N], c: [*mut Lanes; N]) {
    // SAFETY: the same promise as the caller's.
    unsafe {
        match product.next.is_empty() {
            true => multiply_tiles::<N, false>(product, x, c),
            false => multiply_tiles::<N, true>(product, x, c),
        }
    }
}

/// # Safety
/// As for [`multiply`].
#[inline]
#[target_feature(enable = "avx512f,avx2,fma,f16c")]
unsafe fn multiply_tiles<const N: usize, const PREFETCH: bool>(
    product: Product<'_>,
    x: [*const Lanes; N],
    c: [*mut Lanes; N],
) {
    let mut sums = [[_mm512_setzero_ps(); N]; ROWS];
    let a = product.a.as_ptr();
    let step = product.next.len() / product.depth.max(1);
    // SAFETY: every access is inside what the caller promised; `Lanes` are aligned to 64 bytes; a prefetch may get any
    // address.
    unsafe {
        for (row, sums) in sums.iter_mut().enumerate() {
            for (sum, c) in sums.iter_mut().zip(c) {
                *sum = _mm512_load_ps(c.add(row).cast());
            }
        }
        for k in 0..product.depth {
            if PREFETCH {
                _mm_prefetch::<_MM_HINT_T1>(product.next.as_ptr().wrapping_add(k * step).cast());
            }
            let x = x.map(|x| _mm512_load_ps(x.add(k).cast()));
            for (row, sums) in sums.iter_mut().enumerate() {
                let a = _mm512_set1_ps(*a.add(row * product.stride + k));
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = _mm512_fmadd_ps(a, x, *sum);
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (sum, c) in sums.iter().zip(c) {
                _mm512_store_ps(c.add(row).cast(), *sum);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx2,fma,f16c")]
fn decode(tensor_type: TensorType, bytes: &[u8], out: &mut [f32]) {
    match Storage::of(tensor_type) {
        Some(Storage::F16) => {
            let (halves, last_halves) = bytes.as_chunks::<32>();
            let (vectors, last) = out.as_chunks_mut::<16>();
            for (halves, out) in halves.iter().zip(vectors) {
                // SAFETY: the chunks are sixteen elements long, as the load and the store need.
                unsafe {
                    let halves = _mm256_loadu_si256(halves.as_ptr().cast());
                    _mm512_storeu_ps(out.as_mut_ptr(), _mm512_cvtph_ps(halves));
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
