//! The scalar reference of the kernels, for any CPU of the target.

use super::arithmetic::{Arithmetic, Baseline};
use super::elementwise;
use super::table::{Kernels, Product, ROWS};
use crate::element;
use crate::gguf::TensorType;
use crate::neural::lanes::{Lanes, LANES};

/// c[r] += a[r] · x for each of sixteen tokens: one chain of fused multiply-adds, k ascending.
fn multiply(product: Product<'_>, x: &[Lanes], c: &mut [Lanes]) {
    for (row, c) in c[..ROWS].iter_mut().enumerate() {
        let a = &product.a[row * product.stride..][..product.depth];
        for (a, x) in a.iter().zip(x) {
            for lane in 0..LANES {
                c.0[lane] = Baseline::mul_add(*a, x.0[lane], c.0[lane]);
            }
        }
    }
}

fn decode(tensor_type: TensorType, bytes: &[u8], out: &mut [f32]) {
    // A matrix is only made of a type that decodes.
    let _ = element::dequantize(tensor_type, bytes, out);
}

/// The kernels of this variant.
pub static KERNELS: Kernels = Kernels {
    multiply,
    multiply_two: |product, [x0, x1], [c0, c1]| {
        multiply(product, x0, c0);
        multiply(product, x1, c1);
    },
    decode,
    gelu: elementwise::gelu::<Baseline>,
    softmax: elementwise::softmax::<Baseline>,
    layer_norm: elementwise::layer_norm::<Baseline>,
};
