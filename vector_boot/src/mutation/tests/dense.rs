use crate::hw_mmio::Page;
use crate::mutation::apply::apply;
use crate::mutation::plan::plan;
use crate::mutation::request::parse_edits;
use crate::sys::memory::SharedWords;
use crate::tensor::tests::{file, load};
use crate::tensor::Store;
use crate::vitals::SHARED_WORDS;

/// Bytes of an edit: several chunks.
const BYTES: usize = 1 << 20;

/// A model of one F32 tensor of so many bytes.
fn floats() -> Vec<u8> {
    let mut model = file("w", BYTES as u64, false);
    let behind_name = 37;
    model[behind_name..behind_name + 8].copy_from_slice(&(BYTES as u64 / 4).to_le_bytes());
    model[behind_name + 8..behind_name + 12].copy_from_slice(&0u32.to_le_bytes());
    model
}

#[test]
fn a_value_that_is_not_finite_in_the_last_chunk_changes_nothing() {
    let mut store = load(floats()).unwrap();
    let (shared, _) = SharedWords::create(c"test", SHARED_WORDS).unwrap();
    let state = |store: &Store| {
        let bytes = store.bytes(store.find("w").unwrap()).unwrap().to_vec();
        (bytes, store.sha256(0, Page::new(shared.words())), store.memory().fingerprint())
    };
    let before = state(&store);
    let edits = format!(r#"[{{"kind":"dense","tensor":"w","offset":0,"blob":[0,{BYTES}]}}]"#);
    let edits = parse_edits(serde_json::from_str(&edits).unwrap()).unwrap();
    let mut blob = vec![1; BYTES];
    for (end, refused) in [(f32::NAN, true), (1.0, false)] {
        blob[BYTES - 4..].copy_from_slice(&end.to_le_bytes());
        let plan = plan(&store, &edits, &blob).unwrap();
        let mut change = store.memory_mut().begin();
        assert_eq!(apply(&plan, &mut change, &|| ()).is_err(), refused);
        drop(change);
        assert!(state(&store) == before);
    }
}
