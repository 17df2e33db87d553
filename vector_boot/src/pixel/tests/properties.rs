//! Any pixels are a program or a fault.

use proptest::prelude::*;

use super::*;

fn machine(slots: &[Vec<u8>]) -> TestHost {
    let machine = TestHost { network: Some(vec![0.25; 5]), ..TestHost::default() }
        .with_kernels()
        .with("a", 3, 4, &ramp(12))
        .with("b", 4, 3, &ramp(12))
        .with("v", 1, 4, &ramp(4))
        .with("s", 1, 1, &[-0.5]);
    slots.iter().enumerate().fold(machine, |machine, (slot, program)| {
        machine.with_slot(&format!("evolved.{slot}"), &program[..program.len().min(SLOT_PIXELS * 3)])
    })
}

/// Pixels that mostly mean something.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let tensor = prop::sample::select(vec![b"a", b"b", b"v", b"s"]).prop_map(|name| vec![name[0], 0, 0, 250, 1, 0]);
    let plain = prop::sample::select(vec![3u8, 4, 5, 10, 11, 12, 13]).prop_map(|opcode| vec![250, opcode, 0]);
    let named = (prop::sample::select(vec![2u8, 6, 7, 8]), 0u8..4).prop_map(|(opcode, b)| vec![250, opcode, b]);
    let call = prop_oneof![0u8..8, 128u8..132].prop_map(|slot| vec![250, 9, slot]);
    let any = any::<[u8; 3]>().prop_map(|pixel| pixel.to_vec());
    let piece = prop_oneof![6 => tensor, 4 => plain, 3 => named, 1 => call, 1 => any, 1 => Just(vec![250, 255, 3])];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_program_ends_within_its_limits(
        program in prop_oneof![soup(), prop::collection::vec(any::<u8>(), 0..200)],
        slots in prop::collection::vec(soup(), 4),
    ) {
        let limits = ProgramLimits { instructions: 300, stack_bytes: 4096, output_bytes: 1000 };
        let outcome = run(&program, &mut machine(&slots), limits);
        match &outcome {
            Ok(outcome) => {
                prop_assert!(outcome.steps <= 300 && outcome.output.len() <= 1000);
                prop_assert!(outcome.pixels >= program.len() as u64 / 3);
                prop_assert!(numbers(&outcome.output).iter().all(|x| x.is_finite()));
                prop_assert!(!outcome.interrupts.contains(&0));
            }
            Err(fault) => {
                prop_assert!(fault.pixel < (program.len() / 3).max(1));
                use PixelErrorKind::{Malformed, Mismatch, NotFinite, UnknownTensor};
                prop_assert!([Malformed, UnknownTensor, Mismatch, NotFinite].contains(&fault.kind));
            }
        }
        prop_assert_eq!(outcome, run(&program, &mut machine(&slots), limits));
    }
}
