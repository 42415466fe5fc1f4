//! Reproducible contents of disks: patterns named by a seed, and checksums.
#![forbid(unsafe_code)]

/// Bytes in a sector.
pub const SECTOR: u64 = SECTOR_LEN as u64;
const SECTOR_LEN: usize = 512;
/// 64-bit words in a sector.
pub const SECTOR_WORDS: u64 = SECTOR / 8;

/// 2^64 divided by the golden ratio: steps that visit everything and repeat nothing soon.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// Scrambles one word, reversibly: different words stay different.
fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    let word = (word ^ (word >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word ^ (word >> 32)
}

/// A pattern: each sector has contents that depend on the seed and on the sector's number alone.
/// Words are little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Names the pattern.
    pub seed: u64,
}

impl Pattern {
    /// The words of one sector, counted from the start of the disk.
    pub fn sector(self, number: u64) -> impl Iterator<Item = u64> {
        let key = mix(mix(self.seed.wrapping_add(STEP)).wrapping_add(number));
        (0..SECTOR_WORDS).map(move |word| mix(key.wrapping_add(word.wrapping_mul(STEP))))
    }

    /// Fills `bytes`, which start at sector `first` of a disk, with the pattern.
    pub fn fill(self, first: u64, bytes: &mut [u8]) {
        for (number, sector) in (first..).zip(bytes.chunks_mut(SECTOR_LEN)) {
            for (word, place) in self.sector(number).zip(sector.chunks_mut(8)) {
                let word = word.to_le_bytes();
                place.copy_from_slice(word.get(..place.len()).unwrap_or_default());
            }
        }
    }
}

/// A checksum of sectors and their places. Sectors may come in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum {
    sum: u64,
}

impl Checksum {
    /// Takes in one sector: its number and its words.
    pub fn add(&mut self, number: u64, words: impl Iterator<Item = u64>) {
        let start = mix(number.wrapping_add(STEP));
        let digest = words.fold(start, |sum, word| mix(sum ^ word));
        self.sum = self.sum.wrapping_add(digest);
    }

    /// Takes in whole sectors, which start at sector `first`. A sector cut short counts as if
    /// zeroes followed.
    pub fn add_bytes(&mut self, first: u64, bytes: &[u8]) {
        for (number, sector) in (first..).zip(bytes.chunks(SECTOR_LEN)) {
            let word = |index: usize| {
                let mut word = [0; 8];
                let there = sector.get(index * 8..).unwrap_or_default();
                word.iter_mut().zip(there).for_each(|(to, from)| *to = *from);
                u64::from_le_bytes(word)
            };
            self.add(number, (0..SECTOR_LEN / 8).map(word));
        }
    }

    /// The checksum.
    pub fn value(self) -> u64 {
        self.sum
    }
}

/// Random numbers for offsets and garbage: fast, reproducible, nothing more (xorshift64*).
#[derive(Clone, Copy, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence that `seed` names.
    pub fn new(seed: u64) -> Random {
        Random(mix(seed.wrapping_add(STEP)) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// The next number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The upper half of a product with `bound` is below it.
        self.number().carrying_mul(bound, 0).1
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;
    use std::vec;
    use std::vec::Vec;

    #[test]
    fn sectors_and_seeds_differ() {
        let mut seen = HashSet::new();
        for seed in 0..16 {
            for number in 0..256 {
                assert!(seen.insert(Pattern { seed }.sector(number).collect::<Vec<_>>()));
            }
        }
    }

    #[test]
    fn the_pattern_is_what_it_always_was() {
        // Written once: disks outlive versions of this guest.
        let first: Vec<u64> = Pattern { seed: 7 }.sector(3).take(2).collect();
        assert_eq!(first, [0xaa4cac66487ba0f9, 0x8216aa6f38f8b19f]);
    }

    proptest! {
        #[test]
        fn filling_in_parts_is_filling_at_once(seed: u64, first in 0..u64::MAX / 1024, cut in 0usize..9) {
            let mut whole = vec![0; 9 * 512];
            Pattern { seed }.fill(first, &mut whole);
            let mut parts = vec![0; 9 * 512];
            let (left, right) = parts.split_at_mut(cut * 512);
            Pattern { seed }.fill(first, left);
            Pattern { seed }.fill(first + cut as u64, right);
            prop_assert_eq!(whole, parts);
        }

        #[test]
        fn a_checksum_sees_any_changed_byte_and_swapped_sectors(seed: u64, at in 0usize..2048, change in 1u8..) {
            let mut bytes = vec![0; 2048];
            Pattern { seed }.fill(0, &mut bytes);
            let sum = |bytes: &[u8]| {
                let mut sum = Checksum::default();
                sum.add_bytes(0, bytes);
                sum.value()
            };
            let before = sum(&bytes);
            let mut in_parts = Checksum::default();
            in_parts.add_bytes(2, &bytes[1024..]);
            in_parts.add_bytes(0, &bytes[..1024]);
            prop_assert_eq!(in_parts.value(), before);
            bytes[at] ^= change;
            prop_assert_ne!(sum(&bytes), before);
            bytes[at] ^= change;
            bytes.rotate_left(512);
            prop_assert_ne!(sum(&bytes), before);
        }

        #[test]
        fn random_numbers_keep_their_bound(seed: u64, bound: u64) {
            let mut random = Random::new(seed);
            for _ in 0..16 {
                let number = random.below(bound);
                prop_assert!(number < bound || bound == 0);
            }
        }
    }
}
