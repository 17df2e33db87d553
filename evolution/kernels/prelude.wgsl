// A workgroup of sixteen invocations transforms one vector. Invocation `lane` holds the elements k with k mod 16 = lane,
// which are the lanes that the pixel machine sums in, so every sum has its order. What is not finite may get lost on the
// way: WGSL promises nothing about it.

const LANES = 16u;
const SHARE = (DIM + LANES - 1u) / LANES;

alias Share = array<f32, SHARE>;

@group(0) @binding(0) var<storage, read> vectors: array<f32>;
@group(0) @binding(1) var<storage, read_write> results: array<f32>;

var<workgroup> lanes: array<f32, LANES>;
var<private> not_a_number: u32 = 0x7fc00000u;

// How many elements the lane holds.
fn owned(lane: u32) -> u32 {
    return (DIM + LANES - 1u - lane) / LANES;
}

fn fetch(row: u32, lane: u32, x: ptr<function, Share>) {
    for (var i = 0u; i < owned(lane); i++) {
        (*x)[i] = vectors[row * DIM + lane + LANES * i];
    }
}

fn store(row: u32, lane: u32, x: ptr<function, Share>) {
    for (var i = 0u; i < owned(lane); i++) {
        results[row * DIM + lane + LANES * i] = (*x)[i];
    }
}

// The lane's one of sixteen codes, of eight bits each.
fn code(lane: u32, sixteen: vec4<u32>) -> f32 {
    return f32((sixteen[lane / 4u] >> (8u * (lane % 4u))) & 255u);
}

// The sum over the lanes, the upper half onto the lower, four times.
fn joined_sum(lane: u32, own: f32) -> f32 {
    lanes[lane] = own;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            lanes[lane] += lanes[lane + half];
        }
        workgroupBarrier();
    }
    let total = lanes[0];
    workgroupBarrier();
    return total;
}

fn joined_max(lane: u32, own: f32) -> f32 {
    lanes[lane] = own;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            lanes[lane] = max(lanes[lane], lanes[lane + half]);
        }
        workgroupBarrier();
    }
    let greatest = lanes[0];
    workgroupBarrier();
    return greatest;
}

fn reduce_sum(lane: u32, x: ptr<function, Share>) -> f32 {
    var total = 0f;
    for (var i = 0u; i < owned(lane); i++) {
        total += (*x)[i];
    }
    return joined_sum(lane, total);
}

fn reduce_mean(lane: u32, x: ptr<function, Share>) -> f32 {
    return reduce_sum(lane, x) / f32(DIM);
}

fn reduce_max(lane: u32, x: ptr<function, Share>) -> f32 {
    var greatest = -3.4028234e38f;
    for (var i = 0u; i < owned(lane); i++) {
        greatest = max(greatest, (*x)[i]);
    }
    return joined_max(lane, greatest);
}

fn squares(lane: u32, x: ptr<function, Share>) -> f32 {
    var total = 0f;
    for (var i = 0u; i < owned(lane); i++) {
        total = fma((*x)[i], (*x)[i], total);
    }
    return joined_sum(lane, total);
}

// An infinite divisor has overflown: what it would leave is not zero but not a number.
fn divide(lane: u32, x: ptr<function, Share>, divisor: f32) {
    let infinite = (bitcast<u32>(divisor) & 0x7fffffffu) == 0x7f800000u;
    let sound = bitcast<f32>(select(bitcast<u32>(divisor), not_a_number, infinite));
    for (var i = 0u; i < owned(lane); i++) {
        (*x)[i] /= sound;
    }
}

fn norm_layer(lane: u32, x: ptr<function, Share>) {
    let mean = reduce_mean(lane, x);
    for (var i = 0u; i < owned(lane); i++) {
        (*x)[i] -= mean;
    }
    divide(lane, x, sqrt(squares(lane, x) / f32(DIM) + 1e-12f));
}

fn norm_rms(lane: u32, x: ptr<function, Share>) {
    divide(lane, x, sqrt(squares(lane, x) / f32(DIM) + 1e-6f));
}

fn norm_l2(lane: u32, x: ptr<function, Share>) {
    let length = sqrt(squares(lane, x));
    if (length != 0f) {
        divide(lane, x, length);
    }
}

fn norm_softmax(lane: u32, x: ptr<function, Share>) {
    let greatest = reduce_max(lane, x);
    for (var i = 0u; i < owned(lane); i++) {
        (*x)[i] = power_of_e((*x)[i] - greatest);
    }
    divide(lane, x, reduce_sum(lane, x));
}

// e^x for x <= 0; e^-87 below -87.
fn power_of_e(exponent: f32) -> f32 {
    let x = max(exponent, -87f);
    let n = round(x * 1.442695f);
    let r = fma(n, 2.1219444e-4f, fma(n, -0.6933594f, x));
    var sum = 0.0013836742f;
    sum = fma(sum, r, 0.008374899f);
    sum = fma(sum, r, 0.041668232f);
    sum = fma(sum, r, 0.1666642f);
    sum = fma(sum, r, 0.49999991f);
    sum = fma(sum, r, 1f);
    sum = fma(sum, r, 1f);
    return sum * bitcast<f32>(u32(i32(n) + 127) << 23u);
}

fn erf(x: f32) -> f32 {
    let square = min(x * x, 16f);
    var above = 2.025912e-6f;
    above = fma(above, square, 2.8468776e-4f);
    above = fma(above, square, 0.003808154f);
    above = fma(above, square, 0.05287542f);
    above = fma(above, square, 0.19155012f);
    above = fma(above, square, 1.1283791f);
    var below = 3.7831844e-5f;
    below = fma(below, square, 0.0011707243f);
    below = fma(below, square, 0.015055074f);
    below = fma(below, square, 0.114559546f);
    below = fma(below, square, 0.50308955f);
    below = fma(below, square, 1f);
    return clamp(select(x * above / below, sign(x), abs(x) > 3.95f), -1f, 1f);
}

fn relu(x: f32) -> f32 {
    return select(x, 0f, x < 0f);
}

fn gelu(x: f32) -> f32 {
    return fma(0.5f * x, erf(x * 0.70710677f), 0.5f * x);
}

fn sigmoid(x: f32) -> f32 {
    let small = power_of_e(-abs(x));
    return select(1f, small, x < 0f) / (1f + small);
}

fn silu(x: f32) -> f32 {
    return x * sigmoid(x);
}

fn hyperbolic_tangent(x: f32) -> f32 {
    let square = min(x * x, 1f);
    var series = -0.008863236f;
    series = fma(series, square, 0.021869488f);
    series = fma(series, square, -0.053968254f);
    series = fma(series, square, 0.13333334f);
    series = fma(series, square, -0.33333334f);
    series = fma(series, square, 1f);
    let small = power_of_e(-2f * abs(x));
    return select((1f - small) / (1f + small) * sign(x), x * series, abs(x) < 0.3f);
}
