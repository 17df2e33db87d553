//! Writes a GGUF version 3 file: alignment 4096, the last tensor padded too, so that no two tensors share a page.

/// Alignment of the tensors' data.
const ALIGNMENT: usize = 4096;

/// Value types of the format.
const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// A file that is being written.
#[derive(Default)]
pub struct File {
    entries: Vec<u8>,
    entry_count: u64,
    tensors: Vec<u8>,
    tensor_count: u64,
    data: Vec<u8>,
}

impl File {
    fn entry(&mut self, key: &str, value_type: u32, value: &[u8]) {
        self.entry_count += 1;
        push_text(&mut self.entries, key);
        self.entries.extend(value_type.to_le_bytes());
        self.entries.extend(value);
    }

    /// Adds an unsigned integer.
    pub fn u32(&mut self, key: &str, value: u32) {
        self.entry(key, U32, &value.to_le_bytes());
    }

    /// Adds a float.
    pub fn f32(&mut self, key: &str, value: f32) {
        self.entry(key, F32, &value.to_le_bytes());
    }

    /// Adds a truth value.
    pub fn boolean(&mut self, key: &str, value: bool) {
        self.entry(key, BOOL, &[u8::from(value)]);
    }

    /// Adds a text.
    pub fn string(&mut self, key: &str, value: &str) {
        let mut bytes = Vec::new();
        push_text(&mut bytes, value);
        self.entry(key, STRING, &bytes);
    }

    /// Adds a list of texts.
    pub fn strings(&mut self, key: &str, values: &[String]) {
        let mut bytes = array_head(STRING, values.len());
        values.iter().for_each(|value| push_text(&mut bytes, value));
        self.entry(key, ARRAY, &bytes);
    }

    /// Adds a list of integers.
    pub fn integers(&mut self, key: &str, values: &[i32]) {
        let mut bytes = array_head(I32, values.len());
        values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        self.entry(key, ARRAY, &bytes);
    }

    /// Adds a tensor; `shape` has the row length first, `type_id` is ggml's number.
    pub fn tensor(&mut self, name: &str, shape: &[u64], type_id: u32, bytes: &[u8]) {
        self.tensor_count += 1;
        push_text(&mut self.tensors, name);
        self.tensors.extend((shape.len() as u32).to_le_bytes());
        shape.iter().for_each(|elements| self.tensors.extend(elements.to_le_bytes()));
        self.tensors.extend(type_id.to_le_bytes());
        self.tensors.extend((self.data.len() as u64).to_le_bytes());
        self.data.extend(bytes);
        self.data.resize(self.data.len().next_multiple_of(ALIGNMENT), 0);
    }

    /// The bytes of the file.
    pub fn finish(mut self) -> Vec<u8> {
        self.u32("general.alignment", ALIGNMENT as u32);
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(self.tensor_count.to_le_bytes());
        file.extend(self.entry_count.to_le_bytes());
        file.extend(self.entries);
        file.extend(self.tensors);
        file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
        file.extend(self.data);
        file
    }
}

fn push_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn array_head(value_type: u32, len: usize) -> Vec<u8> {
    let mut bytes = value_type.to_le_bytes().to_vec();
    bytes.extend((len as u64).to_le_bytes());
    bytes
}
