//! The inner loops, in variants for several CPUs. All variants give the same bits.
//!
//! The matrix product multiplies twelve rows of weights by sixteen or thirty-two tokens. Each output is one chain of
//! fused multiply-adds with k ascending, which begins with the previous value of the output; lanes run over tokens. This order
//! needs no sum across a vector, so it is the same for vectors of any width. A weight is broadcast straight from its
//! stored row, so nothing is transposed.

mod arithmetic;
mod elementwise;
mod functions;
mod portable;
mod table;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

pub use table::{Kernels, NormValues, Product, ROWS};

/// e^x for x <= 0, with the bits that every kernel gives.
pub fn exp(x: f32) -> f32 {
    functions::exp::<arithmetic::Emulated>(x)
}

/// x Φ(x), with the bits that every kernel gives.
pub fn gelu(x: f32) -> f32 {
    functions::gelu::<arithmetic::Emulated>(x)
}

/// Which instructions the kernels use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Those that every CPU of the target has.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// The same and AVX-512F.
    Avx512,
}

impl Variant {
    /// All variants, the fastest first.
    pub const ALL: [Variant; 3] = [Variant::Avx512, Variant::Avx2, Variant::Portable];

    /// The fastest variant of this CPU.
    pub fn fastest() -> Self {
        Self::ALL.into_iter().find(|variant| variant.kernels().is_some()).unwrap_or(Variant::Portable)
    }

    /// The kernels; `None` if this CPU cannot run them.
    pub fn kernels(self) -> Option<&'static Kernels> {
        match self {
            Variant::Portable => Some(&portable::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Variant::Avx2 => has_avx2().then_some(&avx2::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Variant::Avx512 => (has_avx2() && is_x86_feature_detected!("avx512f")).then_some(&avx512::KERNELS),
            #[cfg(not(target_arch = "x86_64"))]
            _ => None,
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// Compiles the elementwise kernels for the given instructions, and makes the variant's table of them and of `multiply`
/// and `decode`, which the caller defines.
#[cfg(target_arch = "x86_64")]
macro_rules! kernels_for {
    ($features:literal) => {
        use super::arithmetic::Fused;
        use super::elementwise;
        use super::table::NormValues;

        /// The kernels of this variant; only `Variant::kernels` returns them, and only on a CPU that has the instructions.
        pub static KERNELS: Kernels = Kernels {
            // SAFETY: the CPU has the instructions, and the assertion has checked the lengths of the slices.
            multiply: |product, x, c| unsafe {
                assert!(product.fits(x, c));
                multiply(product, [x.as_ptr()], [c.as_mut_ptr()]);
            },
            // SAFETY: the CPU has the instructions, and the assertion has checked the lengths of the slices.
            multiply_two: |product, [x0, x1], [c0, c1]| unsafe {
                assert!(product.fits(x0, c0) && product.fits(x1, c1));
                multiply(product, [x0.as_ptr(), x1.as_ptr()], [c0.as_mut_ptr(), c1.as_mut_ptr()]);
            },
            // SAFETY: the CPU has the instructions.
            decode: |tensor_type, bytes, out| unsafe { decode(tensor_type, bytes, out) },
            // SAFETY: the CPU has the instructions.
            gelu: |values| unsafe { gelu(values) },
            // SAFETY: the CPU has the instructions.
            softmax: |scores, scale| unsafe { softmax(scores, scale) },
            // SAFETY: the CPU has the instructions.
            layer_norm: |x, addend, norm| unsafe { layer_norm(x, addend, norm) },
        };

        #[target_feature(enable = $features)]
        fn gelu(values: &mut [Lanes]) {
            elementwise::gelu::<Fused>(values);
        }

        #[target_feature(enable = $features)]
        fn softmax(scores: &mut [Lanes], scale: f32) -> Lanes {
            elementwise::softmax::<Fused>(scores, scale)
        }

        // For AVX-512 too: given longer vectors, LLVM runs them across features and gathers.
        #[target_feature(enable = "avx2,fma")]
        fn layer_norm(x: &mut [Lanes], addend: &[Lanes], norm: NormValues<'_>) {
            elementwise::layer_norm::<Fused>(x, addend, norm);
        }
    };
}

#[cfg(target_arch = "x86_64")]
use kernels_for;

#[cfg(test)]
mod tests;
