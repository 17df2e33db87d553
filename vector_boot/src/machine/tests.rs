use std::io;

use super::*;
use crate::protocol::Blob;
use crate::vitals::SHARED_WORDS;

/// A machine without a model.
fn in_emergency() -> Machine {
    let (shared, _) = SharedWords::create(c"test", SHARED_WORDS).unwrap();
    Machine::new(Parts {
        model: Err("a test".into()),
        runtime: Runtime::new(Err("a test".into())).unwrap(),
        journal: Err(io::ErrorKind::NotFound.into()),
        shared: Arc::new(shared),
        build: "0".repeat(12),
        energy_limited: false,
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
        Method::Upload => json!({"upload": id, "offset": 0, "total": 1}),
        Method::Embed => json!({"texts": ["a"]}),
        Method::Generate => json!({"prompt": "a", "max_tokens": 1}),
        Method::Cancel | Method::Subscribe | Method::Shutdown | Method::Fault => return None,
        _ => json!({}),
    };
    let blob = match method {
        Method::Upload => Blob::Bytes(vec![0]),
        Method::ExecutePixels => Blob::Bytes(vec![0; 3]),
        _ => Blob::None,
    };
    let Value::Object(params) = params else { unreachable!() };
    Some(Request { id: 1.into(), method, params: protocol::Params::new(params), blob })
}

#[test]
fn in_emergency_mode_the_methods_that_the_table_allows_are_answered() {
    let machine = in_emergency();
    for request in Method::ALL.into_iter().filter_map(request) {
        let code = machine.answer(&request, Instant::now()).err().map(|error| error.code);
        let expected = (!request.method.answered_in_emergency()).then_some(code::EMERGENCY);
        assert_eq!(code, expected, "{}", request.method.name());
    }
}

#[test]
fn in_emergency_mode_no_trial_is_waited_for() {
    let machine = in_emergency();
    machine.vitals().set_lease_until(1); // left by the worker before
    assert_eq!(machine.lease_left_us(), None);
}
