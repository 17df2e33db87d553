//! The arithmetic of edits against the vectors that the Python side computes with numpy (tests/vectors/mutation).
//!
//! Here are the cases whose edits all pass the checks before the arithmetic: those with a result, and those refused
//! because a value would not be finite.

use std::path::Path;

use serde_json::Value;
use vector_boot::gguf::TensorType;
use vector_boot::mutation::low_rank::{self, Factor};
use vector_boot::mutation::seeded::{self, Form, Seeded};
use vector_boot::mutation::sparse::{self, Op};
use vector_boot::mutation::{finite, glob, noise, Refused};

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

fn number(value: &Value, member: &str) -> f64 {
    value[member].as_f64().unwrap_or_else(|| panic!("{member} in {value}"))
}

fn bytes(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect()
}

/// The part of the blob that belongs to an edit.
fn part<'a>(edit: &Value, blob: &'a [u8]) -> &'a [u8] {
    let number = |i: usize| edit["blob"][i].as_u64().unwrap() as usize;
    &blob[number(0)..number(0) + number(1)]
}

struct Tensor<'a> {
    name: &'a str,
    tensor_type: TensorType,
    /// Length of a row.
    columns: usize,
    data: Vec<u8>,
}

impl<'a> Tensor<'a> {
    fn of(case: &'a Value) -> Self {
        let named = |one: &TensorType| one.name() == text(case, "type");
        Tensor {
            name: text(case, "tensor"),
            tensor_type: (0..64).filter_map(TensorType::from_id).find(named).expect("a known type"),
            columns: case["shape"][0].as_u64().unwrap() as usize,
            data: bytes(text(case, "before")),
        }
    }

    fn apply(&mut self, edit: &Value, blob: &[u8]) -> Result<(), Refused> {
        match text(edit, "kind") {
            "dense" => {
                let (offset, part) = (edit["offset"].as_u64().unwrap() as usize, part(edit, blob));
                self.data[offset..offset + part.len()].copy_from_slice(part);
                finite::all_finite(self.tensor_type, part).then_some(()).ok_or(Refused::NotFinite)
            }
            "sparse" => {
                let part = part(edit, blob);
                let (indices, values) = part.split_at(part.len() / 12 * 8);
                let indices: Vec<u64> = indices.as_chunks().0.iter().map(|i| u64::from_le_bytes(*i)).collect();
                let op = if text(edit, "op") == "set" { Op::Set } else { Op::Add };
                sparse::apply(op, self.tensor_type, 0, &mut self.data, &indices, &floats(values))
            }
            "low_rank" => {
                let (rank, numbers) = (edit["rank"].as_u64().unwrap() as usize, floats(part(edit, blob)));
                let (a, b) = numbers.split_at(numbers.len() - self.columns * rank);
                let factor = Factor::new(b, self.columns, rank)?;
                low_rank::apply(&factor, self.tensor_type, number(edit, "scale") as f32, a, &mut self.data)
            }
            "seeded" => {
                // A tensor's own name is no pattern, whatever characters it has.
                let pattern = text(edit, "tensors");
                assert!(pattern == self.name || glob::matches(pattern, self.name), "{pattern}");
                let edit = Seeded {
                    key: noise::key(bytes(text(edit, "seed")).try_into().unwrap(), self.name),
                    threshold: seeded::threshold(number(edit, "density")),
                    scale: number(edit, "scale") as f32,
                    form: match text(edit, "form") {
                        "normal" => Form::Normal,
                        "step" => Form::Step,
                        "scale" => Form::Scale,
                        form => panic!("form {form}"),
                    },
                };
                seeded::apply(&edit, self.tensor_type, 0, &mut self.data)
            }
            kind => panic!("kind {kind}"),
        }
    }
}

#[test]
fn edits_do_what_the_twin_says() {
    let mut compared = 0;
    for case in cases() {
        let name = text(&case, "name");
        let edits = case["edits"].as_array().unwrap();
        let refused = case.get("error").map(|code| code.as_i64().unwrap());
        let is_program = edits.iter().any(|edit| edit["kind"] == "program");
        if is_program || refused.is_some_and(|code| code != 1005) {
            continue;
        }
        let blob = bytes(text(&case, "blob"));
        let mut tensor = Tensor::of(&case);
        let outcome = edits.iter().try_for_each(|edit| tensor.apply(edit, &blob));
        match refused {
            Some(_) => assert_eq!(outcome, Err(Refused::NotFinite), "{name}"),
            None => {
                assert_eq!(outcome, Ok(()), "{name}");
                assert!(tensor.data == bytes(text(&case, "after")), "{name}: other bytes");
            }
        }
        compared += 1;
    }
    assert!(compared > 0, "there are no vectors in tests/vectors/mutation");
}
