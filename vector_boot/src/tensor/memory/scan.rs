//! What is computed from every byte of a page.

/// Bytes that are read at a time.
const GROUP: usize = 32;

/// How a page differs from what it was.
#[derive(Debug, Clone, Copy, Default)]
pub struct PageScan {
    /// By how much the fingerprint of all pages changes.
    pub delta: u64,
    /// Number of bytes that differ.
    pub changed: u64,
}

impl PageScan {
    /// Compares a page with what it was, which may be padded.
    pub fn of(page: u32, before: &[u8], after: &[u8]) -> Self {
        let changed = count_differing(&before[..after.len()], after);
        PageScan { delta: fingerprint_delta(page, before, after), changed }
    }
}

/// By how much the fingerprint of all pages changes with one of them. `before` may be padded.
pub fn fingerprint_delta(page: u32, before: &[u8], after: &[u8]) -> u64 {
    let [before, after] = fingerprints(page, [&before[..after.len()], after]);
    after.wrapping_sub(before)
}

/// Number of bytes that differ between two slices of the same length.
pub fn count_differing(a: &[u8], b: &[u8]) -> u64 {
    // Each run is short enough for the sums to fit bytes, so that the loop is vectorised.
    let runs = a.chunks(255 * GROUP).zip(b.chunks(255 * GROUP));
    runs.map(|(a, b)| {
        let mut lanes = [0u8; GROUP];
        let ((groups_a, rest_a), (groups_b, rest_b)) = (a.as_chunks::<GROUP>(), b.as_chunks::<GROUP>());
        for (a, b) in groups_a.iter().zip(groups_b) {
            for lane in 0..GROUP {
                lanes[lane] += u8::from(a[lane] != b[lane]);
            }
        }
        let rest = rest_a.iter().zip(rest_b).filter(|(a, b)| a != b).count() as u64;
        rest + lanes.iter().map(|lane| u64::from(*lane)).sum::<u64>()
    })
    .sum()
}

/// A hash of a page and its number: four lanes of multiply and rotate, mixed at the end. It detects accidental damage,
/// not forgery.
pub fn fingerprint(page: u32, bytes: &[u8]) -> u64 {
    let [hash] = fingerprints(page, [bytes]);
    hash
}

/// The hashes of versions of a page that have the same length. The processor computes several at a time: each step of one
/// waits for the step before it.
fn fingerprints<const N: usize>(page: u32, versions: [&[u8]; N]) -> [u64; N] {
    let start = [u64::from(page) + 1, 0x243F_6A88_85A3_08D3, 0x1319_8A2E_0370_7344, 0xA409_3822_299F_31D0];
    let mut lanes = [start; N];
    let versions = versions.map(|bytes| bytes.as_chunks::<GROUP>());
    let groups = versions.iter().map(|(groups, _)| groups.len()).min().unwrap_or_default();
    for number in 0..groups {
        for (lanes, (groups, _)) in lanes.iter_mut().zip(&versions) {
            absorb(lanes, &groups[number]);
        }
    }
    for (lanes, (_, rest)) in lanes.iter_mut().zip(&versions).filter(|(_, (_, rest))| !rest.is_empty()) {
        let mut padded = [0; GROUP];
        padded[..rest.len()].copy_from_slice(rest);
        absorb(lanes, &padded);
    }
    lanes.map(|lanes| {
        lanes.iter().fold(0, |hash: u64, lane| {
            let mixed = (hash ^ lane).wrapping_mul(PRIME);
            mixed ^ (mixed >> 32)
        })
    })
}

const PRIME: u64 = 0x9E37_79B9_7F4A_7C15;

#[inline(always)]
fn absorb(lanes: &mut [u64; 4], group: &[u8; GROUP]) {
    for (lane, word) in lanes.iter_mut().zip(group.as_chunks::<8>().0) {
        *lane = (*lane ^ u64::from_le_bytes(*word)).wrapping_mul(PRIME).rotate_left(29);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fingerprints are in journals that outlive the program: they must never change.
    #[test]
    fn fingerprints_are_what_they_always_were() {
        let page: Vec<u8> = (0..4096u32).map(|index| ((index * index) >> 3) as u8).collect();
        let found = [(0, &page[..]), (7, &page[..100]), (u32::MAX, &page[..33]), (1, &[])];
        assert_eq!(found.map(|(number, bytes)| fingerprint(number, bytes)), EXPECTED);
    }

    const EXPECTED: [u64; 4] =
        [0xEE4D_9DBE_F20D_0D08, 0x9F98_0E4E_B94A_4FAB, 0x8EA3_59CC_725D_910A, 0xAE62_5634_43C5_B87A];

    #[test]
    fn every_differing_byte_is_counted() {
        let a: Vec<u8> = (0..20_000u32).map(|index| (index % 251) as u8).collect();
        for (step, len) in [(1, 20_000), (1, 31), (2, 4096), (255, 8161), (33, 100), (7, 0)] {
            let mut b = a.clone();
            b.iter_mut().step_by(step).for_each(|byte| *byte ^= 1);
            assert_eq!(count_differing(&a[..len], &b[..len]), len.div_ceil(step) as u64);
        }
    }
}
