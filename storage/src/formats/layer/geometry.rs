//! Where things are in the file (`docs/layer-format.md`, "The file").

use std::ops::Range;

use crate::formats::FormatError;
use crate::units::{DiskRange, FileOffset};

/// Bytes of a block, the unit in which states are kept.
pub(super) const BLOCK: u64 = BLOCK_NUMBER as u64;
/// The same, as a length of memory.
pub(super) const BLOCK_BYTES: usize = BLOCK_NUMBER as usize;
/// The same, as the header has it.
pub(super) const BLOCK_NUMBER: u32 = 4096;
/// The header area.
pub(super) const HEADER_AREA: u64 = 1 << 20;
/// Where the zero map starts.
pub(super) const MAP_OFFSET: u64 = HEADER_AREA;
/// The body starts at a multiple of this.
const BODY_ALIGNMENT: u64 = 1 << 20;
/// The largest disk: 2^62 bytes leave room for the map within what a file can have.
const SIZE_MAX: u64 = 1 << 62;

/// The layout of a layer of a given size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Bytes of the disk.
    pub(super) size: u64,
    /// Bytes of its logical blocks.
    pub(super) sector: u32,
}

impl Geometry {
    /// Checks a size and sector size.
    pub(super) fn new(size: u64, sector: u32) -> Result<Geometry, FormatError> {
        let unsupported = |what: String| Err(FormatError::Unsupported { what });
        if sector != 512 && sector != 4096 {
            return unsupported(format!("a sector size of {sector} bytes"));
        }
        if size == 0 || size > SIZE_MAX || !size.is_multiple_of(u64::from(sector)) {
            return unsupported(format!("a disk of {size} bytes in sectors of {sector}"));
        }
        Ok(Geometry { size, sector })
    }

    /// Blocks of the disk, the last of which may be cut short by its end.
    pub(super) fn blocks(&self) -> u64 {
        self.size.div_ceil(BLOCK)
    }

    /// Bytes of the zero map: one bit per block, in whole blocks.
    pub(super) fn map_len(&self) -> u64 {
        self.blocks().div_ceil(8).next_multiple_of(BLOCK)
    }

    /// Where the disk's first byte is.
    pub(super) fn body(&self) -> u64 {
        (MAP_OFFSET + self.map_len()).next_multiple_of(BODY_ALIGNMENT)
    }

    /// Bytes of the file: whole blocks, so that a hole can take the place of each.
    pub(super) fn file_len(&self) -> u64 {
        self.body() + self.blocks() * BLOCK
    }

    /// Where byte `at` of the disk is in the file.
    pub(super) fn offset(&self, at: u64) -> Option<FileOffset> {
        FileOffset::new(self.body().checked_add(at)?)
    }

    /// The blocks that `range` touches.
    pub(super) fn touched(&self, range: DiskRange) -> Range<u64> {
        range.start() / BLOCK..range.end().div_ceil(BLOCK)
    }

    /// Where `blocks` are in the file, and how many bytes they have there.
    pub(super) fn place(&self, blocks: &Range<u64>) -> (u64, u64) {
        let count = blocks.end.saturating_sub(blocks.start);
        (self.body() + blocks.start * BLOCK, count * BLOCK)
    }

    /// The bytes of the disk in `blocks`.
    pub(super) fn bytes(&self, blocks: &Range<u64>) -> Range<u64> {
        blocks.start * BLOCK..(blocks.end * BLOCK).min(self.size)
    }
}

/// `range` as a number of bytes from a position on.
pub(super) fn disk_range(range: &Range<u64>) -> Option<DiskRange> {
    DiskRange::new(range.start, range.end.checked_sub(range.start)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_each_other() {
        for size in [512, 4096, 4096 + 512, 1 << 30, (1 << 40) + 512, SIZE_MAX] {
            let geometry = Geometry::new(size, 512).unwrap();
            assert!(geometry.map_len() * 8 >= geometry.blocks());
            assert!(geometry.body() >= MAP_OFFSET + geometry.map_len());
            assert!(geometry.body().is_multiple_of(BODY_ALIGNMENT));
            assert!(FileOffset::new(geometry.file_len()).is_some());
        }
        for (size, sector) in [(0, 512), (511, 512), (512, 4096), (512, 0), (512, 520)] {
            Geometry::new(size, sector).unwrap_err();
        }
        Geometry::new(SIZE_MAX + 512, 512).unwrap_err();
    }
}
