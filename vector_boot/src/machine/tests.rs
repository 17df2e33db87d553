use std::io;

use super::*;
use crate::journal::log::Log;
use crate::protocol::{Blob, ID_LIMIT, LINE_LIMIT};
use crate::vitals::SHARED_WORDS;

/// A machine without a model.
fn in_emergency() -> Machine {
    let (shared, _) = SharedWords::create(c"test", SHARED_WORDS).unwrap();
    Machine::new(Parts {
        model: Err("a test".into()),
        runtime: Runtime::new(Err("a test".into())).unwrap(),
        journal: Err(io::Error::from(io::ErrorKind::NotFound).into()),
        shared: Arc::new(shared),
        build: "0".repeat(12),
        energy_limited: false,
        mutation_key: None,
    })
}

/// Valid parameters of each method that the machine answers itself, and its blob.
fn request(method: Method) -> Option<Request> {
    let id = "0".repeat(32);
    let params = match method {
        Method::Hello => json!({"protocol": 1, "client": "test"}),
        Method::Read => json!({"tensor": "w", "bytes": 1}),
        Method::Mutate => json!({"id": id, "base_generation": 0, "confidence": 0.9, "edits": []}),
        Method::Rollback => json!({"id": id, "to": 0}),
        Method::Promote => json!({"id": id, "generation": 0}),
        Method::Renew => json!({"generation": 0, "lease_ms": 1}),
        Method::Signed => json!({"payload": "", "keyid": "0".repeat(64), "sig": format!("{}==", "A".repeat(86))}),
        Method::Upload => json!({"upload": id, "offset": 0, "total": 1}),
        Method::Embed => json!({"texts": ["a"]}),
        Method::Generate => json!({"prompt": "a", "max_tokens": 1}),
        Method::Cancel | Method::Subscribe | Method::Shutdown | Method::Fault | Method::Reload => return None,
        Method::UpdateBegin | Method::UpdateWrite | Method::UpdateCommit => return None,
        _ => json!({}),
    };
    let blob = match method {
        Method::Upload => Blob::Bytes(vec![0].into()),
        Method::ExecutePixels => Blob::Bytes(vec![0; 3].into()),
        _ => Blob::None,
    };
    let Value::Object(params) = params else { unreachable!() };
    Some(Request::new(1.into(), method, protocol::Params::new(params), blob))
}

#[test]
fn in_emergency_mode_the_methods_that_the_table_allows_are_answered() {
    let machine = in_emergency();
    for request in Method::ALL.into_iter().filter_map(request) {
        let code =
            machine.answer(&request, Arrival { at: Instant::now(), connection: 0 }).err().map(|error| error.code);
        let expected = (!request.method.answered_in_emergency()).then_some(code::EMERGENCY);
        assert_eq!(code, expected, "{}", request.method.name());
    }
}

#[test]
fn in_emergency_mode_the_self_test_fails() {
    assert_eq!(in_emergency().self_test().err().as_deref(), Some("the machine is in emergency mode: a test"));
}

#[test]
fn in_emergency_mode_no_trial_is_waited_for() {
    let machine = in_emergency();
    machine.vitals().set_lease_until(1); // left by the worker before
    assert_eq!(machine.lease_left_us(), None);
}

/// A GGUF with this number of F32 tensors of one element, all 1. A name has 63 control characters, which take six bytes each
/// in JSON.
fn file_of_long_names(tensors: usize) -> Vec<u8> {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend((tensors as u64).to_le_bytes());
    file.extend(0u64.to_le_bytes());
    for number in 0..tensors {
        let mut name = vec![1u8; 63];
        (name[61], name[62]) = (1 + (number / 31) as u8, 1 + (number % 31) as u8);
        file.extend(63u64.to_le_bytes());
        file.extend(name);
        file.extend(1u32.to_le_bytes());
        file.extend(1u64.to_le_bytes());
        file.extend(0u32.to_le_bytes());
        file.extend((32 * number as u64).to_le_bytes());
    }
    file.resize(file.len().next_multiple_of(32), 0);
    for _ in 0..tensors {
        file.extend(1f32.to_le_bytes());
        file.resize(file.len().next_multiple_of(32), 0);
    }
    file
}

/// Changes all tensors and asks for their digests. Returns the generation afterwards and the answer.
fn with_digests(tensors: usize) -> (u64, Result<Reply, RequestError>) {
    let (shared, _) = SharedWords::create(c"test", SHARED_WORDS).unwrap();
    let journal = crate::sys::memory::memory_file(c"test").unwrap();
    let machine = Machine::new(Parts {
        model: Ok(crate::tensor::tests::load(file_of_long_names(tensors)).unwrap()),
        runtime: Runtime::new(Err("a test".into())).unwrap(),
        journal: Log::in_memory(journal),
        shared: Arc::new(shared),
        build: "0".repeat(12),
        energy_limited: false,
        mutation_key: None,
    });
    let noise = json!({"kind": "seeded", "tensors": "\u{1}*", "seed": "00c0ffee00c0ffee", "form": "normal",
                       "density": 1, "scale": 1e9});
    let params = json!({"id": "01".repeat(16), "base_generation": 0, "confidence": 0.9, "digest": true,
                        "edits": [noise, {"kind": "seeded", "tensors": "\u{1}*", "seed": "00c0ffee00c0ffef",
                                          "form": "normal", "density": 1, "scale": 1.5e9}]});
    let Value::Object(params) = params else { unreachable!() };
    let params = protocol::Params::new(params);
    let request = Request::new(1.into(), Method::Mutate, params, Blob::None);
    let answer = machine.answer(&request, Arrival { at: Instant::now(), connection: 0 });
    (machine.generation(), answer)
}

#[test]
fn a_mutation_whose_digests_do_not_fit_a_line_is_refused_and_changes_nothing() {
    let (generation, answer) = with_digests(256);
    assert_eq!((generation, answer.unwrap_err().code), (0, code::INVALID_PARAMS));
    // The largest number of tensors that is accepted fits a line with the longest id, also when it is replayed.
    let longest_id = Value::from("\u{1}".repeat(ID_LIMIT));
    let most = (1..256).rev().find(|tensors| with_digests(*tensors).1.is_ok()).unwrap();
    let (generation, answer) = with_digests(most);
    let line = answer.unwrap().to_bytes(&longest_id);
    assert_eq!(generation, 1);
    assert!(line.len() <= LINE_LIMIT && line.len() > LINE_LIMIT - 1000, "{} bytes", line.len());
    assert!(serde_json::from_slice::<Value>(&line).unwrap()["error"].is_null());
}
