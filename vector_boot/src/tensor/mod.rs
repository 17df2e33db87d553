//! The tensors of a running machine: those of the model, in a private mapping of its file, and the machine's own.

mod machine_tensors;
pub mod memory;

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use crate::gguf::{self, Gguf, TensorType};
use crate::hw_mmio::Page;
use crate::sys::memory::Mapping;
pub use machine_tensors::MACHINE_TENSORS;
use memory::PagedMemory;

/// Key that marks a file whose machine tensors are ours.
const LAYOUT_KEY: &str = "vector_boot.layout";

/// Where the bytes of a tensor are.
#[derive(Clone, Copy)]
enum Location {
    /// At this address of the store's memory.
    Memory(usize),
    /// From this word on in the words that supervisor and worker share.
    Shared(usize),
}

/// Maps the file of the model again, without any change.
pub type Base = Box<dyn Fn() -> io::Result<Mapping> + Send + Sync>;

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
    /// Whether mutations of it are refused.
    pub protected: bool,
    /// Whether it is not in the file of the model.
    behind_model: bool,
    location: Location,
}

/// Why a model cannot be loaded.
#[derive(Debug)]
pub enum LoadError {
    /// The file is not an acceptable GGUF file.
    Container(gguf::GgufError),
    /// The name of a machine tensor is used by another tensor.
    NameTaken {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The file cannot be mapped, or there is no memory for the machine tensors.
    Memory(io::Error),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Container(error) => write!(f, "the model is refused: {error}"),
            LoadError::NameTaken { name, why } => write!(f, "the model is refused: tensor {name} {why}"),
            LoadError::Memory(error) => write!(f, "the model cannot be mapped: {error}"),
        }
    }
}

/// All tensors of a machine.
pub struct Store {
    tensors: Vec<Tensor>,
    /// Indices into `tensors`, in name order.
    by_name: Vec<u32>,
    /// The digest of each tensor, once it was computed since the last change.
    digests: Vec<OnceLock<[u8; 32]>>,
    memory: PagedMemory,
    base: Base,
}

impl Store {
    /// Loads the tensors of the GGUF file that `base` maps, and adds the machine tensors that are not in it.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(base: Base) -> Result<Self, LoadError> {
        Ok(Self::load_and_judge(base, &mut |_| ())?.0)
    }

    /// The same as [`Store::load`], and the result of `judge` for the parsed file.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load_and_judge<T>(base: Base, judge: &mut dyn FnMut(&Gguf<'_>) -> T) -> Result<(Self, T), LoadError> {
        let weights = base().map_err(LoadError::Memory)?;
        let gguf = Gguf::parse(weights.bytes()).map_err(LoadError::Container)?;
        let judgement = judge(&gguf);
        let ours = gguf.value(LAYOUT_KEY).and_then(gguf::MetadataValue::integer) == Some(1);
        let mut tensors = Vec::with_capacity(gguf.tensors.len() + MACHINE_TENSORS.len());
        for tensor in &gguf.tensors {
            tensors.push(Tensor::of_model(tensor, gguf.data_offset, ours)?);
        }
        let mut end = weights.bytes().len().next_multiple_of(memory::PAGE);
        for wanted in MACHINE_TENSORS {
            if !gguf.tensors.iter().any(|tensor| tensor.name == wanted.name) {
                tensors.push(Tensor::of_machine(wanted, end));
                end += if wanted.shared_at.is_none() { wanted.bytes() as usize } else { 0 };
            }
        }
        let mut by_name: Vec<u32> = (0..tensors.len() as u32).collect();
        by_name.sort_unstable_by(|a, b| tensors[*a as usize].name.cmp(&tensors[*b as usize].name));
        let digests = tensors.iter().map(|_| OnceLock::new()).collect();
        let memory = PagedMemory::new(weights, extra(&tensors)?);
        Ok((Store { tensors, by_name, digests, memory, base }, judgement))
    }

    /// All tensors, the model's first, in file order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// All tensors in name order.
    pub fn in_name_order(&self) -> impl Iterator<Item = &Tensor> {
        self.by_name.iter().map(|index| &self.tensors[*index as usize])
    }

    /// Index of the tensor with this name.
    pub fn position(&self, name: &str) -> Option<usize> {
        let found = self.by_name.binary_search_by(|index| (*self.tensors[*index as usize].name).cmp(name)).ok()?;
        Some(self.by_name[found] as usize)
    }

    /// The tensor with this name.
    pub fn find(&self, name: &str) -> Option<&Tensor> {
        Some(&self.tensors[self.position(name)?])
    }

    /// A copy of the bytes `range` of a tensor, cut at its end. `page` is a view of the shared words.
    pub fn read(&self, tensor: &Tensor, range: Range<usize>, page: Page<'_>) -> Vec<u8> {
        self.read_in(&self.memory, tensor, range, page)
    }

    /// The same, from other contents of all tensors; those in shared words are always the current ones.
    pub fn read_in(&self, memory: &PagedMemory, tensor: &Tensor, range: Range<usize>, page: Page<'_>) -> Vec<u8> {
        let end = range.end.min(tensor.bytes as usize);
        let range = range.start.min(end)..end;
        match tensor.location {
            Location::Memory(address) => memory.bytes(address + range.start, range.len()).to_vec(),
            Location::Shared(word) => page.shared_bytes(word * 4 + range.start..word * 4 + range.end),
        }
    }

    /// The bytes of a tensor; `None` for one in shared words.
    pub fn bytes(&self, tensor: &Tensor) -> Option<&[u8]> {
        Some(self.memory.bytes(tensor.address()?, tensor.bytes as usize))
    }

    /// The memory that holds the tensors.
    pub fn memory(&self) -> &PagedMemory {
        &self.memory
    }

    /// The memory that holds the tensors, to change it. [`Store::drop_digests`] must follow.
    pub fn memory_mut(&mut self) -> &mut PagedMemory {
        &mut self.memory
    }

    /// Replaces the contents of all tensors.
    pub fn replace_memory(&mut self, memory: PagedMemory) {
        self.memory = memory;
        self.digests.iter_mut().for_each(|digest| *digest = OnceLock::new());
    }

    /// The memory as it was before any change.
    ///
    /// # Errors
    /// If the file cannot be mapped again.
    pub fn base_memory(&self) -> io::Result<PagedMemory> {
        let extra = extra(&self.tensors).map_err(|error| io::Error::other(error.to_string()))?;
        Ok(PagedMemory::new((self.base)()?, extra))
    }

    /// Moves the tensors to this memory file, each at its address.
    ///
    /// # Errors
    /// If the file cannot have this size, or cannot be mapped.
    pub fn share(&mut self, file: BorrowedFd<'_>) -> io::Result<()> {
        self.memory.move_to(file)
    }

    /// Number of bytes of all tensors that differ from the file of the model.
    ///
    /// # Errors
    /// If the file cannot be mapped again.
    pub fn differing_bytes(&self) -> io::Result<u64> {
        Ok(self.memory.differing_bytes(&self.base_memory()?))
    }

    /// Drops the digests of the tensors with bytes in these pages, because they have changed.
    pub fn drop_digests(&mut self, pages: impl Iterator<Item = u32>) {
        let mut pages: Vec<usize> = pages.map(|page| page as usize * memory::PAGE).collect();
        pages.sort_unstable();
        for (tensor, digest) in self.tensors.iter().zip(&mut self.digests) {
            let Some(start) = tensor.address() else { continue };
            let first = pages.partition_point(|page| page + memory::PAGE <= start);
            if pages.get(first).is_some_and(|page| *page < start + tensor.bytes as usize) {
                *digest = OnceLock::new();
            }
        }
    }

    /// SHA-256 of the bytes of the tensor at this index. It is computed once, and again after a change.
    pub fn sha256(&self, index: usize, page: Page<'_>) -> [u8; 32] {
        let tensor = &self.tensors[index];
        match self.bytes(tensor) {
            Some(bytes) => *self.digests[index].get_or_init(|| Sha256::digest(bytes).into()),
            None => Sha256::digest(self.read(tensor, 0..tensor.bytes as usize, page)).into(),
        }
    }

    /// SHA-256 of the bytes of the tensor at this index in other contents of all tensors. It is computed only where they
    /// differ from the current ones.
    pub fn sha256_in(&self, memory: &PagedMemory, index: usize, page: Page<'_>) -> [u8; 32] {
        let tensor = &self.tensors[index];
        let Some(address) = tensor.address() else { return self.sha256(index, page) };
        let (len, current) = (tensor.bytes as usize, &self.memory);
        let bytes = memory.bytes(address, len);
        match bytes == current.bytes(address, len) {
            true => self.sha256(index, page),
            false => Sha256::digest(bytes).into(),
        }
    }

    /// Digest of the model: SHA-256 over all unprotected tensors in name order of name, 0, SHA-256 of the bytes.
    pub fn model_sha256(&self, page: Page<'_>) -> [u8; 32] {
        self.model_sha256_of(|index| self.sha256(index, page))
    }

    /// The same, of tensors with these SHA-256 by index.
    pub fn model_sha256_of(&self, sha256: impl Fn(usize) -> [u8; 32]) -> [u8; 32] {
        let mut hash = Sha256::new();
        let unprotected = |index: &&u32| !self.tensors[**index as usize].protected;
        for index in self.by_name.iter().filter(unprotected) {
            hash.update(self.tensors[*index as usize].name.as_bytes());
            hash.update([0]);
            hash.update(sha256(*index as usize));
        }
        hash.finalize().into()
    }

    /// Indices of the tensors in name order.
    pub fn positions_in_name_order(&self) -> impl Iterator<Item = usize> + '_ {
        self.by_name.iter().map(|index| *index as usize)
    }
}

/// Memory with the initial contents of the machine tensors that are not in the file of the model.
fn extra(tensors: &[Tensor]) -> Result<Mapping, LoadError> {
    let own = |tensor: &&Tensor| tensor.behind_model && tensor.address().is_some();
    let bytes: u64 = tensors.iter().filter(own).map(|tensor| tensor.bytes).sum();
    let mut extra = Mapping::zeroed(bytes as usize).map_err(LoadError::Memory)?;
    let mut rest = extra.bytes_mut();
    for tensor in tensors.iter().filter(own) {
        let (own, behind) = rest.split_at_mut(tensor.bytes as usize);
        if let Some(machine) = MACHINE_TENSORS.iter().find(|machine| *machine.name == *tensor.name) {
            machine.initialise(own);
        }
        rest = behind;
    }
    Ok(extra)
}

impl Tensor {
    /// Address of its bytes in the memory of the store; `None` for a tensor in shared words.
    pub fn address(&self) -> Option<usize> {
        match self.location {
            Location::Memory(address) => Some(address),
            Location::Shared(_) => None,
        }
    }

    /// The first of its shared words; `None` for a tensor in the memory of the store.
    pub fn shared_at(&self) -> Option<usize> {
        match self.location {
            Location::Memory(_) => None,
            Location::Shared(word) => Some(word),
        }
    }

    fn of_model(tensor: &gguf::TensorEntry<'_>, data_offset: u64, ours: bool) -> Result<Self, LoadError> {
        let machine = MACHINE_TENSORS.iter().find(|machine| machine.name == tensor.name);
        if let Some(wanted) = machine {
            let why = match (ours, wanted.fits(tensor)) {
                (false, _) => "has the name of a machine tensor, and vector_boot.layout is not 1",
                (true, false) => "does not have the type and shape of the machine tensor",
                (true, true) => "",
            };
            if !why.is_empty() {
                return Err(LoadError::NameTaken { name: tensor.name.to_string(), why });
            }
        }
        Ok(Tensor {
            name: tensor.name.into(),
            tensor_type: tensor.tensor_type,
            shape: tensor.shape().into(),
            bytes: tensor.bytes,
            protected: machine.is_some_and(|machine| machine.protected),
            behind_model: false,
            location: match machine.and_then(|machine| machine.shared_at) {
                Some(word) => Location::Shared(word),
                // The parser has proved that the data lies inside the mapping.
                None => Location::Memory((data_offset + tensor.offset) as usize),
            },
        })
    }

    fn of_machine(wanted: &machine_tensors::MachineTensor, address: usize) -> Self {
        Tensor {
            name: wanted.name.into(),
            tensor_type: wanted.tensor_type(),
            shape: [wanted.elements].into(),
            bytes: wanted.bytes(),
            protected: wanted.protected,
            behind_model: true,
            location: wanted.shared_at.map_or(Location::Memory(address), Location::Shared),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
