//! Where blocks are: the block allocation table and the sector bitmaps, as they are in memory.

use std::ops::Range;
use std::sync::Arc;

use super::bat::{self, Geometry, Payload};
use super::bitmap::Bitmap;
use super::bytes::{get64, put64};
use super::pages::Pages;
use super::region::{Region, Regions};
use super::space::Space;
use super::{MIB, PAGE};
use crate::formats::FormatError;
use crate::image::ImageFile;

/// The map of a file.
pub(super) struct Map {
    pub(super) image: Arc<ImageFile>,
    pub(super) geometry: Geometry,
    pub(super) regions: Regions,
    pub(super) pages: Pages,
    pub(super) space: Space,
}

impl Map {
    /// Where an entry is: its page, and where in it.
    fn place(&self, entry: u64) -> (u64, usize) {
        let at = self.regions.bat.offset + entry * 8;
        (at - at % PAGE, usize::try_from(at % PAGE).unwrap_or_default())
    }

    /// An entry of the table.
    pub(super) fn entry(&mut self, entry: u64) -> Result<u64, FormatError> {
        let (page, at) = self.place(entry);
        Ok(get64(&self.pages.get(&self.image, page)?[..], at))
    }

    /// Changes an entry.
    pub(super) fn set_entry(&mut self, entry: u64, value: u64) -> Result<(), FormatError> {
        let (page, at) = self.place(entry);
        put64(&mut self.pages.get_mut(&self.image, page)?[..], at, value);
        Ok(())
    }

    /// What the file says of an entry that contradicts itself.
    pub(super) fn damaged(&self, entry: u64, what: impl Into<String>) -> FormatError {
        FormatError::damaged(self.regions.bat.offset + entry * 8, what)
    }

    /// Where a payload block is. Its place has been checked.
    pub(super) fn payload(&mut self, block: u64) -> Result<Payload, FormatError> {
        let number = self.geometry.entry_of(block);
        let entry = self.entry(number)?;
        let payload = match Payload::decode(entry) {
            Some(Payload::Partially(_)) | None if !self.geometry.differencing => None,
            payload => payload,
        };
        let Some(payload) = payload else {
            let what = format!("block {block} has the state {}", entry & 7);
            return Err(self.damaged(number, what));
        };
        if let Payload::Fully(offset) | Payload::Partially(offset) = payload {
            self.check_place(number, Region { offset, len: self.geometry.used(block) })?;
        }
        Ok(payload)
    }

    /// Whether a block is zero to all who read the file, not to us only.
    pub(super) fn is_marked_zero(&mut self, block: u64) -> Result<bool, FormatError> {
        Ok(self.entry(self.geometry.entry_of(block))? & 7 == bat::ZERO)
    }

    /// Takes its place from a block that does not use it.
    pub(super) fn forget_place(&mut self, block: u64) -> Result<(), FormatError> {
        let number = self.geometry.entry_of(block);
        let state = self.entry(number)? & 7;
        self.set_entry(number, state)
    }

    /// Makes the file as long as all of the disk's last block needs: files may end where the disk
    /// does in it, but the space behind is the block's, whoever gets it next.
    pub(super) fn complete_last_block(&mut self) -> Result<(), FormatError> {
        let last = self.geometry.blocks().saturating_sub(1);
        match self.payload(last) {
            Ok(Payload::Fully(offset) | Payload::Partially(offset)) => {
                self.space.lengthen(&self.image, offset.saturating_add(self.geometry.block))
            }
            // Whoever uses the block is told if its entry is damaged.
            Ok(_) | Err(FormatError::Damaged { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Where the bits of a payload block's sectors are, if there is a place for them.
    pub(super) fn bitmap(&mut self, block: u64) -> Result<Option<Bitmap>, FormatError> {
        let number = self.geometry.bitmap_entry_of(block);
        let Some(offset) = bat::bitmap_block(self.entry(number)?) else { return Ok(None) };
        self.check_place(number, Region { offset, len: MIB })?;
        Ok(Some(Bitmap(offset)))
    }

    /// The same where there must be one.
    pub(super) fn bitmap_of_partial(&mut self, block: u64) -> Result<Bitmap, FormatError> {
        self.bitmap(block)?.ok_or_else(|| {
            let what = format!("block {block} is partially present, but has no sector bitmap");
            self.damaged(self.geometry.entry_of(block), what)
        })
    }

    /// The bits of a piece of a payload block.
    pub(super) fn bits(&self, block: u64, within: u64, len: u64) -> Range<u64> {
        let first = self.geometry.first_bit(block) + within / self.geometry.sector;
        first..first + len / self.geometry.sector
    }

    fn check_place(&self, entry: u64, block: Region) -> Result<(), FormatError> {
        if block.end() <= self.space.end() && self.regions.leave_room(block) {
            return Ok(());
        }
        Err(self.damaged(entry, format!("a block at {:#x}, where none can be", block.offset)))
    }
}
