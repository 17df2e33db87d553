//! The computations of the instructions.

use super::functions;
use super::instruction::{Act, Norm, Reduce};
use super::memory::StackMemory;
use super::reduction::{dot, largest, sum};
use super::value::{Shape, StackValue};
use super::{refuse, Host, PixelError, PixelErrorKind};

/// Multiply-adds between two calls of [`Host::proceed`].
const STRETCH: usize = 1 << 20;
/// Integers up to here are exact in f32.
const EXACT: usize = 1 << 24;

/// Added to the variance by the layer norm.
const LAYER_EPSILON: f32 = 1e-12;
/// Added to the mean square by the RMS norm.
const RMS_EPSILON: f32 = 1e-6;

/// W·x: a vector for a vector, else the matrix product.
pub fn matmul(
    w: &StackValue,
    x: &StackValue,
    memory: &mut StackMemory,
    host: &mut dyn Host,
) -> Result<StackValue, PixelError> {
    let depth = w.shape.columns;
    // The elements of a vector are stored like those of a matrix with one column: only the shapes differ.
    let (columns, shape) = match x.shape {
        Shape { rows: 1, columns } if columns == depth => (1, Shape::vector(w.shape.rows)),
        Shape { rows, columns } if rows == depth => (columns, Shape { rows: w.shape.rows, columns }),
        _ => return refuse(PixelErrorKind::Mismatch, format!("W is {} and x {}", w.shape, x.shape)),
    };
    let mut product = memory.value(shape)?;
    let mut column = memory.value(Shape::vector(depth))?;
    let mut work = 0;
    for j in 0..columns {
        for (k, element) in column.data.iter_mut().enumerate() {
            *element = x.data[k * columns + j];
        }
        for (i, row) in w.rows().enumerate() {
            product.data[i * columns + j] = dot(row, &column.data);
            work += depth;
            if work >= STRETCH {
                host.proceed()?;
                work = 0;
            }
        }
    }
    memory.drop(column);
    Ok(product)
}

/// The result of [`combine`].
pub struct Combined {
    /// The result, in the memory of the larger operand.
    pub result: StackValue,
    /// The other operand, to be freed.
    pub unused: StackValue,
}

/// A function of two numbers, element by element, with a scalar, or with a vector along each row.
///
/// Returns the result, and the operand that is no longer needed.
pub fn combine(a: StackValue, b: StackValue, function: fn(f32, f32) -> f32) -> Result<Combined, PixelError> {
    let spreads = |small: Shape, large: Shape| {
        small == large || small.is_scalar() || small.rows == 1 && small.columns == large.columns
    };
    let (mut large, small) = match (spreads(b.shape, a.shape), spreads(a.shape, b.shape)) {
        (true, _) => (a, b),
        (false, true) => (b, a),
        (false, false) => {
            return refuse(PixelErrorKind::Mismatch, format!("the operands are {} and {}", a.shape, b.shape))
        }
    };
    if small.shape.is_scalar() {
        large.data.iter_mut().for_each(|x| *x = function(*x, small.data[0]));
    } else {
        // Equal shapes are one piece; a vector is repeated for each row.
        for stretch in large.data.chunks_exact_mut(small.data.len()) {
            stretch.iter_mut().zip(&small.data).for_each(|(x, y)| *x = function(*x, *y));
        }
    }
    Ok(Combined { result: large, unused: small })
}

/// A function of every element.
pub fn activate(value: &mut StackValue, act: Act) {
    let function = match act {
        Act::Relu => functions::relu,
        Act::Gelu => functions::gelu,
        Act::Silu => functions::silu,
        Act::Tanh => functions::tanh,
        Act::Sigmoid => functions::sigmoid,
    };
    value.data.iter_mut().for_each(|x| *x = function(*x));
}

/// Normalises every row.
pub fn normalise(value: &mut StackValue, norm: Norm) {
    let normalise = match norm {
        Norm::Layer => layer_norm,
        Norm::Rms => rms_norm,
        Norm::L2 => l2_norm,
        Norm::Softmax => softmax,
    };
    value.rows_mut().for_each(normalise);
}

/// (x - mean) / sqrt(mean((x - mean)^2) + 1e-12)
fn layer_norm(row: &mut [f32]) {
    let mean = sum(row) / row.len() as f32;
    row.iter_mut().for_each(|x| *x -= mean);
    divide(row, (dot(row, row) / row.len() as f32 + LAYER_EPSILON).sqrt());
}

/// x / sqrt(mean(x^2) + 1e-6)
fn rms_norm(row: &mut [f32]) {
    divide(row, (dot(row, row) / row.len() as f32 + RMS_EPSILON).sqrt());
}

/// x / sqrt(sum(x^2)); a row whose squares sum to zero stays as it is.
fn l2_norm(row: &mut [f32]) {
    let length = dot(row, row).sqrt();
    if length != 0.0 {
        divide(row, length);
    }
}

/// e^(x - max) / sum(e^(x - max))
fn softmax(row: &mut [f32]) {
    let (_, greatest) = largest(row);
    row.iter_mut().for_each(|x| *x = functions::exp(*x - greatest));
    let total = sum(row);
    divide(row, total);
}

/// Divides every element. An infinite divisor is the result of an overflow: then every element becomes NaN, not zero.
fn divide(row: &mut [f32], divisor: f32) {
    let divisor = if divisor.is_infinite() { f32::NAN } else { divisor };
    row.iter_mut().for_each(|x| *x /= divisor);
}

/// One number for each row, as a vector.
pub fn reduce(value: &StackValue, reduce: Reduce, memory: &mut StackMemory) -> Result<StackValue, PixelError> {
    if reduce == Reduce::Argmax && value.shape.columns > EXACT {
        return refuse(
            PixelErrorKind::Mismatch,
            format!("an index into {} columns is not exact in f32", value.shape.columns),
        );
    }
    let mut numbers = memory.value(Shape::vector(value.shape.rows))?;
    for (number, row) in numbers.data.iter_mut().zip(value.rows()) {
        *number = match reduce {
            Reduce::Sum => sum(row),
            Reduce::Mean => sum(row) / row.len() as f32,
            Reduce::Max => largest(row).1,
            Reduce::Argmax => match largest(row) {
                (_, greatest) if greatest.is_nan() => f32::NAN,
                (index, _) => index as f32,
            },
        };
    }
    Ok(numbers)
}
