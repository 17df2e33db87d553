//! Sums and products in one fixed order: sixteen lanes, element k in lane k mod 16, added in a fixed tree.

const LANES: usize = 16;

/// Adds the lanes up: the upper half to the lower half, four times.
fn join(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Σ a[k] b[k], to the end of the shorter one.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane = a.mul_add(*b, *lane);
        }
    }
    join(lanes)
}

/// Σ x[k].
pub fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    for x in x.chunks(LANES) {
        for (lane, x) in lanes.iter_mut().zip(x) {
            *lane += x;
        }
    }
    join(lanes)
}

/// Index and value of the first largest element; of the first NaN where there is one.
pub fn largest(x: &[f32]) -> (usize, f32) {
    let mut best = (0, x.first().copied().unwrap_or(f32::NAN));
    for (index, x) in x.iter().enumerate() {
        if best.1.is_nan() {
            break;
        }
        if *x > best.1 || x.is_nan() {
            best = (index, *x);
        }
    }
    best
}
