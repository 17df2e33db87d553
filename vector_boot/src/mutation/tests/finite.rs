use super::*;
use crate::mutation::finite::all_finite;

fn vectors() -> serde_json::Value {
    serde_json::from_str(include_str!("../../../tests/vectors/finite.json")).unwrap()
}

/// Whether a tensor of two finite blocks and this one in between is.
fn is_finite(name: &str, block: &[u8]) -> bool {
    let zeros = vec![0; block.len()];
    all_finite(tensor_type(name), &[&zeros, block, &zeros].concat())
}

#[test]
fn looks_where_gguf_finds_the_scales() {
    let places: Vec<(String, Vec<u64>)> = vectors()["scales"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, places)| {
            (name.clone(), places.as_array().unwrap().iter().map(|at| at.as_u64().unwrap()).collect())
        })
        // The package does not decode these.
        .chain([("Q8_1".into(), vec![0, 2]), ("Q1_0".into(), vec![0]), ("Q2_0".into(), vec![0])])
        .collect();
    assert_eq!(places.len(), 23);
    for (name, places) in places {
        let bytes = block_bytes(tensor_type(&name));
        for at in (0..bytes - 1).step_by(2) {
            let mut block = vec![0; bytes];
            block[at + 1] = 0x7C;
            assert_eq!(is_finite(&name, &block), !places.contains(&(at as u64)), "{name} at {at}");
        }
    }
}

#[test]
fn gathers_the_scale_of_iq1_m() {
    for case in vectors()["iq1_m"].as_array().unwrap() {
        let last = u64::from_str_radix(case[0].as_str().unwrap(), 16).unwrap();
        let mut block = [0; 56];
        block[48..].copy_from_slice(&last.to_be_bytes());
        assert_eq!(is_finite("IQ1_M", &block), case[1].as_bool().unwrap(), "{last:016x}");
    }
}

#[test]
fn elements_and_other_scales() {
    let not_finite: [(&str, &[u8]); 12] = [
        ("F32", &[0, 0, 0x80, 0x7F]),
        ("F32", &[1, 0, 0x80, 0xFF]),
        ("F16", &[0, 0xFC]),
        ("F16", &[1, 0x7C]),
        ("BF16", &[0x80, 0x7F]),
        ("BF16", &[0xFF, 0xFF]),
        ("F64", &[0, 0, 0, 0, 0, 0, 0xF0, 0x7F]),
        ("F64", &[1, 0, 0, 0, 0, 0, 0xF0, 0xFF]),
        ("Q8_K", &[0, 0, 0x80, 0x7F]),
        ("MXFP4", &[0xFF]),
        ("NVFP4", &[0, 0x7F]),
        ("NVFP4", &[0, 0, 0, 0xFF]),
    ];
    for (name, start) in not_finite {
        let mut block = start.to_vec();
        block.resize(block_bytes(tensor_type(name)), 0);
        assert!(!is_finite(name, &block), "{name} {start:?}");
        // The least bit of the exponent makes the difference.
        let exponent_byte = start.len() - 1;
        block[exponent_byte] ^= match name {
            "F64" | "BF16" | "F32" | "Q8_K" => 0x40,
            "F16" => 0x04,
            _ => 0x01,
        };
        assert!(is_finite(name, &block), "{name} {block:?}");
    }
}

#[test]
fn integers_are_and_no_other_type_is_forgotten() {
    for one in all_types() {
        let full = vec![0xFF; block_bytes(one)];
        assert_eq!(all_finite(one, &full), ["I8", "I16", "I32", "I64"].contains(&one.name()), "{one:?}");
        assert!(all_finite(one, &vec![0; block_bytes(one)]), "{one:?}");
    }
}
