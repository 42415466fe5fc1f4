//! What is asked of a disk.

use crate::buffers::Buffers;
use crate::units::DiskRange;

/// What to do with a range of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Fill the buffers with the range's bytes.
    Read,
    /// Replace the range's bytes with those of the buffers.
    Write,
    /// Make every write that was answered before this request was submitted survive a loss of
    /// power. Range and buffers are empty.
    Flush,
    /// The range's content is not needed any more: give its space back to the host. What it reads
    /// as afterwards is not defined. No buffers.
    Discard,
    /// Make the range read as zeroes. No buffers.
    WriteZeroes {
        /// Whether the space may be given back to the host.
        unmap: bool,
    },
}

impl Operation {
    /// The word messages use.
    pub fn word(self) -> &'static str {
        match self {
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Flush => "flush",
            Operation::Discard => "discard",
            Operation::WriteZeroes { .. } => "write zeroes",
        }
    }
}

/// One request. [`DiskQueue::submit`](crate::DiskQueue::submit) checks it, nobody after that.
#[derive(Debug)]
pub struct DiskRequest {
    /// What to do.
    pub operation: Operation,
    /// Where: a multiple of [`Disk::logical_block_size`](crate::Disk::logical_block_size), within
    /// the disk.
    pub range: DiskRange,
    /// The memory to fill or to take bytes from, exactly as long as the range; none for the
    /// operations that move no data.
    pub buffers: Buffers,
}
