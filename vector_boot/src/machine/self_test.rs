//! The self-test: whether a slot that was just updated may be found good.

use super::inference::InferenceError;
use super::pixels::MachineHost;
use super::Machine;
use crate::pixel::{run, ProgramLimits};
use crate::protocol::RequestError;
use crate::tensor::Store;

/// Pushes the vector (3, 4, 0), divides it by its length, and gives the result out.
const PROGRAM: [u8; 21] = [
    0x00, 0x00, 0x40, 0x40, 0x00, 0x00, 0x80, 0x40, 0x00, 0x00, 0x00, 0x00, // 3, 4, 0
    250, 0x02, 1, // INPUT as f32
    250, 0x07, 2, // NORM by the length
    250, 0x0D, 0, // OUT
];
const EXPECTED: [f32; 3] = [0.6, 0.8, 0.0];
const TOLERANCE: f32 = 1e-6;

impl Machine {
    /// Tests the machine and notes the result in the shared words, and why it failed if it did.
    pub fn test_and_note(&self) {
        let result = self.self_test();
        if let Err(why) = &result {
            self.vitals().set_boot_problem(why);
        }
        self.vitals().set_self_test(Some(result.is_ok()));
    }

    /// Tests that the machine does what it is for: its journal takes changes, a program computes what it should, and the
    /// network gives finite numbers, if there is one.
    ///
    /// # Errors
    /// One sentence about what failed.
    pub fn self_test(&self) -> Result<(), String> {
        let lineage = self.lineage().map_err(|error| error.message)?;
        if let Some(why) = lineage.refusal() {
            return Err(format!("the journal takes no changes: {}", why.text));
        }
        let mut host = MachineHost { machine: self, lineage: &lineage };
        let outcome = run(&PROGRAM, &mut host, ProgramLimits::default())
            .map_err(|error| format!("a program of the self-test failed: {}", error.text))?;
        let values: Vec<f32> = outcome
            .output
            .chunks_exact(4)
            .map(|value| f32::from_le_bytes([value[0], value[1], value[2], value[3]]))
            .collect();
        let close = |(value, expected): (&f32, f32)| (value - expected).abs() <= TOLERANCE;
        if values.len() != EXPECTED.len() || !values.iter().zip(EXPECTED).all(close) {
            return Err(format!("a program of the self-test gave {values:?}, expected {EXPECTED:?}"));
        }
        self.test_network(lineage.store())
    }

    fn test_network(&self, store: &Store) -> Result<(), String> {
        match self.embed_texts(store, &["self-test".to_string()], true) {
            Err(InferenceError::Unsupported(_)) => Ok(()), // this model makes no embeddings
            Err(error) => Err(format!("the network failed in the self-test: {}", RequestError::from(error).message)),
            Ok(made) if made.values.is_empty() || made.values.iter().any(|value| !value.is_finite()) => {
                Err("the network gave no finite numbers in the self-test".into())
            }
            Ok(_) => Ok(()),
        }
    }
}
