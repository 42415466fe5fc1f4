//! The file's space: what new blocks take, and when what erased blocks leave may be taken again.

use super::MIB;
use crate::formats::FormatError;
use crate::image::ImageFile;

/// Space for new blocks. All that it gives out reads as zeroes.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// Where the file ends, a multiple of 1 MiB. All blocks are before.
    end: u64,
    /// Offsets of payload blocks' space that nothing refers to, durably.
    free: Vec<u64>,
    /// The same, as long as the file may still refer to it.
    released: Vec<u64>,
}

impl Space {
    /// Of a file of `len` bytes.
    pub(super) fn new(len: u64) -> Space {
        // A file that ends so far out takes no new blocks.
        let end = len.checked_next_multiple_of(MIB).unwrap_or(u64::MAX - MIB + 1);
        Space { end, ..Space::default() }
    }

    /// Where the file ends.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Space for a payload block of `len` bytes.
    pub(super) fn payload(&mut self, image: &ImageFile, len: u64) -> Result<u64, FormatError> {
        match self.free.pop() {
            Some(offset) => Ok(offset),
            None => self.grow(image, len),
        }
    }

    /// Space at the file's end.
    pub(super) fn grow(&mut self, image: &ImageFile, len: u64) -> Result<u64, FormatError> {
        let at = self.end;
        let end = at.checked_add(len).filter(|&end| end <= i64::MAX as u64);
        let end = end.ok_or_else(|| FormatError::damaged(at, "the file cannot grow"))?;
        image.set_len(end).map_err(FormatError::host("set the size of", at))?;
        self.end = end;
        Ok(at)
    }

    /// Makes the file `end` bytes long if it is shorter.
    pub(super) fn lengthen(&mut self, image: &ImageFile, end: u64) -> Result<(), FormatError> {
        if image.len().map_err(FormatError::host("find the size of", 0))? < end {
            image.set_len(end).map_err(FormatError::host("set the size of", end))?;
        }
        self.end = self.end.max(end);
        Ok(())
    }

    /// Takes back a payload block's space, to which the file may still refer.
    pub(super) fn release(&mut self, offset: u64) {
        self.released.push(offset);
    }

    /// What was released so far. Goes to [`Space::reuse`] when the file refers to none of it.
    pub(super) fn take_released(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.released)
    }

    /// Space that nothing refers to and that reads as zeroes.
    pub(super) fn reuse(&mut self, offsets: Vec<u64>) {
        self.free.extend(offsets);
    }

    /// Forgets what is behind `end`, where the file now ends.
    pub(super) fn cut(&mut self, end: u64) {
        self.end = end;
        self.free.retain(|&offset| offset < end);
        self.released.retain(|&offset| offset < end);
    }
}
