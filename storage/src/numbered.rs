//! Tables whose keys are numbers of windows of a disk.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A table by number.
pub(crate) type Numbered<T> = HashMap<u64, T, BuildHasherDefault<NumberHasher>>;

/// Spreads numbers over a table: they come in runs, and nobody who picks them gains by
/// making them collide but slows down a disk of their own.
#[derive(Default)]
pub(crate) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(byte.into()));
    }

    fn write_u64(&mut self, number: u64) {
        // Fibonacci hashing; the table uses the topmost bits and the lowest ones.
        let spread = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = spread ^ spread >> 32;
    }
}
