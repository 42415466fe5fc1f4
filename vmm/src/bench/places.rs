//! Random places of a disk.

/// Places that look random and are the same every time (xorshift64*).
#[derive(Debug)]
pub struct Places(u64);

impl Default for Places {
    fn default() -> Places {
        Places(0x9e37_79b9_7f4a_7c15)
    }
}

impl Places {
    /// One of the `count` places of a disk.
    pub fn next_of(&mut self, count: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % count.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_its_turn() {
        let mut places = Places::default();
        let mut seen = [0u32; 10];
        for _ in 0..1000 {
            seen[usize::try_from(places.next_of(10)).unwrap()] += 1;
        }
        assert!(seen.iter().all(|count| (50..200).contains(count)), "{seen:?}");
        assert_eq!(places.next_of(0), 0);
    }
}
