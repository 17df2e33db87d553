//! A hash table from bytes to ids that keeps the ids only: the bytes stay with their owner.

/// An insertion that would visit more slots is refused: a vocabulary made of collisions must not stall the load.
const PROBE_LIMIT: usize = 512;
const EMPTY: u32 = u32::MAX;

/// Open addressing, at most half full.
pub struct Slots {
    ids: Box<[u32]>,
}

impl Slots {
    /// Room for `count` ids.
    pub fn with_room_for(count: usize) -> Self {
        Slots { ids: vec![EMPTY; (count * 2).max(2).next_power_of_two()].into() }
    }

    /// Replaces the id for which `is_same` holds, or takes a free slot; `None` if too many other ids have a similar hash.
    pub fn insert(&mut self, hash: Hash, id: u32, is_same: impl Fn(u32) -> bool) -> Option<()> {
        let slot = self.probe(hash).find(|slot| self.ids[*slot] == EMPTY || is_same(self.ids[*slot]))?;
        self.ids[slot] = id;
        Some(())
    }

    /// The id for which `is_same` holds, among those with a similar hash.
    pub fn find(&self, hash: Hash, is_same: impl Fn(u32) -> bool) -> Option<u32> {
        self.probe(hash).map(|slot| self.ids[slot]).take_while(|id| *id != EMPTY).find(|id| is_same(*id))
    }

    fn probe(&self, hash: Hash) -> impl Iterator<Item = usize> {
        let mask = self.ids.len() - 1;
        let first = hash.finish() as usize;
        (0..PROBE_LIMIT.min(self.ids.len())).map(move |step| (first + step) & mask)
    }
}

/// FNV-1a, which takes one byte at a time: every prefix of a word is hashed in one pass.
#[derive(Clone, Copy)]
pub struct Hash(u64);

impl Hash {
    pub const START: Hash = Hash(0xcbf2_9ce4_8422_2325);

    pub fn with(self, bytes: &[u8]) -> Hash {
        Hash(bytes.iter().fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)))
    }

    /// The low bits of FNV depend little on the last bytes, so the high bits are mixed in.
    fn finish(self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}
