//! Changes of metadata (MS-VHDX 2.3): each page goes into the log, durably, before it goes to its
//! place.
//!
//! An entry is written when all before it is in place, durably, so each is its own tail, and the
//! log always holds one whole entry: the next one never lies over the last.

use uuid::Uuid;

use super::header::Headers;
use super::log::{self, PAGES_MAX};
use super::pages::Bytes;
use super::region::Region;
use crate::formats::FormatError;
use crate::image::ImageFile;

/// The log of a file that is open for writing.
#[derive(Debug)]
pub(super) struct Journal {
    place: Region,
    guid: Uuid,
    sequence: u64,
    /// Where in the log the next entry goes.
    next: u64,
    /// What is in place is not known: the log stays, for the next one who opens the file.
    failed: bool,
}

impl Journal {
    /// A log in which nothing matters.
    pub(super) fn new(place: Region) -> Journal {
        Journal { place, guid: Uuid::new_v4(), sequence: 1, next: 0, failed: false }
    }

    /// Puts pages in their places. They are durable on return, and what was written to the file
    /// before is durable before them. The pages are taken in order where they do not fit into
    /// one entry: each of them may need those before it, not those after.
    pub(super) fn write(
        &mut self,
        image: &ImageFile,
        headers: &mut Headers,
        pages: &[(u64, Bytes)],
    ) -> Result<(), FormatError> {
        if self.failed {
            let what = "writing metadata after that has failed (open the disk again)".to_owned();
            return Err(FormatError::Unsupported { what });
        }
        pages.chunks(PAGES_MAX).try_for_each(|batch| self.write_batch(image, headers, batch))
    }

    fn write_batch(
        &mut self,
        image: &ImageFile,
        headers: &mut Headers,
        pages: &[(u64, Bytes)],
    ) -> Result<(), FormatError> {
        // The length that is durable is the one from before the sync.
        let len = image.len().map_err(FormatError::host("find the size of", 0))?;
        // Should this fail, what is in place is not known either: then the last entry must stay.
        self.failed = true;
        image.sync().map_err(FormatError::host("sync", 0))?;
        let at = u32::try_from(self.next).unwrap_or_default();
        let entry = log::encode(pages, self.guid, self.sequence, at, len);
        // Where there was no room for it, the last entry stands, and is in place.
        self.write_circular(image, &entry).inspect_err(|_| self.failed = false)?;
        image.sync().map_err(FormatError::host("sync", self.place.offset))?;
        if headers.current().log != self.guid {
            let guid = self.guid;
            headers.update(image, |header| header.log = guid)?;
        }
        self.next = (self.next + entry.len() as u64) % self.place.len;
        self.sequence += 1;
        for (at, bytes) in pages {
            image.write_at(&bytes[..], *at).map_err(FormatError::host("write", *at))?;
        }
        self.failed = false;
        Ok(())
    }

    fn write_circular(&self, image: &ImageFile, entry: &[u8]) -> Result<(), FormatError> {
        let room = usize::try_from(self.place.len - self.next).unwrap_or(usize::MAX);
        let (first, rest) = entry.split_at(entry.len().min(room));
        for (bytes, at) in [(first, self.next), (rest, 0)] {
            let at = self.place.offset + at;
            if !bytes.is_empty() {
                image.write_at(bytes, at).map_err(FormatError::host("write", at))?;
            }
        }
        Ok(())
    }

    /// Makes sure that the log does not matter any more. Then the file may also be cut.
    pub(super) fn empty(
        &mut self,
        image: &ImageFile,
        headers: &mut Headers,
    ) -> Result<(), FormatError> {
        if headers.current().log.is_nil() || self.failed {
            return Ok(());
        }
        image.sync().map_err(FormatError::host("sync", 0))?;
        headers.update(image, |header| header.log = Uuid::nil())?;
        // Entries of a log that did not matter must not be taken for those of one that does.
        *self = Journal::new(self.place);
        Ok(())
    }
}
