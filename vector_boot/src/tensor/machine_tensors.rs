//! The tensors every machine has.

use crate::gguf::{self, TensorType};
use crate::sys::memory::Mapping;

/// One of the machine's own tensors.
pub struct MachineTensor {
    pub name: &'static str,
    /// Whether no mutation may reach it.
    pub protected: bool,
    pub elements: u64,
    type_id: u32,
}

const I8: u32 = 24;
const I32: u32 = 26;
const PROGRAM_BYTES: u64 = 4096;
const DEVICE_PAGE: &str = "hw.mmio";
const JOURNAL: &str = "cortex_journal";
const JOURNAL_MAGIC: [u8; 4] = *b"CJ01";
const JOURNAL_RECORD_BYTES: u32 = 64;

const fn tensor(name: &'static str, protected: bool, type_id: u32, elements: u64) -> MachineTensor {
    MachineTensor { name, protected, elements, type_id }
}

const fn kernel(name: &'static str) -> MachineTensor {
    tensor(name, true, I8, PROGRAM_BYTES)
}

const fn evolved(name: &'static str) -> MachineTensor {
    tensor(name, false, I8, PROGRAM_BYTES)
}

/// In the order they follow the model's tensors.
pub static MACHINE_TENSORS: &[MachineTensor] = &[
    tensor(DEVICE_PAGE, true, I32, 1024),
    tensor(JOURNAL, true, I8, 1 << 20),
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
    pub fn is_device_page(&self) -> bool {
        self.name == DEVICE_PAGE
    }

    pub fn tensor_type(&self) -> TensorType {
        TensorType::from_id(self.type_id).unwrap_or(TensorType::BYTE)
    }

    pub fn bytes(&self) -> u64 {
        self.elements * self.tensor_type().block_bytes()
    }

    pub fn fits(&self, tensor: &gguf::Tensor<'_>) -> bool {
        tensor.tensor_type == self.tensor_type() && tensor.shape() == [self.elements]
    }

    /// What the tensor holds in a machine whose file lacks it.
    pub fn initial(&self) -> std::io::Result<Mapping> {
        let mut memory = Mapping::zeroed(self.bytes() as usize)?;
        if self.name == JOURNAL {
            memory.bytes_mut()[..4].copy_from_slice(&JOURNAL_MAGIC);
            memory.bytes_mut()[4..8].copy_from_slice(&JOURNAL_RECORD_BYTES.to_le_bytes());
        }
        Ok(memory)
    }
}
