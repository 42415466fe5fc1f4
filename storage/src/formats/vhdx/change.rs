//! What a request changes in the map, once its payload is where it belongs.

use std::ops::Range;

use super::MIB;
use super::bat;
use super::bitmap::Bitmap;
use super::map::Map;
use crate::formats::FormatError;

/// A change that becomes visible with [`Map::apply`].
#[derive(Debug)]
pub(super) enum Change {
    /// A payload block has space now. With `bits`, only these of its sectors are in the file.
    Place { block: u64, offset: u64, bits: Option<Range<u64>> },
    /// More sectors of a payload block are in the file.
    Present { block: u64, bits: Range<u64> },
    /// A payload block is zero, and gives its space back if it has some.
    Erase { block: u64, entry: u64, space: Option<u64> },
}

impl Map {
    /// Makes a change visible.
    pub(super) fn apply(&mut self, change: Change) -> Result<(), FormatError> {
        match change {
            Change::Place { block, offset, bits } => {
                let entry = match bits {
                    None => bat::fully(offset),
                    Some(bits) => {
                        let bitmap = self.bitmap_or_new(block)?;
                        let all = self.bits(block, 0, self.geometry.block);
                        // Bits of a block that is not present may be anything.
                        bitmap.fill(&mut self.pages, &self.image, all, false)?;
                        bitmap.fill(&mut self.pages, &self.image, bits, true)?;
                        bat::partially(offset)
                    }
                };
                self.set_entry(self.geometry.entry_of(block), entry)
            }
            Change::Present { block, bits } => self.set_present(block, bits),
            Change::Erase { block, entry, space } => {
                self.set_entry(self.geometry.entry_of(block), entry)?;
                if let Some(offset) = space {
                    self.space.release(offset);
                }
                Ok(())
            }
        }
    }

    /// Takes back what was set aside for a change that will not be.
    pub(super) fn give_up(&mut self, change: Change) {
        if let Change::Place { offset, .. } = change {
            self.space.release(offset);
        }
    }

    fn set_present(&mut self, block: u64, bits: Range<u64>) -> Result<(), FormatError> {
        // Another request may have made it fully present since.
        let bat::Payload::Partially(offset) = self.payload(block)? else { return Ok(()) };
        let bitmap = self.bitmap_of_partial(block)?;
        bitmap.fill(&mut self.pages, &self.image, bits, true)?;
        let all = self.bits(block, 0, self.geometry.used(block));
        if bitmap.all_set(&mut self.pages, &self.image, all)? {
            self.set_entry(self.geometry.entry_of(block), bat::fully(offset))?;
        }
        Ok(())
    }

    fn bitmap_or_new(&mut self, block: u64) -> Result<Bitmap, FormatError> {
        if let Some(bitmap) = self.bitmap(block)? {
            return Ok(bitmap);
        }
        let offset = self.space.grow(&self.image, MIB)?;
        self.set_entry(self.geometry.bitmap_entry_of(block), bat::fully(offset))?;
        Ok(Bitmap(offset))
    }
}
