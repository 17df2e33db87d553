//! Every edit against plain code, and in one go against chunk by chunk.

mod dense;
mod finite;
mod glob;
mod low_rank;
mod noise;
mod seeded;
mod sparse;

use proptest::prelude::*;

use super::*;
use crate::element;
use crate::mutation::seeded::Form;

const FLOATS: [&str; 4] = ["F32", "F16", "BF16", "Q8_0"];
const QUANTIZED: [&str; 5] = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"];

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, cases, ..ProptestConfig::default() }
}

fn all_types() -> impl Iterator<Item = TensorType> {
    (0..64).filter_map(TensorType::from_id)
}

fn tensor_type(name: &str) -> TensorType {
    all_types().find(|one| one.name() == name).unwrap()
}

fn block_bytes(tensor_type: TensorType) -> usize {
    tensor_type.block_bytes() as usize
}

fn decoded(tensor_type: TensorType, blocks: &[u8]) -> Vec<f32> {
    let count = blocks.len() / block_bytes(tensor_type) * tensor_type.block_elements() as usize;
    let mut values = vec![0.0; count];
    element::dequantize(tensor_type, blocks, &mut values).unwrap();
    values
}

/// Whole blocks of any bytes, their scales and elements mostly small.
fn blocks(tensor_type: TensorType, count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    let bytes = block_bytes(tensor_type);
    prop::collection::vec(any::<u8>(), count.start * bytes..count.end * bytes).prop_map(move |mut data| {
        data.truncate(data.len() / bytes * bytes);
        // Exponents below the largest, so that all is finite.
        for block in data.chunks_exact_mut(bytes) {
            match bytes {
                2 | 4 => block[bytes - 1] &= 0xBF,
                _ => block[1] &= 0xBB,
            }
        }
        data
    })
}

/// Applies something to a copy in one go, and in two parts cut at a block; both must end the same. The function gets
/// the number of the first block and the blocks.
fn in_parts(
    unit: usize,
    data: &[u8],
    cut: prop::sample::Index,
    apply: impl Fn(usize, &mut [u8]) -> Result<(), BlockError>,
) -> Result<Result<Vec<u8>, BlockError>, TestCaseError> {
    let mut whole = data.to_vec();
    let outcome = apply(0, &mut whole);
    let cut = cut.index(data.len() / unit + 1);
    let mut parts = data.to_vec();
    let (left, right) = parts.split_at_mut(cut * unit);
    let outcome_of_parts = apply(0, left).and(apply(cut, right));
    prop_assert_eq!(outcome, outcome_of_parts);
    if outcome.is_ok() {
        prop_assert!(whole == parts, "cut at {}", cut);
    }
    Ok(outcome.map(|()| whole))
}

#[test]
fn the_table_of_supported_types() {
    for one in all_types() {
        let (float, quantized) = (FLOATS.contains(&one.name()), QUANTIZED.contains(&one.name()));
        assert!(supports(EditKind::Dense, one));
        assert_eq!(supports(EditKind::Sparse, one), float, "{one:?}");
        assert_eq!(supports(EditKind::LowRank, one), float, "{one:?}");
        assert_eq!(supports(EditKind::Seeded(Form::Normal), one), float, "{one:?}");
        assert_eq!(supports(EditKind::Seeded(Form::Step), one), quantized, "{one:?}");
        assert_eq!(supports(EditKind::Seeded(Form::Scale), one), quantized, "{one:?}");
        assert_eq!(supports(EditKind::Program, one), one.name() == "I8", "{one:?}");
    }
}
