use ed25519_dalek::{Signer, SigningKey};
use proptest::prelude::*;
use serde_json::{json, Value};

use super::*;
use crate::protocol::Blob;

const SEED: [u8; 32] = [7; 32];

fn key() -> MutationKey {
    MutationKey::from_bytes(SigningKey::from_bytes(&SEED).verifying_key().as_bytes()).unwrap()
}

/// An envelope that is signed as it should be.
fn sealed(payload: &[u8]) -> SignedEnvelope {
    let signature = SigningKey::from_bytes(&SEED).sign(&pre_authentication_encoding(payload)).to_bytes();
    SignedEnvelope { payload: payload.to_vec(), key_id: key().id, signature }
}

fn params(value: &Value) -> Params {
    Params::new(value.as_object().unwrap().clone())
}

#[test]
fn the_shared_vectors_have_the_outcome_that_is_written_in_them() {
    let file: Value = serde_json::from_str(include_str!("../../../../tests/vectors/signed/envelopes.json")).unwrap();
    let key = MutationKey::parse(file["public_key"].as_str().unwrap()).unwrap();
    let cases = file["cases"].as_array().unwrap();
    assert!(cases.len() > 50);
    for case in cases {
        let name = &case["name"];
        let opened = match SignedEnvelope::parse(params(&case["params"])) {
            Err(_) => "parameters",
            Ok(envelope) => match envelope.open(&key) {
                Err(OpenError::Signature(_)) => "signature",
                Err(OpenError::Payload(_)) => "payload",
                Ok(call) => {
                    let wanted = &case["call"];
                    assert_eq!(crate::rts::hex(&call.appliance), wanted["appliance"].as_str().unwrap(), "{name}");
                    assert_eq!(call.method.name(), wanted["method"].as_str().unwrap(), "{name}");
                    assert_eq!(call.params, params(&wanted["params"]), "{name}");
                    let digest = call.blob_sha256.map(|digest| crate::rts::hex(&digest));
                    assert_eq!(digest.as_deref(), wanted["blob_sha256"].as_str(), "{name}");
                    "opened"
                }
            },
        };
        assert_eq!(opened, case["outcome"].as_str().unwrap(), "{name}");
    }
}

#[test]
fn every_flipped_bit_of_an_envelope_is_refused() {
    let payload =
        json!({"appliance": "00".repeat(16), "method": "promote", "params": {"id": "01".repeat(16), "generation": 1}});
    let good = sealed(payload.to_string().as_bytes());
    assert!(good.open(&key()).is_ok());
    let flip = |bytes: &mut [u8], bit: usize| bytes[bit / 8] ^= 1 << (bit % 8);
    for bit in 0..good.payload.len() * 8 {
        let mut changed = good.clone();
        flip(&mut changed.payload, bit);
        assert!(matches!(changed.open(&key()), Err(OpenError::Signature(_))), "payload bit {bit}");
    }
    for bit in 0..512 {
        let mut changed = good.clone();
        flip(&mut changed.signature, bit);
        assert!(matches!(changed.open(&key()), Err(OpenError::Signature(_))), "signature bit {bit}");
    }
    for bit in 0..256 {
        let mut changed = good.clone();
        flip(&mut changed.key_id, bit);
        assert!(matches!(changed.open(&key()), Err(OpenError::Signature(_))), "key id bit {bit}");
    }
}

#[test]
fn a_key_that_anybody_can_sign_for_is_refused() {
    // Two points of small order, the second of them the neutral element, and no point at all.
    for first in 0..3 {
        let mut weak = [0; 32];
        weak[0] = first;
        assert_eq!(MutationKey::from_bytes(&weak), None, "{first}");
    }
    for wrong in ["", "00", &"0".repeat(63), &"A".repeat(64), &"g".repeat(64)] {
        assert_eq!(MutationKey::parse(wrong), None);
    }
}

#[test]
fn a_blob_that_was_not_read_is_told_apart_from_one_that_is_not_taken() {
    let request = |blob| crate::protocol::Request::new(1.into(), Method::Signed, Params::default(), blob);
    assert!(request(Blob::Bytes(vec![1].into())).sound_blob().is_ok());
    assert_eq!(request(Blob::TooLarge).sound_blob().unwrap_err().code, 1012);
    assert_eq!(request(Blob::ChecksumWrong).sound_blob().unwrap_err().code, 1011);
    assert_eq!(request(Blob::Bytes(vec![1].into())).no_blob().unwrap_err().code, -32602);
}

/// JSON of few keys, so that some repeat.
fn text() -> impl Strategy<Value = String> {
    let key = prop_oneof![Just("a"), Just("b"), Just("\\u0061"), Just("a\\\""), Just("{"), Just("\\\\")];
    let leaf = prop_oneof![Just("1".to_string()), Just("\"a\"".into()), Just("\"}:{\\\"\"".into()), Just("[]".into())];
    leaf.prop_recursive(4, 20, 4, move |inner| {
        let members = prop::collection::vec((key.clone(), inner.clone()), 0..4);
        prop_oneof![
            members.prop_map(|members| {
                let members: Vec<String> = members.iter().map(|(key, value)| format!("\"{key}\" : {value}")).collect();
                format!("{{{}}}", members.join(","))
            }),
            prop::collection::vec(inner, 0..3).prop_map(|items| format!("[{}]", items.join(", "))),
        ]
    })
}

/// Counts the members of all objects, as a text and as parsed: they differ where a key repeats.
fn members(value: &Value) -> usize {
    match value {
        Value::Object(members_of) => members_of.len() + members_of.values().map(members).sum::<usize>(),
        Value::Array(items) => items.iter().map(members).sum(),
        _ => 0,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn repeated_keys_are_found_wherever_they_are(text in text()) {
        let value: Value = serde_json::from_str(&text).unwrap();
        // Every generated member is written with " : " behind its key, and no string has that.
        let written = text.matches("\" : ").count();
        let repeated = repeated_key(&text).is_some();
        prop_assert!(repeated || written == members(&value), "{}", text);
        prop_assert!(!repeated || written > members(&value) || text.contains('{'), "{}", text);
        if written == members(&value) {
            prop_assert!(!repeated, "{}", text);
        }
    }

    #[test]
    fn any_payload_is_survived(payload in prop::collection::vec(any::<u8>(), 0..300), text in text()) {
        let _ = sealed(&payload).open(&key());
        let _ = sealed(text.as_bytes()).open(&key());
        let envelope = SignedEnvelope { payload, key_id: key().id, signature: [1; 64] };
        prop_assert!(matches!(envelope.open(&key()), Err(OpenError::Signature(_))));
    }
}
