//! Finds the partitions of the appliance in a GUID partition table (UEFI specification 2.10, section 5.3).
//!
//! The kernel reads the same table and makes the partitions' devices, but does not tell their types.

/// Bytes at the beginning of a disk that hold the whole table, with sectors of 512 bytes.
pub const HEAD_BYTES: usize = (2 + 32) * SECTOR;

const SECTOR: usize = 512;
const SIGNATURE: &[u8] = b"EFI PART";
const REVISION: u32 = 0x0001_0000;
const HEADER_BYTES: usize = 92;
const ENTRY_BYTES: usize = 128;
const MOST_ENTRIES: usize = 128;
/// 558e6d26-d192-4368-86ac-d256d94b165d, as it is stored: a partition that holds an RTS image.
const RTS_SLOT: [u8; 16] = guid(0x558e_6d26, 0xd192, 0x4368, [0x86, 0xac, 0xd2, 0x56, 0xd9, 0x4b, 0x16, 0x5d]);
/// 9a9111ff-79bf-4623-b5b4-50642c2b5280: the state partition.
const STATE: [u8; 16] = guid(0x9a91_11ff, 0x79bf, 0x4623, [0xb5, 0xb4, 0x50, 0x64, 0x2c, 0x2b, 0x52, 0x80]);
/// c12a7328-f81f-11d2-ba4b-00a0c93ec93b: the EFI system partition.
const ESP: [u8; 16] = guid(0xc12a_7328, 0xf81f, 0x11d2, [0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b]);

/// The numbers of an appliance's partitions, from 1 as the kernel counts them; 0 for one that is not there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Partitions {
    /// The slots A and B: the first and the second partition of their type.
    pub slots: [u32; 2],
    /// The state.
    pub state: u32,
    /// The EFI system partition.
    pub esp: u32,
}

/// The partitions in a table. `None` if there is no sound table, or none that has a slot.
pub fn find(head: &[u8]) -> Option<Partitions> {
    let header = head.get(SECTOR..2 * SECTOR)?;
    let u32_at = |at: usize| Some(u32::from_le_bytes(header.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_le_bytes(header.get(at..at + 8)?.try_into().ok()?));
    let size = u32_at(12)? as usize;
    if !header.starts_with(SIGNATURE) || u32_at(8)? != REVISION || !(HEADER_BYTES..=SECTOR).contains(&size) {
        return None;
    }
    let parts = [&header[..16], &[0; 4], &header[20..size]];
    if crc32(parts.into_iter().flatten()) != u32_at(16)? || u64_at(24)? != 1 || u64_at(72)? != 2 {
        return None;
    }
    let count = u32_at(80)? as usize;
    if count > MOST_ENTRIES || u32_at(84)? as usize != ENTRY_BYTES {
        return None;
    }
    let entries = head.get(2 * SECTOR..2 * SECTOR + count * ENTRY_BYTES)?;
    if crc32(entries) != u32_at(88)? {
        return None;
    }
    let mut found = Partitions::default();
    for (number, entry) in (1..).zip(entries.chunks_exact(ENTRY_BYTES)) {
        let place = match &entry[..16] {
            kind if kind == RTS_SLOT => found.slots.iter_mut().find(|slot| **slot == 0),
            kind if kind == STATE => Some(&mut found.state),
            kind if kind == ESP => Some(&mut found.esp),
            _ => None,
        };
        if let Some(place) = place.filter(|place| **place == 0) {
            *place = number;
        }
    }
    (found.slots[0] != 0).then_some(found)
}

/// A GUID as it is stored: its first three groups are little-endian.
const fn guid(first: u32, second: u16, third: u16, rest: [u8; 8]) -> [u8; 16] {
    let ([a, b, c, d], [e, f], [g, h]) = (first.to_le_bytes(), second.to_le_bytes(), third.to_le_bytes());
    let [i, j, k, l, m, n, o, p] = rest;
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// CRC-32 with the polynomial of IEEE 802.3, reflected.
fn crc32<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> u32 {
    let step = |crc: u32| if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ 0xEDB8_8320 };
    !bytes.into_iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A table with entries of these types.
    fn table(kinds: &[[u8; 16]]) -> Vec<u8> {
        let mut head = vec![0; HEAD_BYTES];
        for (entry, kind) in head[2 * SECTOR..].chunks_exact_mut(ENTRY_BYTES).zip(kinds) {
            entry[..16].copy_from_slice(kind);
        }
        let entries = crc32(&head[2 * SECTOR..]);
        let header = &mut head[SECTOR..2 * SECTOR];
        header[..8].copy_from_slice(SIGNATURE);
        let fields = [(8, REVISION), (12, 92), (24, 1), (72, 2), (80, 128), (84, 128), (88, entries)];
        for (at, value) in fields {
            header[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        let crc = crc32(&header[..92]);
        header[16..20].copy_from_slice(&crc.to_le_bytes());
        head
    }

    #[test]
    fn the_check_value_of_the_crc_is_right() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn partitions_are_found_by_their_types() {
        let found = find(&table(&[ESP, RTS_SLOT, [7; 16], RTS_SLOT, STATE, RTS_SLOT, STATE]));
        assert_eq!(found, Some(Partitions { slots: [2, 4], state: 5, esp: 1 }));
        assert_eq!(find(&table(&[RTS_SLOT])), Some(Partitions { slots: [1, 0], ..Partitions::default() }));
        assert_eq!(find(&table(&[ESP, STATE])), None);
    }

    #[test]
    fn the_types_are_stored_as_the_format_says() {
        assert_eq!(ESP[..6], [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8]);
        assert_eq!(RTS_SLOT[..4], [0x26, 0x6d, 0x8e, 0x55]);
    }

    #[test]
    fn a_table_with_a_flipped_bit_is_none() {
        let whole = table(&[RTS_SLOT, STATE]);
        let covered = (SECTOR..SECTOR + HEADER_BYTES).chain((2 * SECTOR..HEAD_BYTES).step_by(61));
        for at in covered {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            assert_eq!(find(&damaged), None, "byte {at}");
        }
        for len in [0, 1, SECTOR, SECTOR + 91, 2 * SECTOR, HEAD_BYTES - 1] {
            assert_eq!(find(&whole[..len]), None, "{len} bytes");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_refused(fields in prop::collection::vec((0usize..92, any::<u8>()), 0..20)) {
            let mut head = table(&[RTS_SLOT]);
            for (at, byte) in fields {
                head[SECTOR + at] = byte;
            }
            head[SECTOR + 16..SECTOR + 20].fill(0);
            let size = u32::from_le_bytes(head[SECTOR + 12..SECTOR + 16].try_into().unwrap()) as usize;
            let crc = crc32(&head[SECTOR..SECTOR + size.min(SECTOR)]);
            head[SECTOR + 16..SECTOR + 20].copy_from_slice(&crc.to_le_bytes());
            let _ = find(&head);
        }
    }
}
