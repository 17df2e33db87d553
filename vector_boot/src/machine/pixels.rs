//! The request `execute_pixels`, and the machine as the program sees it.

use serde_json::json;

use super::inference::InferenceError;
use super::Machine;
use crate::element;
use crate::gguf::TensorType;
use crate::hw_mmio::word;
use crate::lineage::Lineage;
use crate::pixel::{run, Host, PixelError, PixelErrorKind, ProgramLimits, Shape, Slot};
use crate::protocol::{code, Blob, Reply, Request, RequestError};
use crate::tensor::Tensor;

impl Machine {
    pub(super) fn execute_pixels(&self, request: &Request) -> Result<Reply, RequestError> {
        request.params.clone().finish()?;
        let Blob::Bytes(program) = &request.blob else {
            request.no_blob()?;
            return Err(RequestError::new(code::UNUSABLE_BLOB, "the program is missing: send its pixels as the blob"));
        };
        if program.len() % 3 != 0 {
            return Err(RequestError::new(
                code::MISMATCH,
                format!("a program consists of pixels of 3 bytes, but {} is not a multiple of 3", program.len()),
            ));
        }
        let lineage = self.lineage()?;
        let mut host = MachineHost { machine: self, lineage: &lineage };
        let outcome = run(program, &mut host, ProgramLimits::default())?;
        let page = self.page();
        page.set_wide(word::PIXELS_PROCESSED, page.get_wide(word::PIXELS_PROCESSED) + outcome.pixels);
        self.vitals().count_program();
        outcome.interrupts.iter().for_each(|vector| self.take_interrupt(*vector));
        Ok(Reply { result: json!({"result": 1, "steps": outcome.steps}), blob: outcome.output })
    }
}

/// The machine as a program sees it.
pub(super) struct MachineHost<'a> {
    pub(super) machine: &'a Machine,
    pub(super) lineage: &'a Lineage,
}

impl MachineHost<'_> {
    fn find(&self, name: &str) -> Result<&Tensor, PixelError> {
        let unknown =
            || PixelError { kind: PixelErrorKind::UnknownTensor, text: format!("there is no tensor {name:?}") };
        self.lineage.store().find(name).ok_or_else(unknown)
    }
}

impl Host for MachineHost<'_> {
    fn shape(&mut self, name: &str) -> Result<Shape, PixelError> {
        let tensor = self.find(name)?;
        if element::dequantize(tensor.tensor_type, &[], &mut []).is_err() && !is_plain(tensor.tensor_type) {
            let text = format!("{name:?} is of type {}, which cannot be decoded", tensor.tensor_type.name());
            return Err(PixelError { kind: PixelErrorKind::Mismatch, text });
        }
        // The parser has bounded all shapes by the size of the file.
        let columns = tensor.shape.first().map_or(1, |columns| *columns as usize);
        let rows = tensor.shape.iter().skip(1).product::<u64>() as usize;
        Ok(Shape { rows, columns })
    }

    fn tensor(&mut self, name: &str, values: &mut [f32]) -> Result<(), PixelError> {
        let tensor = self.find(name)?;
        let read; // a tensor in shared words is copied first
        let bytes = match self.lineage.store().bytes(tensor) {
            Some(bytes) => bytes,
            None => {
                read = self.lineage.store().read(tensor, 0..tensor.bytes as usize, self.machine.page());
                &read
            }
        };
        if element::dequantize(tensor.tensor_type, bytes, values).is_err() {
            decode_plain(tensor.tensor_type, bytes, values);
        }
        Ok(())
    }

    fn program(&mut self, slot: Slot) -> Vec<u8> {
        let bytes = self.lineage.store().find(&slot.to_string()).and_then(|tensor| self.lineage.store().bytes(tensor));
        bytes.unwrap_or_default().to_vec()
    }

    fn network(&mut self, text: &str) -> Result<Vec<f32>, PixelError> {
        let texts = [text.to_string()];
        let embeddings = self.machine.embed_texts(self.lineage.store(), &texts, true);
        Ok(embeddings?.values)
    }

    fn proceed(&mut self) -> Result<(), PixelError> {
        match self.machine.is_cancelled() {
            true => Err(InferenceError::Cancelled.into()),
            false => Ok(()),
        }
    }
}

const I8: u32 = 24;
const I16: u32 = 25;
const I32: u32 = 26;
const I64: u32 = 27;
const F64: u32 = 28;

/// Whether a type has one integer or f64 per element, which is rounded to f32.
fn is_plain(tensor_type: TensorType) -> bool {
    (I8..=F64).contains(&tensor_type.id())
}

fn decode_plain(tensor_type: TensorType, bytes: &[u8], values: &mut [f32]) {
    fn each<const N: usize>(bytes: &[u8], values: &mut [f32], decode: impl Fn([u8; N]) -> f32) {
        for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(N)) {
            *value = bytes.try_into().map_or(0.0, &decode);
        }
    }
    match tensor_type.id() {
        I8 => each(bytes, values, |bytes| f32::from(i8::from_le_bytes(bytes))),
        I16 => each(bytes, values, |bytes| f32::from(i16::from_le_bytes(bytes))),
        I32 => each(bytes, values, |bytes| i32::from_le_bytes(bytes) as f32),
        I64 => each(bytes, values, |bytes| i64::from_le_bytes(bytes) as f32),
        _ => each(bytes, values, |bytes| f64::from_le_bytes(bytes) as f32),
    }
}
