//! Decodes programs: from bytes to steps.

use super::instruction::{Instruction, INSTRUCTION};
use super::{refuse, PixelError, PixelErrorKind};

/// Bytes of a slot.
pub const SLOT_BYTES: usize = 4096;
/// Pixels that fit a slot after their number.
pub const SLOT_PIXELS: usize = (SLOT_BYTES - 4) / 3;

/// The meaning of one pixel, or of a LIT and the pixel after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Three bytes for the input buffer.
    Data([u8; 3]),
    /// LIT: the pixel after it, which is data.
    Literal([u8; 3]),
    /// Any other instruction.
    Execute(Instruction),
}

/// The steps of a program, each with the index of its first pixel.
pub struct Steps<'a> {
    pixels: &'a [[u8; 3]],
    at: usize,
}

/// An error in a program, and the index of the pixel.
pub struct ErrorAt {
    /// Index of the pixel.
    pub pixel: usize,
    /// What is wrong.
    pub error: PixelError,
}

/// Decodes pixels of 3 bytes.
///
/// # Errors
/// If the last pixel is incomplete.
pub fn steps(program: &[u8]) -> Result<Steps<'_>, ErrorAt> {
    let (pixels, rest) = program.as_chunks::<3>();
    if !rest.is_empty() {
        let text = format!("a program consists of pixels of 3 bytes, but {} is not a multiple of 3", program.len());
        // The last complete pixel, if there is one.
        let error = PixelError { kind: PixelErrorKind::Malformed, text };
        return Err(ErrorAt { pixel: pixels.len().saturating_sub(1), error });
    }
    Ok(Steps { pixels, at: 0 })
}

/// Checks that every pixel can be decoded.
///
/// # Errors
/// For the first pixel that cannot be.
pub fn check(program: &[u8]) -> Result<(), ErrorAt> {
    for (pixel, step) in steps(program)? {
        step.map_err(|error| ErrorAt { pixel, error })?;
    }
    Ok(())
}

/// The pixels in a slot.
///
/// # Errors
/// If the slot is empty, or its number of pixels is too large.
pub fn pixels_of_slot(slot: &[u8]) -> Result<&[u8], PixelError> {
    let Some((count, pixels)) = slot.split_first_chunk::<4>() else {
        return refuse(PixelErrorKind::Malformed, "the slot is too short to hold a number of pixels");
    };
    let count = u32::from_le_bytes(*count) as usize;
    if count == 0 {
        return refuse(super::PixelErrorKind::Mismatch, "the slot is empty");
    }
    match count.checked_mul(3).and_then(|bytes| pixels.get(..bytes)).filter(|_| count <= SLOT_PIXELS) {
        Some(program) => Ok(program),
        None => refuse(
            PixelErrorKind::Malformed,
            format!("the slot says that it holds {count} pixels, but the limit is {SLOT_PIXELS}"),
        ),
    }
}

impl Iterator for Steps<'_> {
    type Item = (usize, Result<Step, PixelError>);

    fn next(&mut self) -> Option<Self::Item> {
        let (at, pixel) = (self.at, *self.pixels.get(self.at)?);
        self.at += 1;
        let [INSTRUCTION, opcode, immediate] = pixel else { return Some((at, Ok(Step::Data(pixel)))) };
        let step = match Instruction::decode(opcode, immediate) {
            Ok(Instruction::Lit) => {
                let literal = self.pixels.get(self.at).map(|pixel| Step::Literal(*pixel));
                self.at += 1;
                literal
                    .ok_or_else(|| PixelError { kind: PixelErrorKind::Malformed, text: "LIT is the last pixel".into() })
            }
            Ok(instruction) => Ok(Step::Execute(instruction)),
            Err(why) => Err(PixelError { kind: PixelErrorKind::Malformed, text: why.to_string() }),
        };
        Some((at, step))
    }
}
