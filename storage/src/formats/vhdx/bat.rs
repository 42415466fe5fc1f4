//! The block allocation table (MS-VHDX 2.5): its shape, and what an entry says.

use super::MIB;

/// Sectors whose bits one sector bitmap block holds (2.4).
const SECTORS_PER_BITMAP: u64 = 1 << 23;
const OFFSET_MASK: u64 = !(MIB - 1);

/// Entry of a block of which nothing was ever written.
pub(super) const NOT_PRESENT: u64 = 0;
/// Entry of a block whose zeroes take no space.
pub(super) const ZERO: u64 = 2;
/// Entry of a block that was discarded.
pub(super) const UNMAPPED: u64 = 3;
const FULLY_PRESENT: u64 = 6;
const PARTIALLY_PRESENT: u64 = 7;

/// Where a payload block's bytes are, as its entry says (2.5.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Payload {
    /// Not in this file: the parent's, or zero where there is none.
    NotPresent,
    /// They are zero: undefined, zero or unmapped. Never the parent's.
    Zero,
    /// All in the file, from this offset on.
    Fully(u64),
    /// In the file, from this offset on, where the sector bitmap says so; else the parent's.
    Partially(u64),
}

impl Payload {
    /// What an entry says; `None` for a state that there is not.
    pub(super) fn decode(entry: u64) -> Option<Payload> {
        let offset = entry & OFFSET_MASK;
        Some(match entry & 7 {
            NOT_PRESENT => Payload::NotPresent,
            // 5 is what the draft of the format had for unmapped.
            1 | ZERO | UNMAPPED | 5 => Payload::Zero,
            FULLY_PRESENT => Payload::Fully(offset),
            PARTIALLY_PRESENT => Payload::Partially(offset),
            _ => return None,
        })
    }
}

/// The entry of a block that is all in the file.
pub(super) fn fully(offset: u64) -> u64 {
    offset & OFFSET_MASK | FULLY_PRESENT
}

/// The entry of a block of which parts are in the file.
pub(super) fn partially(offset: u64) -> u64 {
    offset & OFFSET_MASK | PARTIALLY_PRESENT
}

/// Where a sector bitmap block is, if there is one (2.5.1.2: state 6 is present).
pub(super) fn bitmap_block(entry: u64) -> Option<u64> {
    (entry & 7 == FULLY_PRESENT).then_some(entry & OFFSET_MASK)
}

/// A piece of a payload block: the block's number, where in it the piece starts, and its bytes.
pub(super) type Piece = (u64, u64, u64);

/// The numbers from which the table's shape follows. All were checked by whoever made this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Bytes of the disk.
    pub(super) size: u64,
    /// Bytes of a payload block: a power of two from 1 MiB to 256 MiB.
    pub(super) block: u64,
    /// Bytes of a logical sector.
    pub(super) sector: u64,
    /// Whether there is a parent, and so sector bitmaps.
    pub(super) differencing: bool,
}

impl Geometry {
    /// Payload blocks to a sector bitmap block.
    pub(super) fn chunk_ratio(&self) -> u64 {
        SECTORS_PER_BITMAP * self.sector / self.block
    }

    /// Payload blocks that the disk has.
    pub(super) fn blocks(&self) -> u64 {
        self.size.div_ceil(self.block)
    }

    /// Entries that the table has.
    pub(super) fn entries(&self) -> u64 {
        let (blocks, ratio) = (self.blocks(), self.chunk_ratio());
        if self.differencing {
            blocks.div_ceil(ratio) * (ratio + 1)
        } else {
            blocks + blocks.saturating_sub(1) / ratio
        }
    }

    /// The number of a payload block's entry.
    pub(super) fn entry_of(&self, block: u64) -> u64 {
        block + block / self.chunk_ratio()
    }

    /// The number of the entry of the sector bitmap block that a payload block's bits are in.
    pub(super) fn bitmap_entry_of(&self, block: u64) -> u64 {
        let ratio = self.chunk_ratio();
        block / ratio * (ratio + 1) + ratio
    }

    /// Sectors in a payload block.
    pub(super) fn sectors_per_block(&self) -> u64 {
        self.block / self.sector
    }

    /// The number in its sector bitmap block of the bit of a payload block's first sector.
    pub(super) fn first_bit(&self, block: u64) -> u64 {
        block % self.chunk_ratio() * self.sectors_per_block()
    }

    /// Bytes of a block that are the disk's: fewer than [`Geometry::block`] in the last one.
    pub(super) fn used(&self, block: u64) -> u64 {
        self.size.saturating_sub(block.saturating_mul(self.block)).min(self.block)
    }

    /// The pieces of `start..end`, block by block.
    pub(super) fn pieces(&self, start: u64, end: u64) -> impl Iterator<Item = Piece> {
        let block = self.block;
        let mut at = start;
        std::iter::from_fn(move || {
            (at < end).then(|| {
                let within = at % block;
                let len = (block - within).min(end - at);
                let piece = (at / block, within, len);
                at += len;
                piece
            })
        })
    }
}
