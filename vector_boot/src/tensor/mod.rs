//! The tensors of a running machine: the model's, mapped privately, and the machine's own.

mod machine_tensors;

use std::fmt;
use std::ops::Range;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use crate::gguf::{self, Gguf, TensorType};
use crate::hw_mmio::Page;
use crate::sys::memory::Mapping;
use machine_tensors::MACHINE_TENSORS;

/// Key that marks a file whose machine tensors are ours.
const LAYOUT_KEY: &str = "vector_boot.layout";

/// Where a tensor's bytes are.
enum Place {
    /// At this offset of the mapped file.
    Model(usize),
    /// In memory of its own.
    Memory(Mapping),
    /// The device page.
    DevicePage,
}

/// One tensor.
pub struct Tensor {
    /// Unique name.
    pub name: Box<str>,
    /// Type of its elements.
    pub tensor_type: TensorType,
    /// Elements along each dimension, the fastest first.
    pub shape: Box<[u64]>,
    /// Bytes of data.
    pub bytes: u64,
    /// Whether no mutation may reach it.
    pub protected: bool,
    place: Place,
    sha256: OnceLock<[u8; 32]>,
}

/// Why a model cannot be loaded.
#[derive(Debug)]
pub enum LoadError {
    /// The file is no acceptable GGUF.
    Container(gguf::Error),
    /// A name of the machine's is taken by something else.
    NameTaken {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No memory for the machine's tensors.
    Memory(std::io::Error),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Container(error) => write!(f, "the model is refused: {error}"),
            LoadError::NameTaken { name, why } => write!(f, "the model is refused: tensor {name} {why}"),
            LoadError::Memory(error) => write!(f, "no memory for the machine's tensors: {error}"),
        }
    }
}

/// All tensors of a machine.
pub struct Store {
    weights: Mapping,
    tensors: Vec<Tensor>,
    /// Indices into `tensors`, in name order.
    by_name: Vec<u32>,
}

impl Store {
    /// Takes the tensors of a mapped GGUF, and adds those of the machine it lacks.
    ///
    /// # Errors
    /// [`LoadError`], one sentence each.
    pub fn load(weights: Mapping) -> Result<Self, LoadError> {
        let gguf = Gguf::parse(weights.bytes()).map_err(LoadError::Container)?;
        let ours = gguf.value(LAYOUT_KEY).and_then(gguf::Value::integer) == Some(1);
        let mut tensors = Vec::with_capacity(gguf.tensors.len() + MACHINE_TENSORS.len());
        for tensor in &gguf.tensors {
            tensors.push(Tensor::of_model(tensor, gguf.data_offset, ours)?);
        }
        for wanted in MACHINE_TENSORS {
            if !gguf.tensors.iter().any(|tensor| tensor.name == wanted.name) {
                tensors.push(Tensor::of_machine(wanted).map_err(LoadError::Memory)?);
            }
        }
        let mut by_name: Vec<u32> = (0..tensors.len() as u32).collect();
        by_name.sort_unstable_by(|a, b| tensors[*a as usize].name.cmp(&tensors[*b as usize].name));
        Ok(Store { weights, tensors, by_name })
    }

    /// All tensors, the model's first, in file order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// All tensors in name order.
    pub fn in_name_order(&self) -> impl Iterator<Item = &Tensor> {
        self.by_name.iter().map(|index| &self.tensors[*index as usize])
    }

    /// The tensor with this name.
    pub fn find(&self, name: &str) -> Option<&Tensor> {
        let found = self.by_name.binary_search_by(|index| (*self.tensors[*index as usize].name).cmp(name)).ok()?;
        Some(&self.tensors[self.by_name[found] as usize])
    }

    /// A copy of the bytes `range` of a tensor, cut at its end.
    pub fn read(&self, tensor: &Tensor, range: Range<usize>, page: Page<'_>) -> Vec<u8> {
        let end = range.end.min(tensor.bytes as usize);
        let range = range.start.min(end)..end;
        match self.bytes(tensor) {
            Some(bytes) => bytes[range].to_vec(),
            None => page.bytes(range),
        }
    }

    /// The bytes of a tensor; `None` for the device page, which changes by itself.
    fn bytes<'a>(&'a self, tensor: &'a Tensor) -> Option<&'a [u8]> {
        match &tensor.place {
            Place::Model(offset) => Some(&self.weights.bytes()[*offset..*offset + tensor.bytes as usize]),
            Place::Memory(memory) => Some(memory.bytes()),
            Place::DevicePage => None,
        }
    }

    /// SHA-256 of a tensor's bytes, computed once.
    pub fn sha256(&self, tensor: &Tensor, page: Page<'_>) -> [u8; 32] {
        match self.bytes(tensor) {
            Some(bytes) => *tensor.sha256.get_or_init(|| Sha256::digest(bytes).into()),
            None => Sha256::digest(page.bytes(0..tensor.bytes as usize)).into(),
        }
    }

    /// Digest of the model: SHA-256 over all unprotected tensors in name order of name, 0, SHA-256 of the bytes.
    pub fn model_sha256(&self, page: Page<'_>) -> [u8; 32] {
        let mut hash = Sha256::new();
        for tensor in self.in_name_order().filter(|tensor| !tensor.protected) {
            hash.update(tensor.name.as_bytes());
            hash.update([0]);
            hash.update(self.sha256(tensor, page));
        }
        hash.finalize().into()
    }
}

impl Tensor {
    fn of_model(tensor: &gguf::Tensor<'_>, data_offset: u64, ours: bool) -> Result<Self, LoadError> {
        let machine = MACHINE_TENSORS.iter().find(|machine| machine.name == tensor.name);
        if let Some(wanted) = machine {
            let why = match (ours, wanted.fits(tensor)) {
                (false, _) => "uses a name of the machine's, and vector_boot.layout is not 1",
                (true, false) => "has not the type and shape of the machine's",
                (true, true) => "",
            };
            if !why.is_empty() {
                return Err(LoadError::NameTaken { name: tensor.name.to_string(), why });
            }
        }
        let place = match machine {
            Some(wanted) if wanted.is_device_page() => Place::DevicePage,
            // The parser has proved that the data lies inside the mapping.
            _ => Place::Model((data_offset + tensor.offset) as usize),
        };
        Ok(Tensor {
            name: tensor.name.into(),
            tensor_type: tensor.tensor_type,
            shape: tensor.shape().into(),
            bytes: tensor.bytes,
            protected: machine.is_some_and(|machine| machine.protected),
            place,
            sha256: OnceLock::new(),
        })
    }

    fn of_machine(wanted: &machine_tensors::MachineTensor) -> std::io::Result<Self> {
        let place = match wanted.is_device_page() {
            true => Place::DevicePage,
            false => Place::Memory(wanted.initial()?),
        };
        Ok(Tensor {
            name: wanted.name.into(),
            tensor_type: wanted.tensor_type(),
            shape: [wanted.elements].into(),
            bytes: wanted.bytes(),
            protected: wanted.protected,
            place,
            sha256: OnceLock::new(),
        })
    }
}

#[cfg(test)]
mod tests;
