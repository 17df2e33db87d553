//! Edits from their JSON to the bytes, against the vectors that the Python side computes with numpy
//! (tests/vectors/mutation): results to the bit, and the code of every error.

use std::path::Path;

use serde_json::Value;
use vector_boot::gguf::TensorType;
use vector_boot::mutation::apply::apply;
use vector_boot::mutation::plan::plan;
use vector_boot::mutation::request::parse_edits;
use vector_boot::mutation::EditError;
use vector_boot::protocol::RequestError;
use vector_boot::sys::memory::Mapping;
use vector_boot::tensor::memory::Pages;
use vector_boot::tensor::Store;

fn cases() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/mutation");
    let mut cases = Vec::new();
    for entry in folder.read_dir().unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            cases.extend(file["cases"].as_array().unwrap().clone());
        }
    }
    cases
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_else(|| panic!("{member} in {value}"))
}

fn bytes(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

/// A GGUF file with the tensor of the case; if that is a machine tensor, with another one.
fn file(case: &Value) -> Vec<u8> {
    let name = text(case, "tensor");
    let of_machine = ["hw.mmio", "kernel.0", "evolved.0", "evolved.1", "evolved.7"].contains(&name);
    let name = if of_machine { "another" } else { name };
    let named = |one: &TensorType| one.name() == text(case, "type");
    let tensor_type = (0..64).filter_map(TensorType::from_id).find(named).expect("a known type");
    let shape = case["shape"].as_array().unwrap();
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend(1u64.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.extend((name.len() as u64).to_le_bytes());
    file.extend(name.as_bytes());
    file.extend((shape.len() as u32).to_le_bytes());
    shape.iter().for_each(|length| file.extend(length.as_u64().unwrap().to_le_bytes()));
    file.extend(tensor_type.id().to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend(bytes(text(case, "before")));
    file.resize(file.len().next_multiple_of(32), 0);
    file
}

fn store(case: &Value) -> Store {
    let file = file(case);
    let store = Store::load(Box::new(move || {
        let mut mapping = Mapping::zeroed(file.len())?;
        mapping.bytes_mut().copy_from_slice(&file);
        Ok(mapping)
    }));
    store.unwrap_or_else(|error| panic!("{}: {error}", text(case, "name")))
}

/// The code of the protocol for a refused edit.
fn code_of(error: EditError) -> i64 {
    RequestError::from(error).code
}

/// The new bytes of the tensor, or the error code; then the store has not changed.
fn outcome(case: &Value) -> Result<Vec<u8>, i64> {
    let mut store = store(case);
    let blob = bytes(text(case, "blob"));
    let edits = parse_edits(case["edits"].clone()).map_err(code_of)?;
    for edit in &edits {
        edit.check_indices(0, &blob).map_err(code_of)?;
    }
    let plan = plan(&store, &edits, &blob).map_err(code_of)?;
    let targets: Vec<_> = plan.targets().iter().map(|target| target.address..target.address + target.bytes).collect();
    if let Some(index) = store.position(text(case, "tensor")) {
        let address = store.tensors()[index].address().expect("no protected tensor gets that far");
        let mut change = store.memory_mut().begin();
        change.write(address, &bytes(text(case, "before"))); // a machine tensor starts empty
        change.commit();
    }
    let mut change = store.memory_mut().begin();
    apply(&plan, &mut change, &|| ()).map_err(|_| 1005)?;
    if change.changed_bytes(&targets).iter().all(|count| *count == 0) {
        return Err(1008);
    }
    change.commit();
    let tensor = store.find(text(case, "tensor")).unwrap();
    Ok(store.bytes(tensor).unwrap().to_vec())
}

#[test]
fn edits_do_what_the_twin_says() {
    let cases = cases();
    assert!(cases.len() > 300, "the vectors in tests/vectors/mutation are missing");
    for case in cases {
        let name = text(&case, "name");
        match (outcome(&case), case.get("error")) {
            (Err(code), expected) => assert_eq!(Some(&Value::from(code)), expected, "{name}"),
            (Ok(after), None) => assert!(after == bytes(text(&case, "after")), "{name}: other bytes"),
            (Ok(_), Some(code)) => panic!("{name}: not refused with {code}"),
        }
    }
}
