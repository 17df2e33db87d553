//! Prints how long each edit takes per element of a tensor, in nanoseconds (the best of several passes).

use std::hint::black_box;
use std::time::Instant;

use vector_boot::gguf::TensorType;
use vector_boot::mutation::low_rank::{self, Factor};
use vector_boot::mutation::seeded::{self, Form, Seeded};
use vector_boot::mutation::{finite, noise, sparse};

const ELEMENTS: usize = 1 << 20;
const COLUMNS: usize = 512;
const PASSES: usize = 15;
const TYPES: [(&str, u32); 4] = [("F32", 0), ("F16", 1), ("BF16", 30), ("Q8_0", 8)];

/// Smallest nanoseconds per item over the passes.
fn measure(name: &str, items: usize, mut pass: impl FnMut()) {
    let time = |_| {
        let start = Instant::now();
        pass();
        start.elapsed().as_secs_f64()
    };
    let best = (0..PASSES).map(time).fold(f64::INFINITY, f64::min);
    println!("{name:<28} {:8.3} ns", best * 1e9 / items as f64);
}

fn tensor(tensor_type: TensorType) -> Vec<u8> {
    // Repeats of a byte below 0x3C make small positive numbers, and small scales, in every type.
    let bytes = ELEMENTS as u64 / tensor_type.block_elements() * tensor_type.block_bytes();
    (0..bytes).map(|i| (i % 31) as u8 + 8).collect()
}

fn main() {
    let mut words = vec![0; ELEMENTS];
    measure("noise", ELEMENTS, || noise::fill([1, 2], 0, black_box(&mut words)));
    for (name, id) in TYPES {
        let tensor_type = TensorType::from_id(id).expect("a known type");
        let mut blocks = tensor(tensor_type);
        for (density, form) in [(1.0, Form::Normal), (0.01, Form::Normal), (1.0, Form::Step), (1.0, Form::Scale)] {
            let edit = Seeded { key: [1, 2], threshold: seeded::threshold(density), scale: 1e-6, form };
            if seeded::apply(&edit, tensor_type, 0, &mut blocks).is_ok() {
                measure(&format!("{form:?} {density} {name}"), ELEMENTS, || {
                    seeded::apply(&edit, tensor_type, 0, black_box(&mut blocks)).expect("small numbers");
                });
            }
        }
        let b: Vec<f32> = (0..COLUMNS * 8).map(|i| i as f32 * 1e-9).collect();
        let a: Vec<f32> = (0..ELEMENTS / COLUMNS * 8).map(|i| i as f32 * 1e-9).collect();
        measure(&format!("low rank 8 {name}"), ELEMENTS, || {
            let factor = Factor::new(&b, COLUMNS, 8).expect("the shape fits");
            low_rank::apply(&factor, tensor_type, 0.5, &a, black_box(&mut blocks)).expect("small numbers");
        });
        let indices: Vec<u64> = (0..ELEMENTS as u64).step_by(37).collect();
        let values = vec![1e-9; indices.len()];
        measure(&format!("sparse add {name}, an index"), indices.len(), || {
            sparse::apply(sparse::SparseOp::Add, tensor_type, 0, black_box(&mut blocks), &indices, &values)
                .expect("fits");
        });
        measure(&format!("finite {name}"), ELEMENTS, || {
            black_box(finite::all_finite(tensor_type, black_box(&blocks)));
        });
    }
}
