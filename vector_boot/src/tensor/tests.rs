use std::sync::atomic::AtomicU32;

use super::*;

/// A store over a copy of these bytes.
pub fn load(bytes: Vec<u8>) -> Result<Store, LoadError> {
    Store::load(Box::new(move || {
        let mut mapping = Mapping::zeroed(bytes.len())?;
        mapping.bytes_mut().copy_from_slice(&bytes);
        Ok(mapping)
    }))
}

/// A GGUF with one I8 tensor of 64 elements, all 7, and the layout key if `ours`.
pub fn file(name: &str, elements: u64, ours: bool) -> Vec<u8> {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend(1u64.to_le_bytes());
    file.extend(u64::from(ours).to_le_bytes());
    if ours {
        file.extend((LAYOUT_KEY.len() as u64).to_le_bytes());
        file.extend(LAYOUT_KEY.as_bytes());
        file.extend([4, 0, 0, 0, 1, 0, 0, 0]);
    }
    file.extend((name.len() as u64).to_le_bytes());
    file.extend(name.as_bytes());
    file.extend(1u32.to_le_bytes());
    file.extend(elements.to_le_bytes());
    file.extend(24u32.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend(vec![7; elements.next_multiple_of(32) as usize]);
    file
}

#[test]
fn a_plain_model_gets_the_machines_tensors() {
    let store = load(file("w", 64, false)).unwrap();
    assert_eq!(store.tensors().len(), 1 + 18);
    assert!(store.find("kernel.7").unwrap().protected && store.find("hw.mmio").unwrap().protected);
    assert!(!store.find("evolved.0").unwrap().protected && !store.find("w").unwrap().protected);
    assert!(store.find("kernel.8").is_none());
    let names: Vec<&str> = store.in_name_order().map(|tensor| &*tensor.name).collect();
    assert!(names.is_sorted());
}

#[test]
fn reads_are_cut_at_the_end_and_see_the_page() {
    let words: Vec<AtomicU32> = (0..crate::vitals::SHARED_WORDS as u32).map(AtomicU32::new).collect();
    let page = Page::new(&words);
    let store = load(file("w", 64, false)).unwrap();
    let tensor = store.find("w").unwrap();
    assert_eq!(store.read(tensor, 60..100, page), [7; 4]);
    assert!(store.read(tensor, 100..200, page).is_empty());
    let mmio = store.find("hw.mmio").unwrap();
    assert_eq!(store.read(mmio, 2..9, page), [0, 0, 1, 0, 0, 0, 2]);
    let journal = store.find("cortex_journal").unwrap();
    let ring = crate::journal::ring::Ring::new(&words[crate::vitals::RING_WORD..]);
    ring.initialise();
    assert_eq!(store.read(journal, 0..8, page), *b"CJ01\x40\0\0\0");
}

#[test]
fn the_model_digest_is_that_of_the_protocol() {
    let words: Vec<AtomicU32> = (0..crate::vitals::SHARED_WORDS as u32).map(AtomicU32::new).collect();
    let store = load(file("w", 64, false)).unwrap();
    let mut expected = Sha256::new();
    for slot in 0..8 {
        expected.update(format!("evolved.{slot}\0"));
        expected.update(Sha256::digest([0; 4096]));
    }
    expected.update("w\0");
    expected.update(Sha256::digest([7; 64]));
    assert_eq!(store.model_sha256(Page::new(&words)), <[u8; 32]>::from(expected.finalize()));
}

#[test]
fn a_name_of_the_machines_needs_the_layout_key_and_the_right_shape() {
    assert!(matches!(load(file("kernel.0", 4096, false)), Err(LoadError::NameTaken { .. })));
    assert!(matches!(load(file("kernel.0", 64, true)), Err(LoadError::NameTaken { .. })));
    let store = load(file("kernel.0", 4096, true)).unwrap();
    assert_eq!(store.tensors().len(), 18);
    assert!(store.find("kernel.0").unwrap().protected);
}
