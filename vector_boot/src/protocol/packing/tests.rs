use proptest::prelude::*;
use serde_json::json;

use super::*;

fn packed<T: Packed>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.pack(&mut bytes);
    bytes
}

fn unpacked<T: Packed>(mut bytes: &[u8]) -> Option<T> {
    T::unpack(&mut bytes).filter(|_| bytes.is_empty())
}

fn request() -> Request {
    let params = json!({"a": [0.1, -0.0, 5e-324, u64::MAX, i64::MIN, "\u{0}é", null, true], "b": {"c": [{}]}});
    let Value::Object(params) = params else { unreachable!() };
    Request::new("x".into(), Method::Mutate, Params::new(params), Blob::Bytes(vec![1, 2, 0xFF].into()))
}

#[test]
fn requests_come_back_exactly() {
    let bytes = packed(&request());
    let again: Request = unpacked(&bytes).unwrap();
    assert_eq!(again, request());
    assert_eq!(again.params.canonical(), request().params.canonical()); // -0.0 equals 0.0, but is written otherwise
    for blob in [Blob::None, Blob::Upload("ab".into()), Blob::ChecksumWrong, Blob::Stalled, Blob::TooLarge] {
        assert_eq!(unpacked(&packed(&blob)), Some(blob));
    }
}

#[test]
fn a_part_of_the_bytes_is_no_request() {
    let bytes = packed(&request());
    (0..bytes.len()).for_each(|len| assert_eq!(unpacked::<Request>(&bytes[..len]), None));
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| [[tag::LIST, 1, 0, 0, 0, 0, 0, 0, 0].repeat(depth), vec![tag::NULL]].concat();
    assert!(unpacked::<Value>(&nested(DEPTH_LIMIT)).is_some());
    assert_eq!(unpacked::<Value>(&nested(DEPTH_LIMIT + 1)), None);
    assert_eq!(unpacked::<Value>(&nested(100_000)), None);
}

proptest! {
    #[test]
    fn any_bytes_are_harmless(bytes: Vec<u8>, bits: u64) {
        let _ = (unpacked::<Value>(&bytes), unpacked::<Request>(&bytes), unpacked::<Blob>(&bytes));
        let float = f64::from_bits(bits);
        if float.is_finite() {
            let Some(Value::Number(again)) = unpacked(&packed(&Value::from(float))) else { unreachable!() };
            prop_assert_eq!(again.as_f64().map(f64::to_bits), Some(bits));
        }
    }
}
