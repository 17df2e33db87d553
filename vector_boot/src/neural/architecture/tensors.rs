//! The tensors of a file, taken one by one for their roles.

use std::collections::HashMap;

use super::{Linear, Norm, Refusal, Weight};
use crate::gguf::{Gguf, Tensor, TensorType};

/// Types that matrices may have.
const MATRIX_TYPES: [&str; 8] = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"];
/// Types that norms and biases may have.
const VECTOR_TYPES: [&str; 3] = ["F32", "F16", "BF16"];
/// Types that hold no weights: integers, and what quantised products use on their way.
const NO_WEIGHTS: [&str; 7] = ["I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K"];

/// Tensors by name, with whether they have been taken.
pub struct Tensors<'a> {
    left: HashMap<&'a str, &'a Tensor<'a>>,
    blocks: u64,
}

impl<'a> Tensors<'a> {
    pub fn of(gguf: &'a Gguf<'a>) -> Self {
        let model = gguf.tensors.iter().filter(|tensor| !is_of_the_machine(tensor.name));
        let left: HashMap<_, _> = model.map(|tensor| (tensor.name, tensor)).collect();
        let blocks = left.keys().filter_map(|name| block_number(name)).max().map_or(0, |last| u64::from(last) + 1);
        Tensors { left, blocks }
    }

    /// Bounds what is asked for by what is there, before anything is made for each block.
    pub fn check_block_count(&self, blocks: u32) -> Result<(), Refusal> {
        if u64::from(blocks) == self.blocks {
            return Ok(());
        }
        let present = self.blocks;
        Err(Refusal::Invalid(format!("bert.block_count is {blocks}, expected {present}, the blk.N among the tensors")))
    }

    pub fn has(&self, name: &str) -> bool {
        self.left.contains_key(name)
    }

    /// A matrix of exactly `rows` rows.
    pub fn matrix(&mut self, name: &str, columns: u32, rows: u32) -> Result<Weight, Refusal> {
        let shape = [u64::from(columns), u64::from(rows)];
        let fits = |tensor: &Tensor<'_>| tensor.shape() == shape;
        self.take(name, &MATRIX_TYPES, fits, || format!("{columns} x {rows}"))
    }

    /// A matrix of at least `rows` rows.
    pub fn table(&mut self, name: &str, columns: u32, rows: u32) -> Result<Weight, Refusal> {
        let fits = |tensor: &Tensor<'_>| match *tensor.shape() {
            [width, height] => width == u64::from(columns) && (rows.into()..=u32::MAX.into()).contains(&height),
            _ => false,
        };
        self.take(name, &MATRIX_TYPES, fits, || format!("{columns} x {rows} or more"))
    }

    /// A matrix and its biases.
    pub fn linear(&mut self, stem: &str, columns: u32, rows: u32) -> Result<Linear, Refusal> {
        let weight = self.matrix(&format!("{stem}.weight"), columns, rows)?;
        Ok(Linear { weight, bias: self.vector(&format!("{stem}.bias"), rows)? })
    }

    /// A layer norm.
    pub fn norm(&mut self, stem: &str, len: u32) -> Result<Norm, Refusal> {
        let weight = self.vector(&format!("{stem}.weight"), len)?;
        Ok(Norm { weight, bias: self.vector(&format!("{stem}.bias"), len)? })
    }

    fn vector(&mut self, name: &str, len: u32) -> Result<Weight, Refusal> {
        let fits = |tensor: &Tensor<'_>| tensor.shape() == [u64::from(len)];
        self.take(name, &VECTOR_TYPES, fits, || len.to_string())
    }

    fn take(
        &mut self,
        name: &str,
        types: &[&str],
        fits: impl FnOnce(&Tensor<'_>) -> bool,
        expected: impl FnOnce() -> String,
    ) -> Result<Weight, Refusal> {
        let Some(tensor) = self.left.remove(name) else {
            return Err(Refusal::Invalid(format!("tensor {name} is absent, expected one of shape {}", expected())));
        };
        if !fits(tensor) {
            let shape: Vec<String> = tensor.shape().iter().map(u64::to_string).collect();
            let why = format!("tensor {name} has the shape {}, expected {}", shape.join(" x "), expected());
            return Err(Refusal::Invalid(why));
        }
        check_type(name, tensor.tensor_type, types)?;
        // What fits has one or two dimensions, each a u32.
        let (columns, rows) = (tensor.shape()[0] as u32, tensor.shape().get(1).map_or(1, |rows| *rows as u32));
        Ok(Weight { name: name.into(), tensor_type: tensor.tensor_type, columns, rows })
    }

    /// Proves that nothing is left over: a tensor without a role would be a different model.
    pub fn check_all_taken(&self) -> Result<(), Refusal> {
        match self.left.keys().min() {
            None => Ok(()),
            Some(name) => Err(Refusal::Invalid(format!(
                "tensor {} has no role in a bert, expected it absent",
                name.escape_default()
            ))),
        }
    }
}

fn check_type(name: &str, found: TensorType, types: &[&str]) -> Result<(), Refusal> {
    if types.contains(&found.name()) {
        return Ok(());
    }
    let why = format!("tensor {name} has the type {}, expected one of {}", found.name(), types.join(" "));
    // A quantised matrix that the kernels cannot read is a sound model still.
    let sound = types.len() == MATRIX_TYPES.len() && !NO_WEIGHTS.contains(&found.name());
    Err(if sound { Refusal::Unsupported(why) } else { Refusal::Invalid(why) })
}

/// N of a name `blk.N.*`, written without leading zeros.
fn block_number(name: &str) -> Option<u32> {
    let (number, _) = name.strip_prefix("blk.")?.split_once('.')?;
    number.parse().ok().filter(|parsed: &u32| parsed.to_string() == number)
}

/// Whether a tensor is the machine's own, and no part of the model.
fn is_of_the_machine(name: &str) -> bool {
    let slot = name.strip_prefix("kernel.").or(name.strip_prefix("evolved."));
    matches!(name, "hw.mmio" | "cortex_journal") || matches!(slot.map(str::as_bytes), Some([b'0'..=b'7']))
}
