use proptest::prelude::*;

use super::*;
use crate::sys::memory::memory_file;

/// Where the log begins.
const START: u64 = FIXED;

/// A memory file beside what it has to hold.
struct Pair {
    file: File,
    storage: MemoryFile,
    /// The bytes of the log from its first offset on, also those that were discarded.
    written: Vec<u8>,
    discarded: usize,
}

impl Pair {
    fn new() -> Self {
        let file = File::from(memory_file(c"log").unwrap());
        let storage = MemoryFile::open(file.try_clone().unwrap()).unwrap();
        Pair { file, storage, written: Vec::new(), discarded: 0 }
    }

    fn append(&mut self, len: usize) {
        let number = self.written.len();
        let bytes: Vec<u8> = (0..len).map(|at| ((number + at) / 1000 + at) as u8).collect();
        self.storage.write(START + number as u64, &bytes).unwrap();
        self.written.extend(bytes);
    }

    fn discard(&mut self, to: usize) {
        let to = to.clamp(self.discarded, self.written.len());
        self.storage.discard(START + self.discarded as u64, (to - self.discarded) as u64);
        self.storage.trim();
        self.discarded = to;
    }

    /// Another process goes on.
    fn reopen(&mut self) {
        self.storage = MemoryFile::open(self.file.try_clone().unwrap()).unwrap();
        self.storage.discard(START, self.discarded as u64);
    }

    fn check(&self, storage: &MemoryFile) {
        let live = &self.written[self.discarded..];
        let offset = START + self.discarded as u64;
        let mut read = vec![0; live.len()];
        storage.read(offset, &mut read).unwrap();
        assert!(read == live, "what is read");
        assert!(*storage.payload(offset, live.len()).unwrap() == *live, "the payload");
    }

    fn places(&self) -> u64 {
        (self.file.metadata().unwrap().len() - FIRST_PLACE).div_ceil(SEGMENT)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn it_holds_what_was_written_and_grows_no_longer_than_the_log(
        steps in proptest::collection::vec((0u8..4, 1usize..2_500_000), 1..16),
    ) {
        let mut pair = Pair::new();
        let mut most = 0;
        for (what, amount) in steps {
            match what {
                0 => pair.discard(pair.discarded + amount),
                1 => pair.reopen(),
                2 => _ = pair.storage.drop_spare(),
                _ => (),
            }
            pair.append(amount);
            pair.check(&pair.storage);
            most = most.max(((pair.written.len() - pair.discarded) as u64).div_ceil(SEGMENT) + 1);
            prop_assert!(pair.places() <= most, "{} places for {most} segments", pair.places());
        }
    }
}

#[test]
fn another_process_follows() {
    let mut pair = Pair::new();
    pair.append(3 << 20);
    let mut follower = MemoryFile::open(pair.file.try_clone().unwrap()).unwrap();
    pair.discard(2 << 20);
    pair.append(4 << 20);
    follower.refresh().unwrap();
    pair.check(&follower);
    // It knows which places are free once it has discarded the same.
    follower.discard(START, pair.discarded as u64);
    let places = pair.places();
    pair.storage = follower;
    pair.discard(6 << 20);
    pair.append(3 << 20);
    pair.check(&pair.storage);
    assert_eq!(pair.places(), places);
}

#[test]
fn another_process_that_is_late_gives_nothing_back() {
    let mut pair = Pair::new();
    pair.append((KEPT + 8) << 20);
    let mut follower = MemoryFile::open(pair.file.try_clone().unwrap()).unwrap();
    pair.discard((KEPT + 8) << 20);
    pair.append((KEPT + 8) << 20); // in the places that the follower takes for discarded
    follower.discard(START, pair.discarded as u64);
    pair.check(&pair.storage);
}

#[test]
fn a_process_that_dies_before_it_has_written_a_new_segment_leaves_the_others() {
    let mut pair = Pair::new();
    pair.append(1 << 20);
    // The table has an entry for the next place already, and the file none for its bytes.
    let place = pair.places();
    pair.file.write_all_at(&(place + 1).to_le_bytes(), FIXED + NUMBER * place).unwrap();
    pair.reopen();
    pair.append(5 << 20);
    pair.check(&pair.storage);
    pair.reopen();
    pair.check(&pair.storage);
}

#[test]
fn memory_is_kept_in_bounds_and_given_back_when_asked() {
    let bytes = |file: &File| std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap()) * 512;
    let mut pair = Pair::new();
    pair.append((KEPT + 8) << 20);
    pair.discard((KEPT + 8) << 20);
    assert!((60..=66).contains(&(bytes(&pair.file) >> 20)), "{}", bytes(&pair.file));
    assert!(pair.storage.drop_spare() >= (60 << 20));
    assert!(bytes(&pair.file) < 2 << 20);
    pair.append(3 << 20);
    pair.check(&pair.storage);
    assert!(pair.places() <= KEPT as u64 + 9);
}

#[test]
fn a_table_that_is_full_is_an_error() {
    let mut pair = Pair::new();
    pair.storage.held.extend((0..PLACES).map(|number| (number + 7, number)));
    assert_eq!(pair.storage.write(START, b"x").unwrap_err().kind(), io::ErrorKind::StorageFull);
}
