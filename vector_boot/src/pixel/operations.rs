//! What the instructions compute.

use super::functions;
use super::instruction::{Act, Norm, Reduce};
use super::memory::Memory;
use super::reduction::{dot, largest, sum};
use super::value::{Shape, Value};
use super::{refuse, Host, Refusal, UNFIT};

/// Multiply-adds between two questions whether to go on.
const STRETCH: usize = 1 << 20;
/// Integers up to here are exact in f32.
const EXACT: usize = 1 << 24;

/// Added to the variance by the layer norm.
const LAYER_EPSILON: f32 = 1e-12;
/// Added to the mean square by the RMS norm.
const RMS_EPSILON: f32 = 1e-6;

/// W·x: a vector for a vector, else the matrix product.
pub fn matmul(w: &Value, x: &Value, memory: &mut Memory, host: &mut dyn Host) -> Result<Value, Refusal> {
    let depth = w.shape.columns;
    // A vector lies in its row just as a column of a matrix would stand, so the two cases differ in shape alone.
    let (columns, shape) = match x.shape {
        Shape { rows: 1, columns } if columns == depth => (1, Shape::vector(w.shape.rows)),
        Shape { rows, columns } if rows == depth => (columns, Shape { rows: w.shape.rows, columns }),
        _ => return refuse(UNFIT, format!("W is {} and x {}", w.shape, x.shape)),
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

/// A function of two numbers, element by element, with a scalar, or with a vector along each row.
///
/// Returns the result and the operand that is not needed any more.
pub fn combine(a: Value, b: Value, function: fn(f32, f32) -> f32) -> Result<(Value, Value), Refusal> {
    let spreads = |small: Shape, large: Shape| {
        small == large || small.is_scalar() || small.rows == 1 && small.columns == large.columns
    };
    let (mut large, small) = match (spreads(b.shape, a.shape), spreads(a.shape, b.shape)) {
        (true, _) => (a, b),
        (false, true) => (b, a),
        (false, false) => return refuse(UNFIT, format!("the operands are {} and {}", a.shape, b.shape)),
    };
    if small.shape.is_scalar() {
        large.data.iter_mut().for_each(|x| *x = function(*x, small.data[0]));
    } else {
        // A shape like the large one's is one stretch as long as it; a vector is repeated along the rows.
        for stretch in large.data.chunks_exact_mut(small.data.len()) {
            stretch.iter_mut().zip(&small.data).for_each(|(x, y)| *x = function(*x, *y));
        }
    }
    Ok((large, small))
}

/// A function of every element.
pub fn activate(value: &mut Value, act: Act) {
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
pub fn normalise(value: &mut Value, norm: Norm) {
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

/// An infinite divisor has overflown: what it would leave is not zero but not a number.
fn divide(row: &mut [f32], divisor: f32) {
    let divisor = if divisor.is_infinite() { f32::NAN } else { divisor };
    row.iter_mut().for_each(|x| *x /= divisor);
}

/// One number for each row, as a vector.
pub fn reduce(value: &Value, reduce: Reduce, memory: &mut Memory) -> Result<Value, Refusal> {
    if reduce == Reduce::Argmax && value.shape.columns > EXACT {
        return refuse(UNFIT, format!("an index into {} columns is not exact in f32", value.shape.columns));
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
