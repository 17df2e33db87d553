use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::weights::{Matrix, Weights};
use super::*;
use crate::element;
use crate::gguf::TensorType;

mod reference;

const F32: u32 = 0;

/// A random bert: stored tensors by name, with rows and columns.
struct Model {
    config: BertConfig,
    tensors: HashMap<String, (TensorType, usize, usize, Vec<u8>)>,
}

const VOCABULARY: usize = 50;

impl Model {
    /// Matrices of the given types in turn; what has one dimension, and the tables of rows no block fits, is F32.
    fn random([blocks, embedding, feed_forward, heads]: [usize; 4], types: &[u32], fused: bool) -> Self {
        let config = BertConfig {
            blocks,
            embedding,
            feed_forward,
            heads,
            context: 90,
            epsilon: 1e-6,
            pooling: Pooling::Mean,
            normalize: true,
        };
        let mut model = Model { config, tensors: HashMap::new() };
        let mut add = |name: String, rows: usize, columns: usize| {
            let id = if rows == 1 { F32 } else { types[model.tensors.len() % types.len()] };
            let tensor = random_tensor(id, rows, columns, model.tensors.len() as u64 + 1);
            model.tensors.insert(name, tensor);
        };
        add("token_embd.weight".into(), VOCABULARY, embedding);
        add("position_embd.weight".into(), config.context, embedding);
        add("token_types.weight".into(), 2, embedding);
        let both = |add: &mut dyn FnMut(String, usize, usize), stem: &str, rows: usize, columns: usize| {
            add(format!("{stem}.weight"), rows, columns);
            add(format!("{stem}.bias"), 1, if rows == 1 { columns } else { rows });
        };
        both(&mut add, "token_embd_norm", 1, embedding);
        for block in 0..blocks {
            let inputs: &[(&str, usize)] =
                if fused { &[("attn_qkv", 3)] } else { &[("attn_q", 1), ("attn_k", 1), ("attn_v", 1)] };
            for (part, times) in inputs {
                both(&mut add, &format!("blk.{block}.{part}"), times * embedding, embedding);
            }
            for (part, rows, columns) in [
                ("attn_output", embedding, embedding),
                ("attn_output_norm", 1, embedding),
                ("ffn_up", feed_forward, embedding),
                ("ffn_down", embedding, feed_forward),
                ("layer_output_norm", 1, embedding),
            ] {
                both(&mut add, &format!("blk.{block}.{part}"), rows, columns);
            }
        }
        model
    }

    fn weights(&self) -> Weights<'_> {
        Weights::by_name(&self.config, &|name| {
            let (tensor_type, rows, columns, bytes) = self.tensors.get(name)?;
            Matrix::new(*tensor_type, *rows, *columns, bytes)
        })
        .unwrap()
    }

    /// Whether it is of MiniLM's size.
    fn is_large(&self) -> bool {
        self.config.embedding > 100
    }

    fn fused(&self) -> bool {
        self.tensors.contains_key("blk.0.attn_qkv.weight")
    }

    /// A tensor's values.
    fn values(&self, name: &str) -> Vec<f32> {
        let (tensor_type, rows, columns, bytes) = &self.tensors[name];
        let mut values = vec![0.0; rows * columns];
        element::dequantize(*tensor_type, bytes, &mut values).unwrap();
        values
    }

    /// Makes the first value of an F32 or F16 tensor infinite.
    fn poison(&mut self, name: &str) {
        let (tensor_type, _, _, bytes) = self.tensors.get_mut(name).unwrap();
        match tensor_type.id() {
            F32 => bytes[..4].copy_from_slice(&f32::INFINITY.to_le_bytes()),
            _ => bytes[..2].copy_from_slice(&0x7C00u16.to_le_bytes()),
        }
    }

    fn embed(&self, variant: Variant, threads: usize, texts: &[&[u32]]) -> Result<Vec<f32>, ForwardError> {
        let pool = ThreadPool::new(threads - 1).unwrap();
        let mut workspace = Workspace::new(variant).unwrap();
        workspace.forward(&self.config, &self.weights(), texts, &pool, &AtomicBool::new(false))
    }
}

/// Random bytes, but scales of blocks and 16-bit floats of moderate size.
fn random_tensor(id: u32, rows: usize, columns: usize, seed: u64) -> (TensorType, usize, usize, Vec<u8>) {
    let tensor_type = TensorType::from_id(id).unwrap();
    let (block, elements) = (tensor_type.block_bytes() as usize, tensor_type.block_elements() as usize);
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 40
    };
    let mut bytes: Vec<u8> = (0..rows * columns / elements * block).map(|_| next() as u8).collect();
    for block in bytes.chunks_exact_mut(block) {
        match id {
            F32 => block.copy_from_slice(&((next() % 2001) as f32 / 2500.0 - 0.4).to_le_bytes()),
            1 => block[1] = block[1] & 0x83 | 0x30,
            30 => block[1] = block[1] & 0x80 | 0x3E,
            _ => block[1] = 0x14,
        }
        if matches!(id, 3 | 7) {
            block[3] = 0x94;
        }
    }
    (tensor_type, rows, columns, bytes)
}

fn texts(lengths: &[usize]) -> Vec<Vec<u32>> {
    let ids = |length: &usize| (0..*length).map(|i| ((i * i * 7 + i * 3 + length) % VOCABULARY) as u32).collect();
    lengths.iter().map(ids).collect()
}

fn slices(texts: &[Vec<u32>]) -> Vec<&[u32]> {
    texts.iter().map(Vec::as_slice).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Small models of odd shapes, and one block of MiniLM's.
fn models() -> Vec<Model> {
    vec![
        Model::random([2, 10, 13, 2], &[F32], false),
        Model::random([3, 33, 70, 3], &[1, 30, F32], true),
        Model::random([1, 64, 544, 4], &[8, 2, 3, 6, 7], false),
        Model::random([1, 384, 1536, 12], &[1, 8], false),
    ]
}

#[test]
fn embeddings_are_those_of_the_plain_reference() {
    for model in models() {
        let texts = texts(if model.is_large() { &[17] } else { &[1, 37, 17, 90] });
        for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Last] {
            let config = BertConfig { pooling, normalize: pooling != Pooling::Last, ..model.config };
            let pool = ThreadPool::new(1).unwrap();
            let mut workspace = Workspace::new(Variant::fastest()).unwrap();
            let weights = model.weights();
            let ours = workspace.forward(&config, &weights, &slices(&texts), &pool, &AtomicBool::new(false)).unwrap();
            for (text, ours) in texts.iter().zip(ours.chunks_exact(config.embedding)) {
                let expected = reference::embed(&config, &|name| model.values(name), model.fused(), text);
                for (a, b) in ours.iter().zip(expected) {
                    assert!((f64::from(*a) - b).abs() < 3e-5 * (1.0 + b.abs()), "{a} is not {b}: {config:?}");
                }
            }
        }
    }
}

#[test]
fn absent_biases_and_token_types_are_zero_to_the_bit() {
    for fused in [false, true] {
        let mut model = Model::random([2, 24, 48, 2], &[F32, 1], fused);
        let optional =
            |name: &String| name == "token_types.weight" || (name.ends_with(".bias") && !name.contains("norm"));
        let names: Vec<String> = model.tensors.keys().filter(|name| optional(name)).cloned().collect();
        assert_eq!(names.len(), 1 + 2 * if fused { 4 } else { 6 });
        let texts = texts(&[5, 1, 33]);
        let given = model.embed(Variant::fastest(), 2, &slices(&texts)).unwrap();
        for name in &names {
            let bytes = &mut model.tensors.get_mut(name).unwrap().3;
            bytes.fill(0);
        }
        let zero = model.embed(Variant::fastest(), 2, &slices(&texts)).unwrap();
        assert_ne!(bits(&zero), bits(&given));
        model.tensors.retain(|name, _| !names.contains(name));
        let absent = model.embed(Variant::fastest(), 2, &slices(&texts)).unwrap();
        assert_eq!(bits(&absent), bits(&zero));
    }
}

#[test]
fn variants_threads_and_batches_agree_to_the_bit() {
    for model in models() {
        let texts = texts(if model.is_large() { &[5, 9, 4] } else { &[5, 1, 33, 16, 2, 40] });
        let together = bits(&model.embed(Variant::Portable, 1, &slices(&texts)).unwrap());
        for variant in Variant::ALL.into_iter().filter(|variant| variant.kernels().is_some()) {
            let most = if variant == Variant::Portable && model.is_large() { 1 } else { 3 };
            for threads in 1..=most {
                let ours = model.embed(variant, threads, &slices(&texts)).unwrap();
                assert_eq!(bits(&ours), together, "{variant:?} with {threads} threads");
            }
            if variant == Variant::Portable && model.is_large() {
                continue; // unoptimised, its multiply-add takes seconds
            }
            let mut alone = Vec::new();
            for text in &texts {
                alone.extend(model.embed(variant, 1, &[text]).unwrap());
            }
            assert_eq!(bits(&alone), together, "{variant:?}, text by text");
        }
    }
}

/// The bits themselves, so that architectures whose variants cannot be compared in one process agree, too.
#[test]
fn bits_are_the_same_on_every_architecture() {
    for (model, expected) in models().iter().zip([0x1683_9c14, 0xb0c0_bb0e, 0xd26e_0ca1]) {
        let ours = model.embed(Variant::fastest(), 2, &slices(&texts(&[5, 1, 33, 16, 2, 40]))).unwrap();
        let bytes: Vec<u8> = ours.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(crc32c::crc32c(&bytes), expected, "{:?}", model.config);
    }
}

#[test]
fn a_workspace_keeps_nothing_of_earlier_passes() {
    let (texts, mut model) = (texts(&[20, 3]), Model::random([2, 24, 48, 2], &[F32], false));
    let clean = bits(&model.embed(Variant::fastest(), 2, &slices(&texts)).unwrap());
    let saved = model.tensors["blk.1.ffn_up.weight"].clone();
    let pool = ThreadPool::new(1).unwrap();
    let mut workspace = Workspace::new(Variant::fastest()).unwrap();
    let none = AtomicBool::new(false);
    model.poison("blk.1.ffn_up.weight");
    let long = vec![7; 90];
    let failed = workspace.forward(&model.config, &model.weights(), &[&long, &long], &pool, &none);
    assert_eq!(failed, Err(ForwardError::NotFinite(Layer::Block(1))));
    model.tensors.insert("blk.1.ffn_up.weight".into(), saved);
    let again = workspace.forward(&model.config, &model.weights(), &slices(&texts), &pool, &none).unwrap();
    assert_eq!(bits(&again), clean);
}

#[test]
fn the_first_layer_that_is_not_finite_is_named() {
    for (name, layer) in [
        ("token_embd_norm.bias", Layer::Embeddings),
        ("position_embd.weight", Layer::Embeddings),
        ("blk.0.attn_v.weight", Layer::Block(0)),
        ("blk.1.layer_output_norm.weight", Layer::Block(1)),
    ] {
        let mut model = Model::random([2, 24, 48, 2], &[F32, 1], false);
        model.poison(name);
        let failed = model.embed(Variant::fastest(), 2, &[&[1, 2, 3]]);
        assert_eq!(failed, Err(ForwardError::NotFinite(layer)), "{name}");
        assert!(failed.unwrap_err().to_string().contains(&layer.to_string()));
    }
}

#[test]
fn bad_requests_are_refused() {
    let model = Model::random([1, 24, 48, 2], &[F32], false);
    let embed = |texts: &[&[u32]]| model.embed(Variant::fastest(), 1, texts);
    assert_eq!(embed(&[&[1], &[]]), Err(ForwardError::TextLength(1)));
    assert_eq!(embed(&[&[1; 91]]), Err(ForwardError::TextLength(0)));
    assert_eq!(embed(&[&[1, 50]]), Err(ForwardError::Token(50)));
    assert_eq!(embed(&[]), Ok(vec![]));
    let (mut workspace, pool) = (Workspace::new(Variant::fastest()).unwrap(), ThreadPool::new(0).unwrap());
    for config in [
        BertConfig { heads: 0, ..model.config },
        BertConfig { heads: 5, ..model.config },
        BertConfig { embedding: 12, ..model.config },
        BertConfig { context: 91, ..model.config },
        BertConfig { feed_forward: 47, ..model.config },
    ] {
        let refused = workspace.forward(&config, &model.weights(), &[&[1]], &pool, &AtomicBool::new(false));
        assert_eq!(refused, Err(ForwardError::WeightShapes), "{config:?}");
    }
    let cancelled = workspace.forward(&model.config, &model.weights(), &[&[1]], &pool, &AtomicBool::new(true));
    assert_eq!(cancelled, Err(ForwardError::Cancelled));
    let q8_0 = TensorType::from_id(8).unwrap();
    assert!(Matrix::new(q8_0, 2, 33, &[0; 999]).is_none(), "33 columns are no whole blocks");
    assert!(Matrix::new(q8_0, 2, 32, &[0; 67]).is_none(), "a byte is missing");
    assert!(Matrix::new(q8_0, usize::MAX, 64, &[0; 67]).is_none(), "overflow");
    assert!(Matrix::new(TensorType::BYTE, 1, 1, &[0; 9]).is_none(), "no type of weights");
    let missing = Weights::by_name(&model.config, &|name| {
        let (tensor_type, rows, columns, bytes) = model.tensors.get(name)?;
        Matrix::new(*tensor_type, *rows, *columns, bytes).filter(|_| name != "token_embd_norm.bias")
    });
    assert_eq!(missing.unwrap_err(), "token_embd_norm.bias");
}

#[test]
fn a_pool_does_each_item_once_and_survives_panics() {
    let pool = ThreadPool::new(2).unwrap();
    let (go, stop) = (AtomicBool::new(false), AtomicBool::new(true));
    for items in [0, 1, 2, 1000] {
        let done: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
        pool.run(items, &go, &|thread, item| {
            assert!(thread < 3);
            done[item].fetch_add(1, Ordering::Relaxed);
        });
        assert!(done.iter().all(|count| count.load(Ordering::Relaxed) == 1));
    }
    pool.run(100, &stop, &|_, _| panic!("a cancelled job has no items"));
    for _ in 0..20 {
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.run(50, &go, &|_, item| assert_ne!(item, 30));
        }));
        assert!(panicked.is_err());
    }
    // Helpers that have gone to sleep come back.
    std::thread::sleep(std::time::Duration::from_millis(20));
    let sum = AtomicUsize::new(0);
    pool.run(10, &go, &|_, item| {
        sum.fetch_add(item, Ordering::Relaxed);
    });
    assert_eq!(sum.into_inner(), 45);
}
