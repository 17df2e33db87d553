use super::*;

fn shared() -> Vec<AtomicU32> {
    (0..SHARED_WORDS).map(|_| AtomicU32::new(0)).collect()
}

#[test]
fn buckets_are_ordered_and_hold_their_values() {
    let mut last = 0;
    for exponent in 0..32 {
        for value in [1u32 << exponent, (1 << exponent) + ((1 << exponent) / 3)] {
            let at = bucket(value);
            assert!(at >= last && at < BUCKETS, "{value} in {at}");
            assert!(upper_edge(at) >= value && u64::from(upper_edge(at)) <= u64::from(value) * 17 / 16 + 1, "{value}");
            last = at;
        }
    }
    assert!(bucket(u32::MAX) < BUCKETS);
}

#[test]
fn percentiles_count_every_beat() {
    let words = shared();
    let vitals = Vitals::new(&words);
    assert_eq!(vitals.lateness_us(500), 0);
    (0..990).for_each(|_| vitals.count_beat(10));
    (0..10).for_each(|_| vitals.count_beat(5000));
    assert_eq!((vitals.lateness_us(500), vitals.lateness_us(990)), (10, 10));
    assert!((5000..5400).contains(&vitals.lateness_us(999)));
}

#[test]
fn phases_and_page_do_not_overlap() {
    let words = shared();
    let (vitals, page) = (Vitals::new(&words), hw_mmio::Page::new(&words));
    page.initialise();
    vitals.reach_phase(0, 0);
    vitals.reach_phase(5, 1 << 40);
    vitals.start(7, 1 << 41);
    assert_eq!((vitals.phase_us(0), vitals.phase_us(1), vitals.phase_us(5)), (Some(0), None, Some(1 << 40)));
    assert_eq!((vitals.supervisor_pid(), vitals.start_us()), (7, 1 << 41));
    assert_eq!((vitals.appliance(), vitals.mutation_key()), (None, None));
    vitals.set_appliance(&[7; 16]);
    vitals.set_mutation_key(&[9; 32]);
    vitals.count_program();
    assert_eq!((vitals.appliance(), vitals.mutation_key()), (Some([7; 16]), Some([9; 32])));
    vitals.set_boot(1 << 42);
    assert_eq!((vitals.journal_loss(), vitals.model_file_sha256(), vitals.state_bytes()), (None, None, None));
    let loss = JournalLoss { from: 0, reason: JournalReason::Gone };
    vitals.set_journal_loss(loss);
    vitals.set_state_bytes(1 << 36);
    let digest = std::array::from_fn(|index| index as u8);
    vitals.set_model_file_sha256(&digest);
    assert!(!vitals.is_keyless());
    vitals.set_keyless();
    assert!(vitals.is_keyless());
    assert_eq!((vitals.programs(), vitals.boot()), (1, 1 << 42));
    assert_eq!((vitals.journal_loss(), vitals.model_file_sha256()), (Some(loss), Some(digest)));
    assert_eq!(vitals.state_bytes(), Some(1 << 36));
    assert_eq!(page.get(hw_mmio::word::MAGIC), 0x5642_4F54);
    assert_eq!(page.shared_bytes(0..8), [0x54, 0x4F, 0x42, 0x56, 1, 0, 0, 0]);
}
