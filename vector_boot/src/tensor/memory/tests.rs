use std::os::fd::AsFd;

use super::*;

fn memory() -> PagedMemory {
    let mut weights = Mapping::zeroed(2 * PAGE + 100).unwrap();
    weights.bytes_mut().fill(7);
    PagedMemory::new(weights, Mapping::zeroed(2 * PAGE).unwrap())
}

fn all(memory: &PagedMemory) -> Vec<u8> {
    [memory.bytes(0, 2 * PAGE + 100), memory.bytes(3 * PAGE, 2 * PAGE)].concat()
}

#[test]
fn what_is_dropped_leaves_nothing_and_what_is_kept_can_be_put_back() {
    let mut memory = memory();
    let base = all(&memory);
    let mut change = memory.begin();
    change.write(PAGE - 2, &[1, 2, 3, 4]);
    change.write(2 * PAGE + 99, &[9]);
    assert_eq!(change.changed_bytes(&[0..PAGE, PAGE..2 * PAGE + 100, 3 * PAGE..4 * PAGE]), [2, 3, 0]);
    drop(change);
    assert_eq!((all(&memory), memory.fingerprint()), (base.clone(), 0));

    let mut change = memory.begin();
    change.write(PAGE - 2, &[1, 2, 3, 4]);
    change.write(3 * PAGE + 5, &[8]);
    let before = change.commit();
    assert_ne!(memory.fingerprint(), 0);
    assert_eq!(memory.dirty_pages().collect::<Vec<_>>(), [0, 1, 3]);
    let mut back = memory.begin();
    for (page, bytes) in before.iter() {
        back.write(page as usize * PAGE, bytes);
    }
    back.commit();
    assert_eq!((all(&memory), memory.fingerprint()), (base, 0));
}

#[test]
fn equal_contents_have_equal_fingerprints_however_they_came_about() {
    let (mut one, mut two) = (memory(), memory());
    for (memory, writes) in [(&mut one, [(5, 1), (5, 2), (PAGE, 3)]), (&mut two, [(PAGE, 3), (6, 7), (5, 2)])] {
        for (address, value) in writes {
            let mut change = memory.begin();
            change.write(address, &[value]);
            change.commit();
        }
    }
    assert_eq!(all(&one), all(&two));
    assert_eq!(one.fingerprint(), two.fingerprint());
}

#[test]
fn moved_to_a_memory_file_they_stay_what_they_were_and_changes_reach_it() {
    let file = crate::sys::memory::memory_file(c"test").unwrap();
    let mut one = memory();
    let mut change = one.begin();
    change.write(PAGE, &[1, 2, 3]);
    change.write(3 * PAGE, &[4]);
    change.commit();
    let (bytes, fingerprint) = (all(&one), one.fingerprint());
    one.move_to(file.as_fd()).unwrap();
    assert_eq!((all(&one), one.fingerprint()), (bytes, fingerprint));
    assert_eq!(one.differing_bytes(&memory()), 4);
    let view = Mapping::shared(file.as_fd(), 0, one.end()).unwrap();
    let mut change = one.begin();
    change.write(4 * PAGE, &[5]);
    change.commit();
    assert_eq!((view.bytes()[PAGE], view.bytes()[3 * PAGE], view.bytes()[4 * PAGE]), (1, 4, 5));

    // Whoever comes next makes it what it has itself; one of another size is refused.
    memory().move_to(file.as_fd()).unwrap();
    assert_eq!((view.bytes()[PAGE], view.bytes()[3 * PAGE], view.bytes()[4 * PAGE]), (7, 0, 0));
    let mut other = PagedMemory::new(Mapping::zeroed(PAGE).unwrap(), Mapping::zeroed(PAGE).unwrap());
    assert!(other.move_to(file.as_fd()).is_err());
}

#[test]
fn differing_bytes_are_counted_exactly() {
    let a: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
    let mut b = a.clone();
    for at in (0..20_000).step_by(7) {
        b[at] ^= 1;
    }
    assert_eq!(count_differing(&a, &b), 20_000u64.div_ceil(7));
    assert_eq!(count_differing(&a[..17], &b[..17]), 3);
}

#[test]
fn what_changed_is_found_however_it_was_written() {
    const PAGES: usize = 200; // more than the small blocks of before-images hold
    let mut memory = PagedMemory::new(Mapping::zeroed(PAGES * PAGE).unwrap(), Mapping::zeroed(PAGE).unwrap());
    let base = memory.bytes(0, PAGES * PAGE).to_vec();
    let mut wanted: Vec<u8> = (0..PAGES * PAGE).map(|index| (index % 250) as u8).collect();
    let mut change = memory.begin();
    change.write(0, &wanted); // whole pages, ...
    for (at, value) in [(5, 77), (PAGE + 1, 0), (100 * PAGE, 200)] {
        change.write(at, &[value]); // ... of which some are written again,
        wanted[at] = value;
    }
    change.write(7 * PAGE, &base[7 * PAGE..8 * PAGE]); // ... and one gets its old contents back
    wanted[7 * PAGE..8 * PAGE].copy_from_slice(&base[7 * PAGE..8 * PAGE]);
    let ranges = [9 * PAGE + 9..PAGES * PAGE, 0..PAGE / 2, PAGE / 2..9 * PAGE + 9, 3..3];
    let count = |range: &Range<usize>| range.clone().filter(|at| wanted[*at] != base[*at]).count() as u64;
    assert_eq!(change.changed_bytes(&ranges), ranges.each_ref().map(count));
    let before = change.commit();
    assert_eq!(before.iter().map(|(page, _)| page as usize).collect::<Vec<_>>(), (0..PAGES).collect::<Vec<_>>());
    assert!(before.iter().all(|(page, bytes)| bytes == &base[page as usize * PAGE..][..PAGE]));
    assert!(memory.bytes(0, PAGES * PAGE) == wanted);
    let mut restored = PagedMemory::new(Mapping::zeroed(PAGES * PAGE).unwrap(), Mapping::zeroed(PAGE).unwrap());
    for (page, bytes) in (0..).zip(wanted.chunks(PAGE)) {
        restored.restore_page(page, bytes);
    }
    assert_eq!(memory.fingerprint(), restored.fingerprint());
    let mut back = memory.begin();
    before.iter().for_each(|(page, bytes)| back.write_page(page, bytes));
    back.commit();
    assert_eq!(memory.fingerprint(), 0);
}

#[test]
fn memory_of_before_images_is_used_again_and_padded_again() {
    const PAGES: usize = 128 + 7;
    let length = PAGES * PAGE - 100; // the last page is short
    let mut memory = PagedMemory::new(Mapping::zeroed(length).unwrap(), Mapping::zeroed(PAGE).unwrap());
    assert_eq!(memory.drop_spare(), 0);
    for value in 1..4u8 {
        let mut change = memory.begin();
        change.write(0, &vec![value; length]);
        let before = change.commit();
        for (page, bytes) in before.iter() {
            let (own, padding) = bytes.split_at(memory.page_bytes(page));
            assert!(own.iter().all(|byte| *byte == value - 1) && padding.iter().all(|byte| *byte == 0));
        }
        memory.reuse(before);
    }
    assert!((2 * 64 * PAGE..=64 * 64 * PAGE).contains(&memory.drop_spare()));
    assert_eq!(memory.drop_spare(), 0);
}

#[test]
fn a_rewrite_gives_the_bytes_and_the_fingerprint_of_a_transaction() {
    let (mut one, mut other) = (memory(), memory());
    for (address, len, value) in [(0, 10, 1u8), (4000, 4292, 2), (0, 10, 0), (3 * PAGE, 2 * PAGE, 3), (4096, 1, 2)] {
        let mut change = one.begin();
        change.write(address, &vec![value; len]);
        change.commit();
        let mut rewrite = other.rewrite();
        rewrite.write(address, &vec![value; len]);
        rewrite.write(address, &vec![value; len]);
        rewrite.finish();
        assert_eq!(one.fingerprint(), other.fingerprint());
        assert_eq!(one.dirty_pages().collect::<Vec<_>>(), other.dirty_pages().collect::<Vec<_>>());
        assert!((0..one.pages()).all(|page| one.page(page) == other.page(page)));
    }
}
