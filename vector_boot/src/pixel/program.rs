//! Programs: from bytes to steps.

use super::instruction::{Instruction, INSTRUCTION};
use super::{refuse, Refusal, MALFORMED};

/// Bytes of a slot.
pub const SLOT_BYTES: usize = 4096;
/// Pixels that fit a slot behind their number.
pub const SLOT_PIXELS: usize = (SLOT_BYTES - 4) / 3;

/// What one or, behind a LIT, two pixels mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Three bytes for the input buffer.
    Data([u8; 3]),
    /// LIT and the pixel behind it.
    Literal([u8; 3]),
    /// Any other instruction.
    Execute(Instruction),
}

/// The steps of a program, each with the index of its first pixel.
pub struct Steps<'a> {
    pixels: &'a [[u8; 3]],
    at: usize,
}

/// Reads pixels of 3 bytes.
///
/// # Errors
/// A [`Refusal`] with the index of the pixel, if the last one is incomplete.
pub fn steps(program: &[u8]) -> Result<Steps<'_>, (usize, Refusal)> {
    let (pixels, rest) = program.as_chunks::<3>();
    if !rest.is_empty() {
        let text = format!("a program is pixels of 3 bytes, and {} bytes are no multiple of 3", program.len());
        // The fault names a pixel that is there, where one is.
        return Err((pixels.len().saturating_sub(1), Refusal { code: MALFORMED, text }));
    }
    Ok(Steps { pixels, at: 0 })
}

/// Checks that every pixel is one of a program.
///
/// # Errors
/// The index of the first pixel that is not, and why.
pub fn check(program: &[u8]) -> Result<(), (usize, Refusal)> {
    for (pixel, step) in steps(program)? {
        step.map_err(|refusal| (pixel, refusal))?;
    }
    Ok(())
}

/// The pixels in a slot.
///
/// # Errors
/// If the slot is empty, or holds a number of pixels that does not fit it.
pub fn pixels_of_slot(slot: &[u8]) -> Result<&[u8], Refusal> {
    let Some((count, pixels)) = slot.split_first_chunk::<4>() else {
        return refuse(MALFORMED, "a slot is too short for its number of pixels");
    };
    let count = u32::from_le_bytes(*count) as usize;
    if count == 0 {
        return refuse(super::UNFIT, "the slot is empty");
    }
    match count.checked_mul(3).and_then(|bytes| pixels.get(..bytes)).filter(|_| count <= SLOT_PIXELS) {
        Some(program) => Ok(program),
        None => refuse(MALFORMED, format!("its number of pixels is {count}, and a slot holds {SLOT_PIXELS}")),
    }
}

impl Iterator for Steps<'_> {
    type Item = (usize, Result<Step, Refusal>);

    fn next(&mut self) -> Option<Self::Item> {
        let (at, pixel) = (self.at, *self.pixels.get(self.at)?);
        self.at += 1;
        let [INSTRUCTION, opcode, immediate] = pixel else { return Some((at, Ok(Step::Data(pixel)))) };
        let step = match Instruction::decode(opcode, immediate) {
            Ok(Instruction::Lit) => {
                let literal = self.pixels.get(self.at).map(|pixel| Step::Literal(*pixel));
                self.at += 1;
                literal.ok_or_else(|| Refusal { code: MALFORMED, text: "LIT is the last pixel".into() })
            }
            Ok(instruction) => Ok(Step::Execute(instruction)),
            Err(why) => Err(Refusal { code: MALFORMED, text: why.to_string() }),
        };
        Some((at, step))
    }
}
