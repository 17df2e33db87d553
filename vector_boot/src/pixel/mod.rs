//! The pixel machine: programs of RGB pixels that compute with the tensors and the network of the running model.
//!
//! A pixel with r = 250 is an instruction, g its opcode and b its immediate; every other pixel appends its three bytes
//! to the input buffer. The instructions are in `spec/pixels.toml`, from which the enumeration here is generated;
//! `spec/pixels.md` says what each does to the last detail. There are no jumps: a program ends.

mod functions;
mod instruction;
mod memory;
mod operations;
mod program;
mod reduction;
mod run;
mod value;

pub use instruction::{Act, Input, Instruction, Malformed, Norm, Reduce, Slot, Vector};
pub use program::{Step, SLOT_BYTES, SLOT_PIXELS};
pub use run::run;
pub use value::Shape;

/// What a host refuses, or why a program cannot go on: a code of the protocol and one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Code of the protocol.
    pub code: i64,
    /// One sentence for a person.
    pub text: String,
}

/// What a program sees of the machine it runs on.
pub trait Host {
    /// Rows and columns of a tensor: ne1 (and all further dimensions) by ne0.
    ///
    /// # Errors
    /// 1001 for an unknown tensor, 1004 for one whose type has no decoder.
    fn shape(&mut self, name: &str) -> Result<Shape, Refusal>;

    /// Decodes a tensor into as many elements as [`Host::shape`] announced, for which the program has paid.
    ///
    /// # Errors
    /// As [`Host::shape`].
    fn tensor(&mut self, name: &str, values: &mut [f32]) -> Result<(), Refusal>;

    /// The bytes of a slot: a little-endian u32 number of pixels, then the pixels.
    fn program(&mut self, slot: Slot) -> Vec<u8>;

    /// The embedding of a text.
    ///
    /// # Errors
    /// 1018 without a network that embeds, and whatever the network says.
    fn network(&mut self, text: &str) -> Result<Vec<f32>, Refusal>;

    /// Asked before every instruction, and now and then during a long one.
    ///
    /// # Errors
    /// Why the program must stop.
    fn proceed(&mut self) -> Result<(), Refusal> {
        Ok(())
    }
}

/// How much a program may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Instructions, those of called programs included.
    pub instructions: u64,
    /// Bytes of the stack, of a result in the making and of the input buffer, all together.
    pub stack_bytes: usize,
    /// Bytes of the result.
    pub output_bytes: usize,
}

impl Default for Limits {
    /// 65,536 instructions, 256 MiB of stack, and as much result as the blob of a reply holds.
    fn default() -> Self {
        Limits { instructions: 65_536, stack_bytes: 256 << 20, output_bytes: 1 << 20 }
    }
}

/// What a program that succeeded has done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Instructions executed, those of called programs included.
    pub steps: u64,
    /// Pixels processed, those of called programs included.
    pub pixels: u64,
    /// What OUT and NEURAL_EXEC produced, little-endian f32.
    pub output: Vec<u8>,
    /// Neural interrupts to raise, in order.
    pub interrupts: Vec<u8>,
}

/// Why a program failed. Nothing of what it did remains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Index of the pixel in the program that was run, also where the fault lies in one that it called.
    pub pixel: usize,
    /// Code of the protocol.
    pub code: i64,
    /// One sentence for a person, which names the pixel, and inside a call the slot and the pixel there.
    pub text: String,
}

/// The pixels do not encode a program.
const MALFORMED: i64 = -32602;
/// No such tensor.
const UNKNOWN_TENSOR: i64 = 1001;
/// Shapes, lengths or limits do not fit.
const UNFIT: i64 = 1004;
/// A value of the result is infinite or not a number.
const NOT_FINITE: i64 = 1005;

fn refuse<T>(code: i64, text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { code, text: text.into() })
}

#[cfg(test)]
mod tests;
