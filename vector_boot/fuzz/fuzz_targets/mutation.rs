#![no_main]
//! Any edits are accepted or refused without a panic. An undone edit leaves no trace, a kept one can be rolled back, and
//! no protected byte ever changes. The input: the edits as JSON, a zero byte, the blob.

use std::sync::Mutex;

use libfuzzer_sys::fuzz_target;
use vector_boot::mutation::apply::apply;
use vector_boot::mutation::plan::plan;
use vector_boot::mutation::request::parse_edits;
use vector_boot::sys::memory::Mapping;
use vector_boot::tensor::Store;

/// Name, type id, columns, rows, bytes.
const TENSORS: [(&str, u32, u64, u64, usize); 9] = [
    ("f32", 0, 32, 4, 512),
    ("f16", 1, 32, 4, 256),
    ("bf16", 30, 32, 4, 256),
    ("q8_0", 8, 64, 2, 136),
    ("q4_0", 2, 64, 2, 72),
    ("q4_1", 3, 64, 2, 80),
    ("q5_0", 6, 64, 2, 88),
    ("q5_1", 7, 64, 2, 96),
    ("i8", 24, 64, 2, 128),
];

static STORE: Mutex<Option<Store>> = Mutex::new(None);

fuzz_target!(|data: &[u8]| {
    let mut guard = STORE.lock().unwrap();
    let store = guard.get_or_insert_with(|| {
        let file = model();
        Store::load(Box::new(move || {
            let mut mapping = Mapping::zeroed(file.len())?;
            mapping.bytes_mut().copy_from_slice(&file);
            Ok(mapping)
        }))
        .unwrap()
    });
    let (json, blob) = data.split_at(data.iter().position(|byte| *byte == 0).unwrap_or(data.len()));
    let blob = blob.get(1..).unwrap_or_default();
    let Ok(edits) = serde_json::from_slice(json) else { return };
    let Ok(edits) = parse_edits(edits) else { return };
    if edits.iter().any(|edit| edit.check_indices(0, blob).is_err()) {
        return;
    }
    let Ok(plan) = plan(store, &edits, blob) else { return };
    let before = contents(store);
    let mut change = store.memory_mut().begin();
    if apply(&plan, &mut change, &|| ()).is_err() {
        drop(change);
        assert!(contents(store) == before);
        return;
    }
    let images = change.commit();
    for (tensor, (old, new)) in store.tensors().iter().zip(before.iter().zip(contents(store))) {
        assert!(!tensor.protected || *old == new, "{} is protected", tensor.name);
    }
    let mut change = store.memory_mut().begin();
    images.iter().for_each(|(page, bytes)| change.write_page(page, bytes));
    change.commit();
    assert!(contents(store) == before);
    assert_eq!(store.memory().fingerprint(), 0);
});

fn contents(store: &Store) -> Vec<Vec<u8>> {
    store.tensors().iter().map(|tensor| store.bytes(tensor).unwrap_or_default().to_vec()).collect()
}

/// A GGUF with every type that edits know.
fn model() -> Vec<u8> {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend((TENSORS.len() as u64).to_le_bytes());
    file.extend(0u64.to_le_bytes());
    let mut offset = 0u64;
    for (name, type_id, columns, rows, bytes) in TENSORS {
        file.extend((name.len() as u64).to_le_bytes());
        file.extend(name.as_bytes());
        file.extend(2u32.to_le_bytes());
        file.extend(columns.to_le_bytes());
        file.extend(rows.to_le_bytes());
        file.extend(type_id.to_le_bytes());
        file.extend(offset.to_le_bytes());
        offset += bytes.next_multiple_of(32) as u64;
    }
    file.resize(file.len().next_multiple_of(32), 0);
    let data = (0..offset).map(|at| (at * 37 % 61) as u8); // no f16 of it is infinite
    file.extend(data);
    file
}
