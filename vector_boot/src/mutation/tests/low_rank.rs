use super::*;
use crate::mutation::low_rank::{apply, portable, Factor};

/// One element after another.
fn plain(tensor_type: TensorType, data: &[u8], (rank, scale): (usize, f32), a: &[f32], b: &[f32]) -> Option<Vec<u8>> {
    let mut result = data.to_vec();
    let columns = b.len() / rank;
    let mut values = decoded(tensor_type, data);
    for (place, x) in values.iter_mut().enumerate() {
        let (j, i) = (place / columns, place % columns);
        let mut sum = 0.0;
        for k in 0..rank {
            sum += a[j * rank + k] * b[i * rank + k];
        }
        *x += scale * sum;
    }
    Storage::of(tensor_type).unwrap().quantize(&values, &mut result).ok()?;
    Some(result)
}

/// Type, columns, rows, rank and the tensor.
fn matrix() -> impl Strategy<Value = (&'static str, usize, usize, usize, Vec<u8>)> {
    let columns = prop_oneof![1usize..80, 250usize..300, Just(512)];
    (prop::sample::select(&FLOATS[..]), columns, 0usize..5, prop_oneof![Just(1), 2usize..9, Just(64)]).prop_flat_map(
        |(name, columns, rows, rank)| {
            let tensor_type = tensor_type(name);
            let columns = columns.next_multiple_of(tensor_type.block_elements() as usize);
            let count = columns / tensor_type.block_elements() as usize * rows;
            (Just(name), Just(columns), Just(rows), Just(rank), blocks(tensor_type, count..count + 1))
        },
    )
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn is_as_plain_code_does(
        (name, columns, rows, rank, data) in matrix(),
        numbers in prop::collection::vec(prop_oneof![20 => -1f32..1.0, 1 => Just(-0.0)], 64),
        scale in prop_oneof![6 => -0.1f32..0.1, 1 => any::<f32>()],
        cut in any::<prop::sample::Index>(),
    ) {
        let tensor_type = tensor_type(name);
        let row_bytes = columns / tensor_type.block_elements() as usize * block_bytes(tensor_type);
        let data = &data[..rows * row_bytes];
        // Any numbers do, as long as no two rows are alike.
        let number = |i: usize| numbers[i % 61] + numbers[i % 64] * numbers[i % 59];
        let a: Vec<f32> = (0..rows * rank).map(number).collect();
        let b: Vec<f32> = (0..columns * rank).map(|i| number(i + 7)).collect();
        let factor = Factor::new(&b, columns, rank).unwrap();
        let outcome = in_parts(row_bytes, data, cut, |first, part| {
            let a = &a[first * rank..first * rank + part.len() / row_bytes * rank];
            apply(&factor, tensor_type, scale, a, part)
        })?;
        let mut narrow = data.to_vec();
        let storage = Storage::of(tensor_type).unwrap();
        prop_assert_eq!(portable(&factor, storage, scale, &a, &mut narrow).is_ok(), outcome.is_ok());
        match plain(tensor_type, data, (rank, scale), &a, &b) {
            Some(expected) => {
                prop_assert!(outcome == Ok(expected), "{} {} x {}", name, columns, rows);
                prop_assert!(outcome == Ok(narrow), "{} {} x {}", name, columns, rows);
            }
            None => prop_assert_eq!(outcome, Err(BlockError::NotFinite)),
        }
    }
}

#[test]
fn refuses_what_does_not_fit() {
    for (count, columns, rank) in [(0, 0, 1), (0, 1, 0), (6, 2, 2), (4, usize::MAX, 2)] {
        assert_eq!(
            Factor::new(&vec![1.0; count], columns, rank).err(),
            Some(BlockError::Mismatch),
            "{columns} x {rank}"
        );
    }
    let factor = Factor::new(&[1.0; 8], 4, 2).unwrap();
    let f16 = tensor_type("F16");
    assert_eq!(apply(&factor, f16, 1.0, &[1.0; 4], &mut [0; 16]), Ok(()));
    assert_eq!(apply(&factor, f16, 1.0, &[1.0; 4], &mut [0; 15]), Err(BlockError::Mismatch));
    assert_eq!(apply(&factor, f16, 1.0, &[1.0; 3], &mut [0; 16]), Err(BlockError::Mismatch));
    assert_eq!(apply(&factor, f16, 1.0, &[1.0; 2], &mut [0; 16]), Err(BlockError::Mismatch));
    assert_eq!(apply(&factor, tensor_type("Q8_0"), 1.0, &[], &mut []), Err(BlockError::Mismatch));
    assert_eq!(apply(&factor, tensor_type("I8"), 1.0, &[], &mut []), Err(BlockError::Unsupported));
    assert_eq!(apply(&factor, f16, 1e30, &[1.0; 4], &mut [0; 16]), Err(BlockError::NotFinite));
}
