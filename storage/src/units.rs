//! Quantities with a unit. Fields are private and every constructor checks, so that a value of
//! these types is in bounds wherever it arrives.

use std::fmt;

/// Bytes in a sector, the unit in which virtio and SCSI guests count (VIRTIO 1.2, 5.2.6).
pub const SECTOR: u64 = 512;

/// The largest offset a file can have (`off_t` is signed).
const OFFSET_MAX: u64 = i64::MAX as u64;

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(u64);

impl Bytes {
    /// No bytes.
    pub const ZERO: Bytes = Bytes(0);

    /// `count` bytes.
    pub const fn new(count: u64) -> Bytes {
        Bytes(count)
    }

    /// As many bytes as `sectors` sectors have; `None` when that is not a 64-bit number.
    pub const fn from_sectors(sectors: u64) -> Option<Bytes> {
        match sectors.checked_mul(SECTOR) {
            Some(bytes) => Some(Bytes(bytes)),
            None => None,
        }
    }

    /// The number itself.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whole sectors in this many bytes.
    pub const fn sectors(self) -> u64 {
        self.0 / SECTOR
    }

    /// Whether this is a multiple of `unit` bytes; false for a unit of 0.
    pub const fn is_multiple_of(self, unit: u64) -> bool {
        unit != 0 && self.0.is_multiple_of(unit)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}

/// A position in a file of the host, at most `i64::MAX`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileOffset(u64);

impl FileOffset {
    /// The position `offset` bytes from the file's start; `None` beyond what a file can have.
    pub const fn new(offset: u64) -> Option<FileOffset> {
        if offset <= OFFSET_MAX { Some(FileOffset(offset)) } else { None }
    }

    /// Bytes from the file's start.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The position `bytes` further on; `None` beyond what a file can have.
    pub const fn checked_add(self, bytes: u64) -> Option<FileOffset> {
        match self.0.checked_add(bytes) {
            Some(sum) => FileOffset::new(sum),
            None => None,
        }
    }
}

/// A range of a disk's bytes as its guest counts them. Its end is at most `i64::MAX`; whether it
/// lies within a given disk is checked once, when a request is submitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DiskRange {
    start: u64,
    len: u64,
}

impl DiskRange {
    /// The range of no bytes, which goes with [`Operation::Flush`](crate::Operation::Flush).
    pub const EMPTY: DiskRange = DiskRange { start: 0, len: 0 };

    /// `len` bytes from byte `start` on; `None` when the end is beyond what a file can have.
    pub const fn new(start: u64, len: u64) -> Option<DiskRange> {
        match start.checked_add(len) {
            Some(end) if end <= OFFSET_MAX => Some(DiskRange { start, len }),
            _ => None,
        }
    }

    /// `count` sectors from sector `first` on; `None` as for [`DiskRange::new`].
    pub const fn from_sectors(first: u64, count: u64) -> Option<DiskRange> {
        match (first.checked_mul(SECTOR), count.checked_mul(SECTOR)) {
            (Some(start), Some(len)) => DiskRange::new(start, len),
            _ => None,
        }
    }

    /// The first byte.
    pub const fn start(self) -> u64 {
        self.start
    }

    /// The byte after the last one.
    pub const fn end(self) -> u64 {
        self.start + self.len
    }

    /// Bytes in the range.
    pub const fn len(self) -> u64 {
        self.len
    }

    /// Whether the range has no bytes.
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }
}

impl fmt::Display for DiskRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:#x}, {:#x})", self.start, self.end())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_range_never_ends_beyond_what_a_file_can_have(start: u64, len: u64) {
            match DiskRange::new(start, len) {
                Some(range) => prop_assert_eq!(u128::from(range.end()), u128::from(start) + u128::from(len)),
                None => prop_assert!(u128::from(start) + u128::from(len) > u128::from(OFFSET_MAX)),
            }
        }

        #[test]
        fn sectors_multiply_without_overflow(first: u64, count: u64) {
            let exact = (u128::from(first) + u128::from(count)) * u128::from(SECTOR);
            prop_assert_eq!(DiskRange::from_sectors(first, count).is_some(), exact <= u128::from(OFFSET_MAX));
        }
    }

    #[test]
    fn a_multiple_of_nothing_is_no_multiple() {
        assert!(Bytes::new(1024).is_multiple_of(512));
        assert!(!Bytes::new(1000).is_multiple_of(512));
        assert!(!Bytes::new(1000).is_multiple_of(0));
    }
}
