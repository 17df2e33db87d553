#![no_main]
//! Any payload, signed by the right key, is opened or refused without a panic; what is opened asks for a signed method.
//! Without that signature nothing of it is read. Parameters of any kind are survived too. The input: the payload, or the
//! parameters of `signed` as JSON.

use ed25519_dalek::{Signer, SigningKey};
use libfuzzer_sys::fuzz_target;
use serde_json::{json, Value};
use vector_boot::protocol::{MutationKey, OpenError, Params, SignedEnvelope, PAYLOAD_TYPE};

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// SHA-256 of the public key that belongs to the private key of sevens.
const KEY_ID: &str = "fe812c12f3ab4ce6ac5db69ac352f906cb1b11ef43fb33e252ef7ff552263889";

fuzz_target!(|data: &[u8]| {
    if let Ok(Value::Object(members)) = serde_json::from_slice(data) {
        let _ = SignedEnvelope::parse(Params::new(members));
    }
    let private = SigningKey::from_bytes(&[7; 32]);
    let key = MutationKey::from_bytes(private.verifying_key().as_bytes()).unwrap();
    let text = [format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), data.len()).as_bytes(), data].concat();
    let signature = private.sign(&text).to_bytes();
    match envelope(data, &signature).open(&key) {
        Ok(call) => assert!(call.method.needs_signature()),
        Err(OpenError::Payload(_)) => (),
        Err(OpenError::Signature(why)) => panic!("{why}"),
    }
    let mut wrong = signature;
    wrong[data.len() % 64] ^= 1;
    assert!(matches!(envelope(data, &wrong).open(&key), Err(OpenError::Signature(_))));
});

fn envelope(payload: &[u8], signature: &[u8; 64]) -> SignedEnvelope {
    let params = json!({"payload": base64(payload), "keyid": KEY_ID, "sig": base64(signature)});
    let Value::Object(members) = params else { unreachable!() };
    SignedEnvelope::parse(Params::new(members)).unwrap()
}

fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for at in 0..4 {
            let digit = char::from(ALPHABET[(bits >> (18 - 6 * at) & 63) as usize]);
            text.push(if at > group.len() { '=' } else { digit });
        }
    }
    text
}
