#![no_main]
//! A program of any pixels, with any pixels in the slots, ends within its limits, or with an error that names a pixel.

use libfuzzer_sys::fuzz_target;
use vector_boot::pixel::{
    run, Host, PixelError, PixelErrorKind, ProgramError, ProgramLimits, ProgramOutcome, Shape, Slot, SLOT_BYTES,
};

const LIMITS: ProgramLimits = ProgramLimits { instructions: 256, stack_bytes: 32 << 10, output_bytes: 4 << 10 };

fuzz_target!(|data: &[u8]| {
    let (slot, program) = data.split_at(data.len() / 2);
    let outcome = run(program, &mut FuzzHost(slot), LIMITS);
    match &outcome {
        Ok(ProgramOutcome { steps, output, .. }) => {
            assert!(*steps <= LIMITS.instructions && output.len() <= LIMITS.output_bytes);
            let mut numbers = output.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
            assert!(numbers.all(f32::is_finite));
        }
        Err(ProgramError { pixel, text, .. }) => assert!(*pixel < (program.len() / 3).max(1) && !text.contains('\n')),
    }
    assert_eq!(outcome, run(program, &mut FuzzHost(slot), LIMITS));
});

/// Tensors whose names are their shapes, two digits; one slot for all.
struct FuzzHost<'a>(&'a [u8]);

impl Host for FuzzHost<'_> {
    fn shape(&mut self, name: &str) -> Result<Shape, PixelError> {
        let unknown = || PixelError { kind: PixelErrorKind::UnknownTensor, text: "there is no such tensor".into() };
        let [rows, columns] = *name.as_bytes() else { return Err(unknown()) };
        let size = |digit: u8| digit.is_ascii_digit().then(|| usize::from(digit - b'0'));
        let (rows, columns) = size(rows).zip(size(columns)).ok_or_else(unknown)?;
        Ok(Shape { rows, columns })
    }

    fn tensor(&mut self, _: &str, values: &mut [f32]) -> Result<(), PixelError> {
        values.iter_mut().enumerate().for_each(|(index, value)| *value = (index as f32).mul_add(0.75, -4.0));
        Ok(())
    }

    fn program(&mut self, slot: Slot) -> Vec<u8> {
        match slot {
            Slot::Evolved(number) if number > 3 => self.0[..self.0.len().min(SLOT_BYTES)].to_vec(),
            _ => {
                let pixels = &self.0[..self.0.len().min(SLOT_BYTES - 4) / 3 * 3];
                [&(pixels.len() as u32 / 3).to_le_bytes(), pixels].concat()
            }
        }
    }

    fn network(&mut self, text: &str) -> Result<Vec<f32>, PixelError> {
        Ok(vec![text.len() as f32; 8])
    }
}
