use std::collections::HashMap;

use super::*;
use crate::tensor::tests::{file, load};

mod faults;
mod properties;

/// A host with a few tensors, and a network with a fixed embedding.
#[derive(Default)]
pub struct TestHost {
    pub tensors: HashMap<String, (Shape, Vec<f32>)>,
    pub slots: HashMap<String, Vec<u8>>,
    pub network: Option<Vec<f32>>,
    pub texts: Vec<String>,
    pub decoded: usize,
    pub patience: Option<u64>,
}

impl Host for TestHost {
    fn shape(&mut self, name: &str) -> Result<Shape, PixelError> {
        match self.tensors.get(name) {
            Some((shape, _)) => Ok(*shape),
            None => refuse(PixelErrorKind::UnknownTensor, format!("there is no tensor {name:?}")),
        }
    }

    fn tensor(&mut self, name: &str, values: &mut [f32]) -> Result<(), PixelError> {
        self.decoded += 1;
        values.copy_from_slice(&self.tensors[name].1);
        Ok(())
    }

    fn program(&mut self, slot: Slot) -> Vec<u8> {
        self.slots.get(&slot.to_string()).cloned().unwrap_or_else(|| vec![0; SLOT_BYTES])
    }

    fn network(&mut self, text: &str) -> Result<Vec<f32>, PixelError> {
        self.texts.push(text.into());
        self.network
            .clone()
            .ok_or_else(|| PixelError { kind: PixelErrorKind::Unsupported, text: "the model does not embed".into() })
    }

    fn proceed(&mut self) -> Result<(), PixelError> {
        let Some(left) = &mut self.patience else { return Ok(()) };
        *left = left
            .checked_sub(1)
            .ok_or_else(|| PixelError { kind: PixelErrorKind::Cancelled, text: "cancelled".into() })?;
        Ok(())
    }
}

impl TestHost {
    pub fn with(mut self, name: &str, rows: usize, columns: usize, values: &[f32]) -> Self {
        assert_eq!(rows * columns, values.len());
        self.tensors.insert(name.into(), (Shape { rows, columns }, values.to_vec()));
        self
    }

    pub fn with_slot(mut self, name: &str, program: &[u8]) -> Self {
        let mut slot = (program.len() as u32 / 3).to_le_bytes().to_vec();
        slot.extend(program);
        slot.resize(SLOT_BYTES, 0);
        self.slots.insert(name.into(), slot);
        self
    }

    /// The built-in programs, as a machine that boots a plain GGUF has them.
    pub fn with_kernels(mut self) -> Self {
        let store = load(file("w", 64, false)).unwrap();
        for name in (0..8).map(|slot| format!("kernel.{slot}")) {
            let slot = store.bytes(store.find(&name).unwrap()).unwrap();
            self.slots.insert(name, slot.to_vec());
        }
        self
    }

    pub fn run(&mut self, program: &[u8]) -> Result<ProgramOutcome, ProgramError> {
        run(program, self, ProgramLimits::default())
    }

    /// The result as numbers.
    pub fn numbers(&mut self, program: &[u8]) -> Vec<f32> {
        numbers(&self.run(program).unwrap().output)
    }
}

pub fn numbers(output: &[u8]) -> Vec<f32> {
    output.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Data pixels, a LIT before each that needs one.
pub fn data(bytes: &[u8]) -> Vec<u8> {
    let pixel = |bytes: &[u8]| {
        let mut pixel = if bytes[0] == 250 { vec![250, 0, 0] } else { vec![] };
        pixel.extend(bytes);
        pixel.extend(vec![0; 3 - bytes.len()]);
        pixel
    };
    bytes.chunks(3).flat_map(pixel).collect()
}

/// Pushes the tensors, then executes the instructions (opcode and immediate).
pub fn program(tensors: &[&str], instructions: &[(u8, u8)]) -> Vec<u8> {
    let mut program: Vec<u8> =
        tensors.iter().flat_map(|name| [data(name.as_bytes()), vec![250, 1, 0]].concat()).collect();
    program.extend(instructions.iter().flat_map(|(opcode, immediate)| [250, *opcode, *immediate]));
    program
}

const OUT: (u8, u8) = (13, 0);

fn close(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!((f64::from(*found) - expected).abs() <= tolerance * expected.abs().max(1.0), "{found} {expected}");
    }
}

fn ramp(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 37 % 23) as f32 - 11.0) / 7.0).collect()
}

#[test]
fn the_programs_of_text_runs_the_network_and_raises_its_interrupt() {
    let anchor = [72, 101, 108, 101, 108, 108, 108, 111, 111, 250, 255, 0];
    let mut machine = TestHost { network: Some(vec![0.5, -1.0]), ..TestHost::default() };
    let outcome = machine.run(&anchor).unwrap();
    assert_eq!(outcome.interrupts, [255]);
    assert_eq!(numbers(&outcome.output), [0.5, -1.0]);
    assert_eq!((outcome.steps, outcome.pixels), (1, 4));
    assert_eq!(machine.texts, ["Helellloo"]);
    let twice = [data(b"a\0b"), vec![250, 255, 7], data("é".as_bytes()), vec![250, 255, 8]].concat();
    assert_eq!(machine.run(&twice).unwrap().interrupts, [7, 8]);
    assert_eq!(machine.texts[1..], ["a\0b", "é"]);
}

#[test]
fn an_empty_program_succeeds() {
    assert_eq!(TestHost::default().run(&[]).unwrap(), ProgramOutcome::default());
}

#[test]
fn input_takes_the_whole_buffer() {
    let bytes = [data(&[1, 255, 0, 250, 7]), vec![250, 2, 0, 250, 13, 0]].concat();
    assert_eq!(TestHost::default().numbers(&bytes), [1.0, 255.0, 0.0, 250.0, 7.0, 0.0]);
    let floats: Vec<u8> = [1.5f32, -2.0, 1e-3].iter().flat_map(|x| x.to_le_bytes()).collect();
    let outcome = TestHost::default().run(&[data(&floats), vec![250, 2, 1, 250, 13, 0]].concat()).unwrap();
    assert_eq!(numbers(&outcome.output), [1.5, -2.0, 1e-3]);
    assert_eq!((outcome.steps, outcome.pixels), (2, 6));
}

#[test]
fn products_are_those_of_mathematics() {
    let (rows, depth, columns) = (5, 37, 4);
    let (w, x, v) = (ramp(rows * depth), ramp(depth * columns), ramp(depth));
    let mut machine =
        TestHost::default().with("w", rows, depth, &w).with("x", depth, columns, &x).with("v", 1, depth, &v);
    let expected = |x: &[f32], columns: usize| -> Vec<f64> {
        let element = |i: usize, j: usize| {
            (0..depth).map(|k| f64::from(w[i * depth + k]) * f64::from(x[k * columns + j])).sum::<f64>()
        };
        (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j))).map(|(i, j)| element(i, j)).collect()
    };
    close(&machine.numbers(&program(&["w", "x"], &[(3, 0), OUT])), &expected(&x, columns), 1e-5);
    close(&machine.numbers(&program(&["w", "v"], &[(3, 0), OUT])), &expected(&v, 1), 1e-5);
    // The product with a vector is a vector: it reduces to one number.
    assert_eq!(machine.numbers(&program(&["w", "v"], &[(3, 0), (8, 2), OUT])).len(), 1);
    assert_eq!(machine.numbers(&program(&["w", "x"], &[(3, 0), (8, 2), OUT])).len(), rows);
}

#[test]
fn sums_run_in_sixteen_lanes_joined_by_a_tree() {
    // 2^24 swallows a one that meets it, so the result tells which elements met first.
    let mut values = vec![0.0; 33];
    (values[0], values[16], values[32], values[8]) = (16_777_216.0, 1.0, 1.0, 3.0);
    let mut machine = TestHost::default().with("x", 1, 33, &values);
    assert_eq!(machine.numbers(&program(&["x"], &[(8, 0), OUT])), [16_777_220.0]);
    (values[16], values[32], values[8]) = (1.0, 0.0, 1.0);
    (values[4], values[12]) = (1.0, 1.0);
    // ((2^24 + 1) + 1) + (1 + 1): both ones are lost, the pair is not.
    let mut machine = TestHost::default().with("x", 1, 33, &values);
    assert_eq!(machine.numbers(&program(&["x"], &[(8, 0), OUT])), [16_777_218.0]);
}

#[test]
fn sums_and_products_spread_scalars_and_vectors() {
    let mut machine = TestHost::default()
        .with("m", 2, 3, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        .with("v", 1, 3, &[10.0, 20.0, 30.0])
        .with("s", 1, 1, &[2.0]);
    let mut both = |a, b, opcode| {
        let there = machine.numbers(&program(&[a, b], &[(opcode, 0), OUT]));
        assert_eq!(machine.numbers(&program(&[b, a], &[(opcode, 0), OUT])), there);
        there
    };
    assert_eq!(both("m", "v", 4), [11.0, 22.0, 33.0, 14.0, 25.0, 36.0]);
    assert_eq!(both("m", "v", 5), [10.0, 40.0, 90.0, 40.0, 100.0, 180.0]);
    assert_eq!(both("m", "s", 5), [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]);
    assert_eq!(both("m", "m", 4), [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]);
    assert_eq!(both("v", "s", 4), [12.0, 22.0, 32.0]);
}

#[test]
fn activations_follow_their_formulas() {
    let xs: Vec<f32> = (-400..=400).map(|i| i as f32 * 0.025).chain([1e-6, -1e-6, 50.0, -50.0, 1e4, -1e4]).collect();
    let mut machine = TestHost::default().with("x", 1, xs.len(), &xs);
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let formulas: [&dyn Fn(f64) -> f64; 5] =
        [&|x| x.max(0.0), &gelu_reference, &|x| x * sigmoid(x), &|x| x.tanh(), &sigmoid];
    for (immediate, formula) in formulas.iter().enumerate() {
        let expected: Vec<f64> = xs.iter().map(|x| formula(f64::from(*x))).collect();
        close(&machine.numbers(&program(&["x"], &[(6, immediate as u8), OUT])), &expected, 1e-6);
    }
    // Small arguments keep their digits.
    let mut machine = TestHost::default().with("x", 1, 2, &[1e-6, -0.01]);
    let found = machine.numbers(&program(&["x"], &[(6, 3), OUT]));
    assert!((found[0] - 1e-6).abs() < 1e-12 && (f64::from(found[1]) - f64::tanh(-0.01)).abs() < 1e-8);
}

/// x Φ(x), by integrating the density.
fn gelu_reference(x: f64) -> f64 {
    let steps = 2000;
    let width = x.clamp(-12.0, 12.0) / f64::from(steps);
    let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let area: f64 = (0..steps).map(|i| density((f64::from(i) + 0.5) * width) * width).sum();
    x * (0.5 + area)
}

#[test]
fn norms_work_on_each_row() {
    let (rows, columns) = (3, 21);
    let x = ramp(rows * columns);
    let mut machine = TestHost::default().with("x", rows, columns, &x).with("z", 2, 2, &[0.0, 0.0, 3.0, 4.0]);
    for norm in 0..4u8 {
        let expected: Vec<f64> = x.chunks(columns).flat_map(|row| norm_reference(row, norm)).collect();
        close(&machine.numbers(&program(&["x"], &[(7, norm), OUT])), &expected, 1e-5);
    }
    assert_eq!(machine.numbers(&program(&["z"], &[(7, 2), OUT])), [0.0, 0.0, 0.6, 0.8]);
}

fn norm_reference(row: &[f32], norm: u8) -> Vec<f64> {
    let row: Vec<f64> = row.iter().map(|x| f64::from(*x)).collect();
    let count = row.len() as f64;
    let mean = row.iter().sum::<f64>() / count;
    let squares = |centre: f64| row.iter().map(|x| (x - centre).powi(2)).sum::<f64>();
    let total: f64 = row.iter().map(|x| x.exp()).sum();
    let normalised = |x: &f64| match norm {
        0 => (x - mean) / (squares(mean) / count + 1e-12).sqrt(),
        1 => x / (squares(0.0) / count + 1e-6).sqrt(),
        2 => x / squares(0.0).sqrt(),
        _ => x.exp() / total,
    };
    row.iter().map(normalised).collect()
}

#[test]
fn reductions_give_a_number_for_each_row() {
    let mut machine = TestHost::default().with("m", 2, 4, &[1.0, 5.0, 5.0, -3.0, -2.0, -8.0, -1.0, -1.0]);
    let expected = [[8.0, -12.0], [2.0, -3.0], [5.0, -1.0], [1.0, 2.0]];
    for (reduce, expected) in expected.iter().enumerate() {
        assert_eq!(machine.numbers(&program(&["m"], &[(8, reduce as u8), OUT])), expected);
    }
    assert_eq!(machine.numbers(&program(&["m"], &[(8, 1), (8, 0), OUT])), [-1.0]);
}

#[test]
fn the_stack_is_a_stack() {
    let mut machine = TestHost::default().with("a", 1, 1, &[1.0]).with("b", 1, 1, &[2.0]);
    assert_eq!(machine.numbers(&program(&["a", "b"], &[(12, 0), OUT, OUT])), [1.0, 2.0]);
    assert_eq!(machine.numbers(&program(&["a", "b"], &[(11, 0), (10, 0), OUT, OUT])), [1.0, 1.0]);
}

#[test]
fn calls_share_buffer_stack_and_result() {
    let mut machine = TestHost::default()
        .with("ab", 1, 2, &[1.0, 2.0])
        .with_slot("evolved.3", &[vec![b'b', 0, 0], vec![250, 1, 0, 250, 10, 0, 250, 13, 0]].concat())
        .with_slot("evolved.0", &[250, 9, 131]);
    // The padding of the caller's data pixel stays inside the name.
    assert_eq!(machine.run(&[b'a', 0, 0, 250, 9, 131]).unwrap_err().kind, PixelErrorKind::UnknownTensor);
    let mut machine = machine.with("a\0\0b", 1, 2, &[1.0, 2.0]);
    let outcome = machine.run(&[b'a', 0, 0, 250, 9, 128, 250, 13, 0]).unwrap();
    assert_eq!(numbers(&outcome.output), [1.0, 2.0, 1.0, 2.0]);
    assert_eq!((outcome.steps, outcome.pixels), (6, 8));
}

#[test]
fn built_in_programs_do_what_they_say() {
    let page: Vec<f32> = ramp(1024);
    let mut machine = TestHost { network: Some(vec![1.0]), ..TestHost::default() }
        .with_kernels()
        .with("a", 1, 3, &[1.0, 2.0, 2.0])
        .with("b", 1, 3, &[2.0, 0.0, 0.0])
        .with("w", 2, 3, &[3.0, 0.0, 4.0, 0.0, 12.0, 0.0])
        .with("hw.mmio", 1, 1024, &page);
    close(&machine.numbers(&program(&["a", "b"], &[(9, 0)])), &[1.0 / 3.0], 1e-6);
    let named = |name: &[u8], kernel: u8| [data(name), vec![250, 9, kernel]].concat();
    close(&machine.numbers(&named(b"w", 1)), &[13.0], 1e-6);
    close(&machine.numbers(&named(b"a", 1)), &[3.0], 1e-6);
    assert_eq!(machine.numbers(&[250, 9, 2]), page);
    let (e3, e24) = (11f64.exp(), 24f64.exp());
    let softmax = [e3 / (e3 + e24), e24 / (e3 + e24), 1.0];
    close(&machine.numbers(&program(&["w", "a"], &[(9, 3)])), &softmax, 1e-6);
    assert_eq!(machine.numbers(&program(&["w", "b"], &[(9, 4)])), [0.0]);
    close(&machine.numbers(&named(b"w", 5)), &[7.0 / 3.0, 4.0, 4.0, 12.0], 1e-6);
    assert_eq!(machine.run(&named(b"hello", 6)).unwrap().interrupts, [255]);
    assert_eq!(machine.run(&[250, 9, 7]).unwrap_err().kind, PixelErrorKind::Mismatch);
}
