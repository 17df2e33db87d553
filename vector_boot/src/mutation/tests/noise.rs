use super::*;
use crate::mutation::noise::{fill, key};

fn words(key: [u64; 2], first: u64, count: usize) -> Vec<u64> {
    let mut words = vec![0; count];
    fill(key, first, &mut words);
    words
}

#[test]
fn is_that_of_numpy() {
    let cases: serde_json::Value = serde_json::from_str(include_str!("../../../tests/vectors/noise.json")).unwrap();
    for case in cases.as_array().unwrap() {
        let number = |text: &serde_json::Value| u64::from_str_radix(text.as_str().unwrap(), 16).unwrap();
        // The seed is written as bytes are: the first digits are the first byte.
        let key = key(number(&case["seed"]).to_be_bytes(), case["tensor"].as_str().unwrap());
        let expected: Vec<u64> = case["words"].as_array().unwrap().iter().map(number).collect();
        assert_eq!(words(key, case["first"].as_u64().unwrap(), expected.len()), expected);
    }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn any_word_can_be_had_alone(key in any::<[u64; 2]>(), first in any::<u64>(), count in 0usize..40) {
        let first = first / 2;
        let all = words(key, first, count);
        for (i, word) in all.iter().enumerate() {
            prop_assert_eq!(words(key, first + i as u64, 1), [*word]);
        }
    }
}
