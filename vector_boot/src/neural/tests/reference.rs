//! A bert in f64, written for being read.

use super::super::{BertConfig, Pooling};

type Rows = Vec<Vec<f64>>;

/// The embedding of one text; `values` gives a tensor's elements by name; `fused` is the form of attention weights.
pub fn embed(config: &BertConfig, values: &dyn Fn(&str) -> Vec<f32>, fused: bool, text: &[u32]) -> Vec<f64> {
    let (tokens, positions, types) =
        (values("token_embd.weight"), values("position_embd.weight"), values("token_types.weight"));
    let width = config.embedding;
    let sum = |position: usize, token: u32, d: usize| {
        f64::from(tokens[token as usize * width + d]) + f64::from(types[d]) + f64::from(positions[position * width + d])
    };
    let mut x: Rows =
        text.iter().enumerate().map(|(i, token)| (0..width).map(|d| sum(i, *token, d)).collect()).collect();
    norm(config, values, "token_embd_norm", &mut x);
    for index in 0..config.blocks {
        let at = |part: &str| format!("blk.{index}.{part}");
        let mixed = attend(config, &inputs(values, index, fused, &x));
        add(&mut x, &linear(values, &at("attn_output"), &mixed));
        norm(config, values, &at("attn_output_norm"), &mut x);
        let mut inner = linear(values, &at("ffn_up"), &x);
        inner.iter_mut().flatten().for_each(|v| *v = *v / 2.0 * (1.0 + erf(*v / 2f64.sqrt())));
        add(&mut x, &linear(values, &at("ffn_down"), &inner));
        norm(config, values, &at("layer_output_norm"), &mut x);
    }
    let mut pooled = match config.pooling {
        Pooling::Mean => (0..width).map(|d| x.iter().map(|row| row[d]).sum::<f64>() / x.len() as f64).collect(),
        Pooling::Cls => x[0].clone(),
        Pooling::Last => x[x.len() - 1].clone(),
    };
    if config.normalize {
        let length = pooled.iter().map(|v| v * v).sum::<f64>().sqrt();
        pooled.iter_mut().for_each(|v| *v /= length);
    }
    pooled
}

/// Query, key and value of each token, side by side.
fn inputs(values: &dyn Fn(&str) -> Vec<f32>, block: usize, fused: bool, x: &Rows) -> Rows {
    if fused {
        return linear(values, &format!("blk.{block}.attn_qkv"), x);
    }
    let parts = ["q", "k", "v"].map(|part| linear(values, &format!("blk.{block}.attn_{part}"), x));
    (0..x.len()).map(|token| parts.iter().flat_map(|part| part[token].clone()).collect()).collect()
}

fn attend(config: &BertConfig, inputs: &Rows) -> Rows {
    let (embedding, width) = (config.embedding, config.embedding / config.heads);
    let mut mixed = vec![vec![0.0; embedding]; inputs.len()];
    for (query, out) in inputs.iter().zip(&mut mixed) {
        for head in 0..config.heads {
            let at = head * width;
            let score = |key: &Vec<f64>| {
                (0..width).map(|d| query[at + d] * key[embedding + at + d]).sum::<f64>() / (width as f64).sqrt()
            };
            let weights: Vec<f64> = inputs.iter().map(|key| score(key).exp()).collect();
            let total: f64 = weights.iter().sum();
            for d in 0..width {
                let weighted =
                    inputs.iter().zip(&weights).map(|(value, weight)| weight * value[2 * embedding + at + d]);
                out[at + d] = weighted.sum::<f64>() / total;
            }
        }
    }
    mixed
}

fn linear(values: &dyn Fn(&str) -> Vec<f32>, stem: &str, x: &Rows) -> Rows {
    let (weight, bias) = (values(&format!("{stem}.weight")), values(&format!("{stem}.bias")));
    let row = |x: &Vec<f64>, r: usize| {
        let weights = &weight[r * x.len()..][..x.len()];
        weights.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum::<f64>() + f64::from(bias[r])
    };
    x.iter().map(|x| (0..bias.len()).map(|r| row(x, r)).collect()).collect()
}

fn add(x: &mut Rows, y: &Rows) {
    x.iter_mut().flatten().zip(y.iter().flatten()).for_each(|(x, y)| *x += y);
}

fn norm(config: &BertConfig, values: &dyn Fn(&str) -> Vec<f32>, stem: &str, x: &mut Rows) {
    let (weight, bias) = (values(&format!("{stem}.weight")), values(&format!("{stem}.bias")));
    for row in x {
        let count = row.len() as f64;
        let mean = row.iter().sum::<f64>() / count;
        let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count;
        for (d, v) in row.iter_mut().enumerate() {
            *v =
                (*v - mean) / (variance + f64::from(config.epsilon)).sqrt() * f64::from(weight[d]) + f64::from(bias[d]);
        }
    }
}

/// By the Taylor series, which at 6 is still good to nine digits.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}
