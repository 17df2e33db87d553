use std::sync::Arc;
use std::time::Instant;

use ed25519_dalek::{Signer, SigningKey};
use serde_json::{json, Map, Value};
use sha2::{Digest, Sha256};

use crate::journal::log::Log;
use crate::journal::JournalError;
use crate::machine::{Arrival, Machine, Parts, Runtime};
use crate::protocol::{code, Blob, Method, MutationKey, Params, Reply, Request, RequestError, Seal, PAYLOAD_TYPE};
use crate::rts::hex;
use crate::sys::memory::{memory_file, SharedWords};
use crate::tensor::tests::{file, load};
use crate::vitals::{Vitals, SHARED_WORDS};

const ENCODE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let digits = |group: &[u8]| {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        let digit = |at: usize| match at > group.len() {
            true => '=',
            false => char::from(ENCODE[(bits >> (18 - 6 * at) & 63) as usize]),
        };
        [0, 1, 2, 3].map(digit).iter().collect::<String>()
    };
    bytes.chunks(3).map(digits).collect()
}

fn signing_key() -> SigningKey {
    SigningKey::from_bytes(&[3; 32])
}

/// A machine whose words are `shared` with others, that takes signed changes only if `signed`.
fn machine(shared: &Arc<SharedWords>, signed: bool) -> Machine {
    let key = MutationKey::from_bytes(signing_key().verifying_key().as_bytes()).unwrap();
    Machine::new(Parts {
        model: Ok(load(file("w", 64, false)).unwrap()),
        runtime: Runtime::new(Err("a test".into())).unwrap(),
        journal: Log::in_memory(memory_file(c"test").unwrap()),
        shared: Arc::clone(shared),
        build: "0".repeat(12),
        energy_limited: false,
        mutation_key: signed.then_some(key),
    })
}

fn words() -> Arc<SharedWords> {
    Arc::new(SharedWords::create(c"test", SHARED_WORDS).unwrap().0)
}

fn params(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn request(method: Method, members: Value, blob: &[u8]) -> Request {
    let blob = if blob.is_empty() { Blob::None } else { Blob::Bytes(blob.to_vec().into()) };
    Request::new(1.into(), method, Params::new(params(members)), blob)
}

fn sealed(payload: &Value, blob: &[u8]) -> Request {
    let payload = payload.to_string().into_bytes();
    let text =
        [format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len()).as_bytes(), &payload].concat();
    let keyid = hex(&Sha256::digest(signing_key().verifying_key().as_bytes()));
    let sig = base64(&signing_key().sign(&text).to_bytes());
    request(Method::Signed, json!({"payload": base64(&payload), "keyid": keyid, "sig": sig}), blob)
}

fn answer(machine: &Machine, request: Request) -> Result<Reply, RequestError> {
    machine.answer(&machine.unsealed(request), Arrival { at: Instant::now(), connection: 0 })
}

fn refusal(machine: &Machine, request: Request) -> i64 {
    answer(machine, request).map_or_else(|error| error.code, |reply| panic!("not refused: {}", reply.result))
}

fn appliance(machine: &Machine) -> String {
    let hello = request(Method::Hello, json!({"protocol": 1, "client": "test"}), &[]);
    let result = answer(machine, hello).unwrap().result;
    assert_eq!(result["signed"], true);
    result["appliance"].as_str().unwrap().to_string()
}

/// The parameters of a change of the tensor's only element, whose new value is the blob.
fn mutation(number: u8, base: u64) -> Value {
    json!({"id": hex(&[number; 16]), "base_generation": base, "confidence": 0.9,
           "edits": [{"kind": "dense", "tensor": "w", "offset": 0, "blob": [0, 4]}]})
}

fn payload(machine: &Machine, method: &str, params: Value) -> Value {
    json!({"appliance": appliance(machine), "method": method, "params": params})
}

/// A signed `mutate` with its blob.
fn change(machine: &Machine, number: u8, base: u64, blob: &[u8]) -> Request {
    let mut payload = payload(machine, "mutate", mutation(number, base));
    payload["blob_sha256"] = hex(&Sha256::digest(blob)).into();
    sealed(&payload, blob)
}

#[test]
fn a_signature_is_verified_once_however_often_the_request_is_looked_at() {
    let machine = machine(&words(), true);
    let right = change(&machine, 1, 0, &2f32.to_le_bytes());
    assert_eq!(machine.signed_call(&right).map(|call| call.method), Some(Method::Mutate));
    assert!(std::ptr::eq(machine.signed_call(&right).unwrap(), machine.signed_call(&right).unwrap()));
    let wrong = request(Method::Signed, json!({}), &[]);
    assert!(machine.signed_call(&wrong).is_none() && wrong.opened.get() == Some(&None));
    assert_eq!(refusal(&machine, wrong), code::INVALID_PARAMS);
    assert!(answer(&machine, right).is_ok());
}

#[test]
fn a_machine_with_a_key_takes_changes_only_inside_signed() {
    let machine = machine(&words(), true);
    let blob = 2f32.to_le_bytes();
    let id = hex(&[9; 16]);
    for (method, members, blob) in [
        (Method::Mutate, mutation(1, 0), &blob[..]),
        (Method::Rollback, json!({"id": id, "to": 0}), &[]),
        (Method::Promote, json!({"id": id, "generation": 0}), &[]),
        (Method::Renew, json!({"generation": 0, "lease_ms": 1}), &[]),
    ] {
        assert_eq!(refusal(&machine, request(method, members, blob)), code::BAD_SIGNATURE, "{}", method.name());
    }
    let made = answer(&machine, change(&machine, 1, 0, &blob)).unwrap();
    assert_eq!((&made.result["generation"], &made.result["replayed"]), (&1.into(), &false.into()));
    let again = answer(&machine, change(&machine, 1, 0, &blob)).unwrap();
    assert_eq!((&again.result["generation"], &again.result["replayed"]), (&1.into(), &true.into()));
    let back = payload(&machine, "rollback", json!({"id": id, "to": 0, "base_generation": 1}));
    assert_eq!(answer(&machine, sealed(&back, &[])).unwrap().result["restored"], 0);
    // What changes no weights needs no signature.
    assert!(answer(&machine, request(Method::Checkpoint, json!({}), &[])).is_ok());
    assert!(answer(&machine, request(Method::Read, json!({"tensor": "w", "bytes": 4}), &[])).is_ok());
}

#[test]
fn a_machine_without_a_key_takes_no_signed_changes() {
    let (signed, plain) = (machine(&words(), true), machine(&words(), false));
    let blob = 2f32.to_le_bytes();
    assert_eq!(refusal(&plain, change(&signed, 1, 0, &blob)), code::BAD_SIGNATURE);
    assert!(answer(&plain, request(Method::Mutate, mutation(1, 0), &blob)).is_ok());
}

#[test]
fn a_change_for_another_machine_or_another_generation_is_refused() {
    let (first, second) = (machine(&words(), true), machine(&words(), true));
    let blob = 2f32.to_le_bytes();
    assert_ne!(appliance(&first), appliance(&second));
    let made = change(&first, 1, 0, &blob);
    assert_eq!(refusal(&second, made.clone()), code::BAD_SIGNATURE);
    answer(&first, made).unwrap();
    assert_eq!(refusal(&first, change(&first, 2, 0, &blob)), code::STALE_GENERATION);
    let old = payload(&first, "rollback", json!({"id": hex(&[8; 16]), "to": 0, "base_generation": 0}));
    assert_eq!(refusal(&first, sealed(&old, &[])), code::STALE_GENERATION);
}

#[test]
fn the_blob_must_be_the_signed_one_also_as_an_upload() {
    let machine = machine(&words(), true);
    let (blob, other) = (2f32.to_le_bytes(), 3f32.to_le_bytes());
    let mut swapped = change(&machine, 1, 0, &blob);
    swapped.blob = Blob::Bytes(other.to_vec().into());
    assert_eq!(refusal(&machine, swapped), code::BAD_SIGNATURE);
    let unsigned = payload(&machine, "mutate", mutation(1, 0));
    assert_eq!(refusal(&machine, sealed(&unsigned, &blob)), code::BAD_SIGNATURE);
    let upload = |number: u8, bytes: &[u8]| {
        let members = json!({"upload": hex(&[number; 16]), "offset": 0, "total": bytes.len()});
        machine.note_connection(0);
        answer(&machine, request(Method::Upload, members, bytes)).unwrap();
    };
    upload(1, &other);
    upload(2, &blob);
    let mut named = change(&machine, 1, 0, &blob);
    named.blob = Blob::Upload(hex(&[1; 16]));
    assert_eq!(refusal(&machine, named.clone()), code::BAD_SIGNATURE);
    named.blob = Blob::Upload(hex(&[2; 16]));
    assert_eq!(answer(&machine, named.clone()).unwrap().result["generation"], 1);
    // The upload is used up: the change is known by its id and by that of the upload, if it is signed.
    assert_eq!(answer(&machine, named.clone()).unwrap().result["replayed"], true);
    let mut bare = request(Method::Mutate, mutation(1, 0), &[]);
    bare.blob = Blob::Upload(hex(&[2; 16]));
    assert_eq!(refusal(&machine, bare), code::UNUSABLE_BLOB);
    // A change that was signed with a blob is none without it.
    let mut empty = payload(&machine, "rollback", json!({"id": hex(&[7; 16]), "to": 0}));
    empty["blob_sha256"] = hex(&Sha256::digest(b"")).into();
    assert_eq!(refusal(&machine, sealed(&empty, &[])), code::BAD_SIGNATURE);
}

#[test]
fn a_signed_renewal_prolongs_a_trial_once() {
    let machine = machine(&words(), true);
    let blob = 2f32.to_le_bytes();
    let mut trial = payload(&machine, "mutate", mutation(1, 0));
    trial["params"]["lease_ms"] = 60_000.into();
    trial["blob_sha256"] = hex(&Sha256::digest(blob)).into();
    answer(&machine, sealed(&trial, &blob)).unwrap();
    let without_id = payload(&machine, "renew", json!({"generation": 1, "lease_ms": 600_000}));
    assert_eq!(refusal(&machine, sealed(&without_id, &[])), code::INVALID_PARAMS);
    for (method, members) in [
        ("renew", json!({"generation": 1, "lease_ms": 600_000, "id": hex(&[0; 16])})),
        ("rollback", json!({"to": 1, "id": hex(&[0; 16])})),
    ] {
        let kept_by_nobody = payload(&machine, method, members);
        assert_eq!(refusal(&machine, sealed(&kept_by_nobody, &[])), code::INVALID_PARAMS, "{method}");
    }
    let renew = payload(&machine, "renew", json!({"generation": 1, "lease_ms": 600_000, "id": hex(&[6; 16])}));
    answer(&machine, sealed(&renew, &[])).unwrap();
    let until = machine.vitals().lease_until_us();
    answer(&machine, sealed(&renew, &[])).unwrap();
    assert_eq!(machine.vitals().lease_until_us(), until);
    let shorter = payload(&machine, "renew", json!({"generation": 1, "lease_ms": 1000, "id": hex(&[6; 16])}));
    assert_eq!(refusal(&machine, sealed(&shorter, &[])), code::ID_REUSED);
}

#[test]
fn checks_come_in_their_order() {
    let signed = machine(&words(), true);
    let blob = 2f32.to_le_bytes();
    let good = change(&signed, 1, 0, &blob);
    let mut wrong = good.clone();
    wrong.params = Params::new(params(json!({"payload": "AAAA", "keyid": "0".repeat(64), "sig": base64(&[0; 64])})));
    wrong.blob = Blob::ChecksumWrong;
    assert_eq!(refusal(&signed, wrong.clone()), code::DAMAGED_BLOB);
    wrong.blob = Blob::TooLarge;
    assert_eq!(refusal(&signed, wrong.clone()), code::UNUSABLE_BLOB);
    wrong.blob = Blob::None;
    assert_eq!(refusal(&signed, wrong.clone()), code::BAD_SIGNATURE);
    let emergency = signed.in_emergency("a test");
    assert_eq!(refusal(&emergency, wrong), code::EMERGENCY);
    assert_eq!(refusal(&emergency, good), code::EMERGENCY);
    assert_eq!(appliance(&emergency), appliance(&signed));
    let unsigned = request(Method::Mutate, json!({"id": "x"}), &[]);
    assert_eq!(refusal(&signed, unsigned), code::INVALID_PARAMS);
}

#[test]
fn a_worker_that_cannot_read_the_model_keeps_key_and_id_of_the_one_before() {
    let words = words();
    let before = appliance(&machine(&words, true));
    let later = Machine::new(Parts {
        model: Err("a test".into()),
        runtime: Runtime::new(Err("a test".into())).unwrap(),
        journal: Err(JournalError::from(std::io::Error::other("a test"))),
        shared: Arc::clone(&words),
        build: "0".repeat(12),
        energy_limited: false,
        mutation_key: None,
    });
    assert_eq!(appliance(&later), before);
    assert_eq!(appliance(&machine(&words, true)), before);
}

#[test]
fn without_a_readable_model_nothing_passes_unsigned_unless_it_is_known_to_have_no_key() {
    let emergency = |shared: &Arc<SharedWords>| {
        Machine::new(Parts {
            model: Err("a test".into()),
            runtime: Runtime::new(Err("a test".into())).unwrap(),
            journal: Log::in_memory(memory_file(c"test").unwrap()),
            shared: Arc::clone(shared),
            build: "0".repeat(12),
            energy_limited: false,
            mutation_key: None,
        })
    };
    let unsigned = request(Method::Reload, json!({"what": "binary"}), b"program");
    let judged = |machine: &Machine| machine.require_seal(&unsigned, b"program").err().map(|error| error.code);
    let shared = words();
    assert_eq!(judged(&emergency(&shared)), Some(code::BAD_SIGNATURE), "no worker has read the model");
    shared_vitals(&shared).set_keyless();
    assert_eq!(judged(&emergency(&shared)), None);
    let shared = words();
    machine(&shared, true);
    assert_eq!(judged(&emergency(&shared)), Some(code::BAD_SIGNATURE), "an earlier worker has noted the key");
}

#[test]
fn the_supervisor_sees_a_large_blob_being_hashed() {
    let shared = words();
    let machine = machine(&shared, true);
    let blob = vec![7; 9 << 20];
    let seal = Seal { blob_sha256: Some(Sha256::digest(&blob).into()) };
    let request = Request { seal: Some(seal), ..request(Method::Reload, json!({}), &blob) };
    let before = shared_vitals(&shared).progress();
    machine.require_seal(&request, &blob).unwrap();
    assert_eq!(shared_vitals(&shared).progress().wrapping_sub(before), 3, "after each of its pieces");
}

fn shared_vitals(shared: &SharedWords) -> Vitals<'_> {
    Vitals::new(shared.words())
}
