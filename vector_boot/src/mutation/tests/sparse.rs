use super::*;
use crate::mutation::sparse::{apply, SparseOp};

/// One block after another, one element after another.
fn plain(op: SparseOp, tensor_type: TensorType, data: &[u8], indices: &[u64], values: &[f32]) -> Option<Vec<u8>> {
    let mut result = data.to_vec();
    let elements = tensor_type.block_elements();
    for (number, block) in result.chunks_exact_mut(block_bytes(tensor_type)).enumerate() {
        let mut decoded = decoded(tensor_type, block);
        let mut touched = false;
        for (index, value) in indices.iter().zip(values).filter(|(index, _)| **index / elements == number as u64) {
            let x = &mut decoded[(index % elements) as usize];
            *x = if op == SparseOp::Set { *value } else { *x + value };
            touched = true;
        }
        if touched {
            Storage::of(tensor_type).unwrap().quantize(&decoded, block).ok()?;
        }
    }
    Some(result)
}

fn value() -> impl Strategy<Value = f32> {
    prop_oneof![19 => -2f32..2.0, 1 => any::<f32>()]
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn is_as_plain_code_does(
        (name, data) in prop::sample::select(&FLOATS[..]).prop_flat_map(|name| {
            (Just(name), blocks(tensor_type(name), 1..if name == "Q8_0" { 12 } else { 100 }))
        }),
        places in prop::collection::vec((any::<prop::sample::Index>(), value()), 0..30),
        op in prop::sample::select(&[SparseOp::Set, SparseOp::Add][..]),
        cut in any::<prop::sample::Index>(),
    ) {
        let tensor_type = tensor_type(name);
        let (unit, elements) = (block_bytes(tensor_type), tensor_type.block_elements());
        let count = data.len() / unit * elements as usize;
        let mut places: Vec<(u64, f32)> = places.iter().map(|(i, value)| (i.index(count) as u64, *value)).collect();
        places.sort_by_key(|place| place.0);
        places.dedup_by_key(|place| place.0);
        let (indices, values): (Vec<u64>, Vec<f32>) = places.into_iter().unzip();
        let outcome = in_parts(unit, &data, cut, |first, blocks| {
            let start = first as u64 * elements;
            let end = start + (blocks.len() / unit) as u64 * elements;
            let part = indices.partition_point(|i| *i < start)..indices.partition_point(|i| *i < end);
            apply(op, tensor_type, first as u64, blocks, &indices[part.clone()], &values[part])
        })?;
        match plain(op, tensor_type, &data, &indices, &values) {
            Some(expected) => prop_assert!(outcome == Ok(expected), "{}", name),
            None => prop_assert_eq!(outcome, Err(BlockError::NotFinite)),
        }
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let f16 = tensor_type("F16");
    let set = |first, indices: &[u64], values: &[f32]| apply(SparseOp::Set, f16, first, &mut [0; 8], indices, values);
    assert_eq!(set(10, &[10, 13], &[1.0, 2.0]), Ok(()));
    assert_eq!(set(10, &[9], &[1.0]), Err(BlockError::OutOfBounds));
    assert_eq!(set(10, &[14], &[1.0]), Err(BlockError::OutOfBounds));
    assert_eq!(set(0, &[u64::MAX], &[1.0]), Err(BlockError::OutOfBounds));
    assert_eq!(set(0, &[1, 1], &[1.0, 2.0]), Err(BlockError::OutOfBounds));
    assert_eq!(set(0, &[1], &[]), Err(BlockError::Mismatch));
    assert_eq!(set(0, &[1], &[65520.0]), Err(BlockError::NotFinite));
    assert_eq!(apply(SparseOp::Add, f16, 0, &mut [0; 3], &[], &[]), Err(BlockError::Mismatch));
    assert_eq!(apply(SparseOp::Add, tensor_type("Q4_0"), 0, &mut [0; 18], &[], &[]), Err(BlockError::Unsupported));
}
