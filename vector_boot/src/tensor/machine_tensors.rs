//! The tensors that every machine has.

use crate::gguf::{self, TensorType};
use crate::{journal, vitals};

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// One of the machine's own tensors.
pub struct MachineTensor {
    pub name: &'static str,
    /// Whether mutations of it are refused.
    pub protected: bool,
    pub elements: u64,
    /// First of the shared words that hold it; `None` for a tensor in the memory of the store.
    pub shared_at: Option<usize>,
    type_id: u32,
}

const I8: u32 = 24;
const I32: u32 = 26;
const PROGRAM_BYTES: u64 = 4096;

const fn shared(name: &'static str, type_id: u32, elements: u64, word: usize) -> MachineTensor {
    MachineTensor { name, protected: true, elements, shared_at: Some(word), type_id }
}

const fn tensor(name: &'static str, protected: bool) -> MachineTensor {
    MachineTensor { name, protected, elements: PROGRAM_BYTES, shared_at: None, type_id: I8 }
}

const fn kernel(name: &'static str) -> MachineTensor {
    tensor(name, true)
}

const fn evolved(name: &'static str) -> MachineTensor {
    tensor(name, false)
}

/// In the order in which they follow the tensors of the model.
pub static MACHINE_TENSORS: &[MachineTensor] = &[
    shared("hw.mmio", I32, 1024, 0),
    shared("cortex_journal", I8, journal::ring::BYTES as u64, vitals::RING_WORD),
    kernel("kernel.0"),
    kernel("kernel.1"),
    kernel("kernel.2"),
    kernel("kernel.3"),
    kernel("kernel.4"),
    kernel("kernel.5"),
    kernel("kernel.6"),
    kernel("kernel.7"),
    evolved("evolved.0"),
    evolved("evolved.1"),
    evolved("evolved.2"),
    evolved("evolved.3"),
    evolved("evolved.4"),
    evolved("evolved.5"),
    evolved("evolved.6"),
    evolved("evolved.7"),
];

impl MachineTensor {
    pub fn tensor_type(&self) -> TensorType {
        TensorType::from_id(self.type_id).unwrap_or(TensorType::BYTE)
    }

    pub fn bytes(&self) -> u64 {
        self.elements * self.tensor_type().block_bytes()
    }

    /// Writes its initial contents over zero bytes: a number of pixels and a built-in program; nothing for the others.
    pub fn initialise(&self, bytes: &mut [u8]) {
        let number = self.name.strip_prefix("kernel.").and_then(|number| number.parse::<usize>().ok());
        let Some(program) = number.and_then(|number| KERNELS.get(number)) else { return };
        bytes[..4].copy_from_slice(&(program.len() as u32 / 3).to_le_bytes());
        bytes[4..4 + program.len()].copy_from_slice(program);
    }

    pub fn fits(&self, tensor: &gguf::TensorEntry<'_>) -> bool {
        tensor.tensor_type == self.tensor_type() && tensor.shape() == [self.elements]
    }
}
