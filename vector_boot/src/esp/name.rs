//! The names of boot entries: `vb-a.efi`, or with a counter `vb-a+LEFT.efi` and `vb-a+LEFT-DONE.efi`.

use std::fmt;

/// A slot of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Slot {
    A,
    B,
}

impl Slot {
    /// The slot of a letter in either case.
    pub fn of_letter(letter: u8) -> Option<Self> {
        match letter.to_ascii_lowercase() {
            b'a' => Some(Slot::A),
            b'b' => Some(Slot::B),
            _ => None,
        }
    }

    /// Its number in `hw.mmio`: 1 or 2.
    pub fn number(self) -> u32 {
        match self {
            Slot::A => 1,
            Slot::B => 2,
        }
    }

    /// The slot of such a number.
    pub fn of_number(number: u32) -> Option<Self> {
        [Slot::A, Slot::B].into_iter().find(|slot| slot.number() == number)
    }

    /// Its letter in names of files.
    pub fn letter(self) -> u8 {
        match self {
            Slot::A => b'a',
            Slot::B => b'b',
        }
    }

    /// The other slot.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Slot::A => Slot::B,
            Slot::B => Slot::A,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self:?}")
    }
}

/// The counter of an entry. The better one comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tries {
    /// No counter: the slot was found good.
    Blessed,
    /// How often it may still be started, and how often it was.
    #[allow(missing_docs)]
    Left { left: u32, done: u32 },
}

impl Tries {
    fn rank(self) -> (bool, std::cmp::Reverse<u32>, u32) {
        match self {
            Tries::Blessed => (false, std::cmp::Reverse(0), 0),
            Tries::Left { left, done } => (true, std::cmp::Reverse(left), done),
        }
    }
}

impl Ord for Tries {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for Tries {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// The slot and the counter in the name of an entry; `None` for another file.
pub fn parse(name: &str) -> Option<(Slot, Tries)> {
    let name = name.to_ascii_lowercase();
    let rest = name.strip_prefix("vb-")?.strip_suffix(".efi")?;
    let slot = Slot::of_letter(*rest.as_bytes().first()?)?;
    let Some(counter) = rest.get(1..).filter(|rest| !rest.is_empty()) else {
        return Some((slot, Tries::Blessed));
    };
    let counter = counter.strip_prefix('+')?;
    let (left, done) = counter.split_once('-').unwrap_or((counter, "0"));
    Some((slot, Tries::Left { left: number(left)?, done: number(done)? }))
}

fn number(digits: &str) -> Option<u32> {
    let digits = Some(digits).filter(|digits| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit()));
    digits?.parse().ok()
}

/// The name of an entry that was found good.
pub fn blessed(slot: Slot) -> String {
    format!("vb-{}.efi", char::from(slot.letter()))
}

/// The name of a new entry, with its tries.
pub fn fresh(slot: Slot, tries: u32) -> String {
    format!("vb-{}+{tries}.efi", char::from(slot.letter()))
}

/// The short name of an entry that was found good, as a folder holds it.
pub fn short(slot: Slot) -> [u8; 11] {
    let mut name = *b"VB-A    EFI";
    name[3] = slot.letter().to_ascii_uppercase();
    name
}

/// A short name for a new entry that differs from [`short`] and from `taken`: one of several with a number.
pub fn fresh_short(slot: Slot, taken: impl Fn(&[u8; 11]) -> bool) -> Option<[u8; 11]> {
    let candidates = (b'1'..=b'9').map(|number| {
        let mut name = *b"VB-A_3~1EFI";
        (name[3], name[7]) = (slot.letter().to_ascii_uppercase(), number);
        name
    });
    candidates.into_iter().find(|name| !taken(name))
}
