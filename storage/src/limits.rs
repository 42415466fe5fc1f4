//! What a device may tell its guest about requests without data.

use crate::units::Bytes;

/// Bounds on [`Discard`](crate::Operation::Discard) and
/// [`WriteZeroes`](crate::Operation::WriteZeroes) requests; a longer one is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest range of a discard.
    pub max_discard: Bytes,
    /// Longest range of a request for zeroes. Smaller than [`Limits::max_discard`]: where the
    /// file system cannot make zeroes, they are written.
    pub max_write_zeroes: Bytes,
    /// Ranges in one request of either kind.
    pub max_segments: u32,
    /// Discards of ranges aligned like this give all of their space back.
    pub discard_alignment: Bytes,
}

impl Limits {
    /// The bounds of a disk whose host allocates in units of `allocation_unit` bytes.
    pub(crate) fn new(allocation_unit: u64) -> Limits {
        Limits {
            max_discard: Bytes::new(1 << 30),
            max_write_zeroes: Bytes::new(32 << 20),
            max_segments: 1,
            discard_alignment: Bytes::new(allocation_unit),
        }
    }
}
