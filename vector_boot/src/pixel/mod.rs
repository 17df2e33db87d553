//! The pixel interpreter: it runs programs of RGB pixels, which compute with the tensors and the network of the model.
//!
//! A pixel with r = 250 is an instruction, g its opcode and b its immediate; every other pixel appends its three bytes
//! to the input buffer. The instructions are in `spec/pixels.toml`, from which the enumeration here is generated;
//! `spec/pixels.md` defines each of them. There are no jumps, so every program ends.

mod functions;
mod instruction;
mod memory;
mod operations;
mod program;
mod reduction;
mod run;
mod value;

pub use instruction::{Act, DecodeError, Input, Instruction, Norm, Reduce, Slot, Vector};
pub use program::{Step, SLOT_BYTES, SLOT_PIXELS};
pub use run::run;
pub use value::Shape;

/// What is wrong with a program, or why the host refuses something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PixelErrorKind {
    /// The pixels do not encode a program.
    Malformed,
    /// There is no such tensor.
    UnknownTensor,
    /// Shapes, types, lengths or limits do not fit.
    Mismatch,
    /// A value of the result is infinite or not a number.
    NotFinite,
    /// The model cannot do that.
    Unsupported,
    /// The request was cancelled.
    Cancelled,
}

/// Why an instruction cannot be executed, or why the host refuses something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PixelError {
    /// What is wrong.
    pub kind: PixelErrorKind,
    /// One sentence for a person.
    pub text: String,
}

/// The machine that a program runs on, as the interpreter sees it.
pub trait Host {
    /// Rows and columns of a tensor: ne1 (and all further dimensions) by ne0.
    ///
    /// # Errors
    /// `UnknownTensor`, or `Mismatch` for a type that cannot be decoded.
    fn shape(&mut self, name: &str) -> Result<Shape, PixelError>;

    /// Decodes a tensor into the elements of the shape that [`Host::shape`] returned.
    ///
    /// # Errors
    /// As [`Host::shape`].
    fn tensor(&mut self, name: &str, values: &mut [f32]) -> Result<(), PixelError>;

    /// The bytes of a slot: a little-endian u32 number of pixels, then the pixels.
    fn program(&mut self, slot: Slot) -> Vec<u8>;

    /// The embedding of a text.
    ///
    /// # Errors
    /// `Unsupported` without a network that embeds; `NotFinite` or `Cancelled`.
    fn network(&mut self, text: &str) -> Result<Vec<f32>, PixelError>;

    /// Called before every instruction, and regularly during a long one.
    ///
    /// # Errors
    /// `Cancelled` if the program must stop.
    fn proceed(&mut self) -> Result<(), PixelError> {
        Ok(())
    }
}

/// What a program may use.
#[derive(Debug, Clone, Copy)]
pub struct ProgramLimits {
    /// Number of instructions, those of called programs included.
    pub instructions: u64,
    /// Bytes of the stack, of a result that is being computed, and of the input buffer, all together.
    pub stack_bytes: usize,
    /// Bytes of the result.
    pub output_bytes: usize,
}

impl Default for ProgramLimits {
    /// 65,536 instructions, 256 MiB of stack, and as much result as the blob of a reply holds.
    fn default() -> Self {
        ProgramLimits { instructions: 65_536, stack_bytes: 256 << 20, output_bytes: crate::protocol::BLOB_LIMIT }
    }
}

/// What a program did that ran to its end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProgramOutcome {
    /// Instructions executed, those of called programs included.
    pub steps: u64,
    /// Pixels processed, those of called programs included.
    pub pixels: u64,
    /// What OUT and NEURAL_EXEC produced, little-endian f32.
    pub output: Vec<u8>,
    /// Neural interrupts to raise, in order.
    pub interrupts: Vec<u8>,
}

/// Why a program failed. It has changed nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramError {
    /// Index of the pixel in the program that was run, also for an error in a program that it called.
    pub pixel: usize,
    /// What is wrong.
    pub kind: PixelErrorKind,
    /// One sentence for a person. It names the pixel, and for a called program the slot and the pixel in it.
    pub text: String,
}

fn refuse<T>(kind: PixelErrorKind, text: impl Into<String>) -> Result<T, PixelError> {
    Err(PixelError { kind, text: text.into() })
}

#[cfg(test)]
mod tests;
