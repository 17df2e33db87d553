//! What makes a program fail, and at which pixel.

use super::*;

fn fault(machine: &mut TestHost, program: &[u8]) -> (usize, PixelErrorKind, String) {
    let ProgramError { pixel, kind, text } = machine.run(program).unwrap_err();
    assert!(text.starts_with(&format!("pixel {pixel}: ")) && !text.contains('\n'), "{text}");
    (pixel, kind, text)
}

#[track_caller]
fn faults(machine: &mut TestHost, program: &[u8], pixel: usize, kind: PixelErrorKind) {
    let (found, found_kind, text) = fault(machine, program);
    assert_eq!((found, found_kind), (pixel, kind), "{text}");
}

fn machine() -> TestHost {
    TestHost::default()
        .with("m", 2, 3, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        .with("v", 1, 4, &[1.0; 4])
        .with("huge", 1, 2, &[3e38, 3e38])
        .with("nan", 1, 3, &[1.0, f32::NAN, 2.0])
}

#[test]
fn malformed_pixels_stop_a_program_before_it_runs() {
    for wrong in [[250, 14, 0], [250, 0, 1], [250, 1, 1], [250, 2, 2], [250, 6, 5], [250, 7, 4], [250, 8, 4]] {
        let mut machine = machine();
        let program = [program(&["m"], &[]), wrong.to_vec()].concat();
        faults(&mut machine, &program, 2, PixelErrorKind::Malformed);
        assert_eq!(machine.decoded, 0);
    }
    for immediate in [8, 127, 136, 255] {
        faults(&mut machine(), &[250, 9, immediate], 0, PixelErrorKind::Malformed);
    }
    faults(&mut machine(), &[1, 2, 3, 250, 0, 0], 1, PixelErrorKind::Malformed);
    faults(&mut machine(), &[250, 0, 0, 250, 0, 0, 250, 0, 0], 2, PixelErrorKind::Malformed);
    faults(&mut machine(), &[1, 2, 3, 4], 0, PixelErrorKind::Malformed);
}

#[test]
fn the_stack_never_underflows() {
    for (opcode, immediate) in [(3, 0), (4, 0), (5, 0), (6, 0), (7, 0), (8, 0), (10, 0), (11, 0), (12, 0), (13, 0)] {
        faults(&mut machine(), &[250, opcode, immediate], 0, PixelErrorKind::Mismatch);
    }
    for opcode in [3, 4, 5, 12] {
        faults(&mut machine(), &program(&["m"], &[(opcode, 0)]), 2, PixelErrorKind::Mismatch);
    }
}

#[test]
fn shapes_must_fit() {
    faults(&mut machine(), &program(&["m", "v"], &[(3, 0)]), 4, PixelErrorKind::Mismatch);
    faults(&mut machine(), &program(&["m", "m"], &[(3, 0)]), 4, PixelErrorKind::Mismatch);
    faults(&mut machine(), &program(&["m", "v"], &[(4, 0)]), 4, PixelErrorKind::Mismatch);
    faults(&mut machine(), &program(&["v", "m"], &[(5, 0)]), 4, PixelErrorKind::Mismatch);
}

#[test]
fn buffers_must_fit() {
    faults(&mut machine(), &[250, 2, 0], 0, PixelErrorKind::Mismatch);
    faults(&mut machine(), &[1, 2, 3, 250, 2, 1], 1, PixelErrorKind::Mismatch);
    faults(&mut machine(), &[b'x', 0, 0, 250, 1, 0], 1, PixelErrorKind::UnknownTensor);
    faults(&mut machine(), &[250, 1, 0], 0, PixelErrorKind::UnknownTensor);
    faults(&mut machine(), &[0, b'm', 0, 250, 1, 0], 1, PixelErrorKind::UnknownTensor);
    faults(&mut machine(), &[255, 0, 0, 250, 1, 0], 1, PixelErrorKind::UnknownTensor);
    faults(&mut machine(), &[255, 0, 0, 250, 255, 0], 1, PixelErrorKind::Mismatch);
    faults(&mut machine(), &[b'a', 0, 0, 250, 255, 0], 1, PixelErrorKind::Unsupported);
}

#[test]
fn nothing_that_is_not_finite_leaves() {
    faults(&mut machine(), &program(&["huge"], &[(8, 0), OUT]), 4, PixelErrorKind::NotFinite);
    // relu, max, argmax and a norm cannot hide it.
    for hiding in [(6, 0), (8, 2), (8, 3), (7, 0), (7, 1), (7, 2), (7, 3)] {
        faults(&mut machine(), &program(&["nan"], &[hiding, OUT]), 3, PixelErrorKind::NotFinite);
    }
    for norm in 0..3 {
        faults(&mut machine(), &program(&["huge"], &[(7, norm), OUT]), 4, PixelErrorKind::NotFinite);
    }
    let mut machine = TestHost { network: Some(vec![f32::INFINITY]), ..TestHost::default() };
    faults(&mut machine, &[b'a', 0, 0, 250, 255, 0], 1, PixelErrorKind::NotFinite);
    let mut machine = self::machine();
    assert!(machine.run(&program(&["nan"], &[(11, 0)])).is_ok());
}

#[test]
fn calls_are_at_most_four_deep_and_say_where_they_failed() {
    let chain = |depth: usize| {
        let machine = TestHost::default().with_slot("evolved.0", &[1, 2, 3]);
        (1..depth)
            .fold(machine, |machine, slot| machine.with_slot(&format!("evolved.{slot}"), &[250, 9, 127 + slot as u8]))
    };
    assert!(chain(4).run(&[250, 9, 131]).is_ok());
    faults(&mut chain(5), &[0, 0, 0, 250, 9, 132], 1, PixelErrorKind::Mismatch);
    let mut machine = TestHost::default()
        .with_slot("evolved.1", &[0, 0, 0, 250, 9, 6])
        .with_slot("kernel.6", &[0, 0, 0, 0, 0, 0, 250, 4, 0]);
    let (pixel, _, text) = fault(&mut machine, &[250, 9, 129]);
    assert_eq!(pixel, 0);
    assert!(text.starts_with("pixel 0: CALL evolved.1: pixel 1: CALL kernel.6: pixel 2: ADD: "), "{text}");
}

#[test]
fn slots_are_believed_nothing() {
    let slot =
        |bytes: &[u8]| TestHost { slots: [("evolved.0".to_owned(), bytes.to_vec())].into(), ..TestHost::default() };
    let call = [250, 9, 128];
    faults(&mut slot(&[0; SLOT_BYTES]), &call, 0, PixelErrorKind::Mismatch);
    faults(&mut slot(&[]), &call, 0, PixelErrorKind::Malformed);
    faults(&mut slot(&[1, 0, 0, 0, 7, 7]), &call, 0, PixelErrorKind::Malformed);
    for count in [1365, u32::MAX] {
        let mut bytes = count.to_le_bytes().to_vec();
        bytes.resize(2 * SLOT_BYTES, 0);
        faults(&mut slot(&bytes), &call, 0, PixelErrorKind::Malformed);
    }
    let mut full = 1364u32.to_le_bytes().to_vec();
    full.resize(SLOT_BYTES, 0);
    assert_eq!(slot(&full).run(&call).unwrap().pixels, 1365);
}

#[test]
fn instructions_are_counted_over_all_calls() {
    let lits = |count: usize| [250, 0, 0, 250, 0, 0].repeat(count);
    assert_eq!(TestHost::default().run(&lits(65_536)).unwrap().steps, 65_536);
    faults(&mut TestHost::default(), &lits(65_537), 2 * 65_536, PixelErrorKind::Mismatch);
    assert_eq!(TestHost::default().run(&[1, 2, 3].repeat(100_000)).unwrap().steps, 0);
    let mut machine = TestHost::default().with_slot("evolved.0", &lits(600));
    let call = [250, 9, 128];
    assert_eq!(machine.run(&call.repeat(109)).unwrap().steps, 109 * 601);
    faults(&mut machine, &call.repeat(110), 109, PixelErrorKind::Mismatch);
}

#[test]
fn memory_is_counted_before_it_is_taken() {
    let big = Shape { rows: 1 << 13, columns: 1 << 13 };
    let mut machine = TestHost::default();
    machine.tensors.insert("big".into(), (Shape { rows: big.rows, columns: big.columns + 1 }, vec![]));
    machine.tensors.insert("wild".into(), (Shape { rows: usize::MAX, columns: 3 }, vec![]));
    faults(&mut machine, &program(&["big"], &[]), 1, PixelErrorKind::Mismatch);
    faults(&mut machine, &program(&["wild"], &[]), 2, PixelErrorKind::Mismatch);
    assert_eq!(machine.decoded, 0);
    let limits = ProgramLimits { stack_bytes: 400, ..ProgramLimits::default() };
    let mut machine =
        TestHost::default().with("m", 5, 10, &[1.0; 50]).with("n", 1, 48, &[1.0; 48]).with("v", 1, 10, &[1.0; 10]);
    let run = |machine: &mut TestHost, program: &[u8]| run(program, machine, limits);
    assert!(run(&mut machine, &program(&["m"], &[(10, 0), (11, 0), (11, 0)])).is_ok());
    assert_eq!(run(&mut machine, &program(&["m"], &[(10, 0), (10, 0)])).unwrap_err().pixel, 3);
    // What is dropped is given back, the buffer too.
    assert!(run(&mut machine, &program(&["m"], &[(11, 0)]).repeat(50)).is_ok());
    for freeing in [[(3, 0), (11, 0)], [(4, 0), OUT]] {
        assert!(run(&mut machine, &program(&["m", "v"], &freeing).repeat(50)).is_ok());
    }
    assert!(run(&mut machine, &program(&["m"], &[(8, 0), OUT]).repeat(50)).is_ok());
    assert_eq!(run(&mut machine, &[1, 2, 3].repeat(134)).unwrap_err().pixel, 133);
    // Operands count until the result stands: 192 + 192 bytes leave no room for a product and a column.
    assert_eq!(run(&mut machine, &program(&["n", "n"], &[(3, 0)])).unwrap_err().kind, PixelErrorKind::Mismatch);
}

#[test]
fn the_result_is_bounded() {
    let limits = ProgramLimits { output_bytes: 16, ..ProgramLimits::default() };
    let mut machine = TestHost::default().with("v", 1, 4, &[1.0; 4]);
    assert_eq!(run(&program(&["v"], &[OUT]), &mut machine, limits).unwrap().output.len(), 16);
    let fault = run(&program(&["v"], &[(10, 0), OUT, OUT]), &mut machine, limits).unwrap_err();
    assert_eq!((fault.pixel, fault.kind), (4, PixelErrorKind::Mismatch));
}

#[test]
fn the_host_can_stop_a_program_inside_a_long_product() {
    let side = 1100;
    let mut machine = TestHost::default().with("m", side, side, &vec![0.0; side * side]);
    machine.patience = Some(3);
    let fault = machine.run(&program(&["m", "m"], &[(3, 0)])).unwrap_err();
    assert_eq!((fault.pixel, fault.kind), (4, PixelErrorKind::Cancelled));
    machine.patience = Some(0);
    assert_eq!(machine.run(&program(&["m"], &[])).unwrap_err().pixel, 1);
}
