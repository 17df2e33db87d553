//! The tensors of a file, claimed one by one for their roles in the network.

use std::collections::HashMap;

use crate::gguf::{Gguf, TensorEntry, TensorType};
use crate::neural::error::NetworkError;

/// Types that matrices may have.
const MATRIX_TYPES: [&str; 8] = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"];
/// Types that norms and biases may have.
const VECTOR_TYPES: [&str; 3] = ["F32", "F16", "BF16"];
/// Types that never hold weights: integers, and intermediate types of quantised products.
const NO_WEIGHTS: [&str; 7] = ["I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K"];

/// The tensors of a model that no role has claimed yet, by name. Those of the machine are left out.
pub struct UnclaimedTensors<'a> {
    left: HashMap<&'a str, &'a TensorEntry<'a>>,
    /// One more than the greatest N of a name `blk.N.*`.
    blocks: u64,
}

impl<'a> UnclaimedTensors<'a> {
    pub fn of(gguf: &'a Gguf<'a>) -> Self {
        let model = gguf.tensors.iter().filter(|tensor| !is_of_the_machine(tensor.name));
        let left: HashMap<_, _> = model.map(|tensor| (tensor.name, tensor)).collect();
        let blocks = left.keys().filter_map(|name| block_number(name)).max().map_or(0, |last| u64::from(last) + 1);
        UnclaimedTensors { left, blocks }
    }

    /// Compares the hyperparameter with the tensors, so that no loop runs over blocks that do not exist.
    pub fn check_block_count(&self, blocks: u32) -> Result<(), NetworkError> {
        if u64::from(blocks) == self.blocks {
            return Ok(());
        }
        let present = self.blocks;
        let why = format!("bert.block_count is {blocks}, expected {present}, the number of blk.N among the tensors");
        Err(NetworkError::Invalid(why))
    }

    pub fn has(&self, name: &str) -> bool {
        self.left.contains_key(name)
    }

    /// Claims a matrix of exactly `rows` rows.
    pub fn matrix(&mut self, name: &str, columns: u32, rows: u32) -> Result<(), NetworkError> {
        let shape = [u64::from(columns), u64::from(rows)];
        let fits = |tensor: &TensorEntry<'_>| tensor.shape() == shape;
        self.claim(name, &MATRIX_TYPES, fits, || format!("{columns} x {rows}"))
    }

    /// Claims a matrix of at least `rows` rows.
    pub fn table(&mut self, name: &str, columns: u32, rows: u32) -> Result<(), NetworkError> {
        let fits = |tensor: &TensorEntry<'_>| match *tensor.shape() {
            [width, height] => width == u64::from(columns) && (rows.into()..=u32::MAX.into()).contains(&height),
            _ => false,
        };
        self.claim(name, &MATRIX_TYPES, fits, || format!("{columns} x {rows} or more"))
    }

    /// Claims a matrix, and its bias if there is one.
    pub fn linear(&mut self, stem: &str, columns: u32, rows: u32) -> Result<(), NetworkError> {
        self.matrix(&format!("{stem}.weight"), columns, rows)?;
        self.optional_vector(&format!("{stem}.bias"), rows)
    }

    /// Claims the weight and bias of a layer norm.
    pub fn norm(&mut self, stem: &str, len: u32) -> Result<(), NetworkError> {
        self.vector(&format!("{stem}.weight"), len)?;
        self.vector(&format!("{stem}.bias"), len)
    }

    /// Claims the tensors of a reranker's classifier, those that are there.
    pub fn reranker(&mut self, width: u32) -> Result<(), NetworkError> {
        if self.has("cls.weight") {
            self.matrix("cls.weight", width, width)?;
        }
        self.optional_vector("cls.bias", width)?;
        let labels = self.left.get("cls.output.weight").and_then(|tensor| tensor.shape().get(1)).copied();
        let labels = labels.and_then(|labels| u32::try_from(labels).ok()).unwrap_or(1);
        if self.has("cls.output.weight") {
            self.table("cls.output.weight", width, labels)?;
        }
        self.optional_vector("cls.output.bias", labels)
    }

    fn optional_vector(&mut self, name: &str, len: u32) -> Result<(), NetworkError> {
        match self.has(name) {
            true => self.vector(name, len),
            false => Ok(()),
        }
    }

    fn vector(&mut self, name: &str, len: u32) -> Result<(), NetworkError> {
        let fits = |tensor: &TensorEntry<'_>| tensor.shape() == [u64::from(len)];
        self.claim(name, &VECTOR_TYPES, fits, || len.to_string())
    }

    fn claim(
        &mut self,
        name: &str,
        types: &[&str],
        fits: impl FnOnce(&TensorEntry<'_>) -> bool,
        expected: impl FnOnce() -> String,
    ) -> Result<(), NetworkError> {
        let Some(tensor) = self.left.remove(name) else {
            return Err(NetworkError::Invalid(format!(
                "tensor {name} is absent, expected one of shape {}",
                expected()
            )));
        };
        if !fits(tensor) {
            let shape: Vec<String> = tensor.shape().iter().map(u64::to_string).collect();
            let why = format!("tensor {name} has the shape {}, expected {}", shape.join(" x "), expected());
            return Err(NetworkError::Invalid(why));
        }
        check_type(name, tensor.tensor_type, types)
    }

    /// Refuses a model with a tensor that has no role: it would be a different network.
    pub fn check_none_left(&self) -> Result<(), NetworkError> {
        match self.left.keys().min() {
            None => Ok(()),
            Some(name) => Err(NetworkError::Invalid(format!(
                "tensor {} has no role in a bert, expected it absent",
                name.escape_default()
            ))),
        }
    }
}

fn check_type(name: &str, found: TensorType, types: &[&str]) -> Result<(), NetworkError> {
    if types.contains(&found.name()) {
        return Ok(());
    }
    let why = format!("tensor {name} has the type {}, expected one of {}", found.name(), types.join(" "));
    // A model is sound even if the kernels cannot read the type of its matrices.
    let sound = types.len() == MATRIX_TYPES.len() && !NO_WEIGHTS.contains(&found.name());
    Err(if sound { NetworkError::Unsupported(why) } else { NetworkError::Invalid(why) })
}

/// N of a name `blk.N.*`, written without leading zeros.
fn block_number(name: &str) -> Option<u32> {
    let (number, _) = name.strip_prefix("blk.")?.split_once('.')?;
    number.parse().ok().filter(|parsed: &u32| parsed.to_string() == number)
}

/// Whether a tensor belongs to the machine, not to the model.
fn is_of_the_machine(name: &str) -> bool {
    let slot = name.strip_prefix("kernel.").or(name.strip_prefix("evolved."));
    matches!(name, "hw.mmio" | "cortex_journal") || matches!(slot.map(str::as_bytes), Some([b'0'..=b'7']))
}
