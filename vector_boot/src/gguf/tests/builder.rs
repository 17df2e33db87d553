//! Writes GGUF files for tests, valid and invalid ones.

/// A metadata entry: key, type id and the value's raw bytes.
#[derive(Debug, Clone)]
pub struct Entry {
    pub key: Vec<u8>,
    pub value_type: u32,
    pub value: Vec<u8>,
}

impl Entry {
    pub fn new(key: &str, value_type: u32, value: &[u8]) -> Self {
        Entry { key: key.into(), value_type, value: value.into() }
    }

    pub fn u32(key: &str, value: u32) -> Self {
        Entry::new(key, 4, &value.to_le_bytes())
    }

    pub fn text(key: &str, value: &[u8]) -> Self {
        Entry::new(key, 8, &string(value))
    }

    pub fn array(key: &str, element_type: u32, count: u64, elements: &[u8]) -> Self {
        let value = [&element_type.to_le_bytes()[..], &count.to_le_bytes(), elements].concat();
        Entry::new(key, 9, &value)
    }
}

/// A tensor entry; `offset` None means: where it belongs.
#[derive(Debug, Clone)]
pub struct Tensor {
    pub name: Vec<u8>,
    pub dims: Vec<u64>,
    pub type_id: u32,
    pub bytes: u64,
    pub offset: Option<u64>,
}

impl Tensor {
    /// An F32 tensor of one dimension.
    pub fn f32(name: &str, elements: u64) -> Self {
        Tensor { name: name.into(), dims: vec![elements], type_id: 0, bytes: elements * 4, offset: None }
    }
}

#[derive(Debug, Clone)]
pub struct File {
    pub version: u32,
    pub entries: Vec<Entry>,
    pub tensors: Vec<Tensor>,
    pub alignment: u64,
    pub tensor_count: Option<u64>,
    pub metadata_count: Option<u64>,
}

impl Default for File {
    fn default() -> Self {
        let entries = vec![Entry::text("general.architecture", b"test")];
        let tensors = vec![Tensor::f32("a.weight", 3), Tensor::f32("b.weight", 8)];
        File { version: 3, entries, tensors, alignment: 32, tensor_count: None, metadata_count: None }
    }
}

impl File {
    pub fn bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        file.extend(self.metadata_count.unwrap_or(self.entries.len() as u64).to_le_bytes());
        for entry in &self.entries {
            file.extend(string(&entry.key));
            file.extend(entry.value_type.to_le_bytes());
            file.extend(&entry.value);
        }
        let mut end = 0u64;
        for tensor in &self.tensors {
            file.extend(string(&tensor.name));
            file.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|dim| file.extend(dim.to_le_bytes()));
            file.extend(tensor.type_id.to_le_bytes());
            file.extend(tensor.offset.unwrap_or(end).to_le_bytes());
            end += tensor.bytes.next_multiple_of(self.alignment);
        }
        let start = (file.len() as u64).next_multiple_of(self.alignment);
        file.resize((start + end) as usize, 0);
        file
    }
}

pub fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes()[..], bytes].concat()
}
