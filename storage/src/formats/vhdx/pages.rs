//! What is kept in memory of a file's metadata: pages of 4 KiB, read when they are needed.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::ops::Range;

use super::{PAGE, PAGE_BYTES};
use crate::formats::FormatError;
use crate::image::ImageFile;

/// One page.
pub(super) type Bytes = Box<[u8; PAGE_BYTES]>;

/// Pages that a cache has room for at least.
const ROOM_MIN: usize = 16;
/// Changed pages from which on a flush is due, however much room there is.
const DIRTY_MAX: usize = 2048;

/// What a log says that the file does not yet, for files that may not be changed.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    /// By offset; `None` is a page of zeroes.
    pub(super) pages: BTreeMap<u64, Option<Bytes>>,
    /// The file's length once the log is replayed.
    pub(super) len: u64,
    /// What the file gets at its end then. Where no page says otherwise, it is zero.
    pub(super) added: Range<u64>,
}

impl Overlay {
    /// Whether some of `at..at + len` is different from what the file says.
    pub(super) fn touches(&self, at: u64, len: u64) -> bool {
        let first = at - at % PAGE;
        self.pages.range(first..at.saturating_add(len)).next().is_some()
    }

    /// How many of the `len` bytes from `at` on are before [`Overlay::added`].
    pub(super) fn before_added(&self, at: u64, len: u64) -> u64 {
        if self.added.is_empty() { len } else { self.added.start.saturating_sub(at).min(len) }
    }
}

/// A file as it is once its log is replayed.
pub(super) struct Source<'a> {
    pub(super) image: &'a ImageFile,
    pub(super) overlay: &'a Overlay,
}

impl Source<'_> {
    /// Fills `bytes` from `at`, which need not be aligned.
    pub(super) fn read(&self, bytes: &mut [u8], at: u64) -> Result<(), FormatError> {
        if !self.overlay.touches(at, bytes.len() as u64) {
            return self.read_unlogged(bytes, at);
        }
        let mut done = 0;
        while done < bytes.len() {
            let from = at.saturating_add(done as u64);
            let (page_at, within) = (from - from % PAGE, usize::try_from(from % PAGE).unwrap_or(0));
            let count = (PAGE_BYTES - within).min(bytes.len() - done);
            let part = &mut bytes[done..done + count];
            match self.overlay.pages.get(&page_at) {
                Some(Some(page)) => part.copy_from_slice(&page[within..within + count]),
                Some(None) => part.fill(0),
                None => self.read_unlogged(part, from)?,
            }
            done += count;
        }
        Ok(())
    }

    /// Fills `bytes` with what is no log's.
    fn read_unlogged(&self, bytes: &mut [u8], at: u64) -> Result<(), FormatError> {
        let own = self.overlay.before_added(at, bytes.len() as u64);
        let (own, added) = bytes.split_at_mut(usize::try_from(own).unwrap_or(bytes.len()));
        added.fill(0);
        self.image.read_at(own, at).map_err(FormatError::host("read", at))
    }
}

#[derive(Debug)]
struct Page {
    bytes: Bytes,
    /// Changed since it was taken to be written.
    dirty: bool,
    /// On its way to the file.
    leaving: bool,
}

/// A bounded cache. Changed pages stay until they are in the file.
#[derive(Debug, Default)]
pub(super) struct Pages {
    pages: HashMap<u64, Page>,
    /// Pages that it holds at most, those apart that wait to be written.
    room: usize,
    overlay: Overlay,
    dirty: usize,
}

impl Pages {
    /// A cache of at most about `memory` bytes.
    pub(super) fn new(overlay: Overlay, memory: usize) -> Pages {
        let room = (memory / PAGE_BYTES).max(ROOM_MIN);
        Pages { overlay, room, ..Pages::default() }
    }

    pub(super) fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    fn page(&mut self, image: &ImageFile, at: u64) -> Result<&mut Page, FormatError> {
        if !self.pages.contains_key(&at) {
            if self.pages.len() >= self.room {
                // Which of them are of use, nobody knows: half of them goes.
                let mut keep = false;
                self.pages.retain(|_, page| {
                    keep = !keep;
                    keep || page.dirty || page.leaving
                });
            }
            let mut bytes = Box::new([0; PAGE_BYTES]);
            Source { image, overlay: &self.overlay }.read(&mut bytes[..], at)?;
            self.pages.insert(at, Page { bytes, dirty: false, leaving: false });
        }
        self.pages.get_mut(&at).ok_or_else(|| FormatError::damaged(at, "no page"))
    }

    /// The page at `at`, a multiple of its size.
    pub(super) fn get(
        &mut self,
        image: &ImageFile,
        at: u64,
    ) -> Result<&[u8; PAGE_BYTES], FormatError> {
        Ok(&self.page(image, at)?.bytes)
    }

    /// The same page, to be changed.
    pub(super) fn get_mut(
        &mut self,
        image: &ImageFile,
        at: u64,
    ) -> Result<&mut [u8; PAGE_BYTES], FormatError> {
        let page = self.page(image, at)?;
        let fresh = !std::mem::replace(&mut page.dirty, true);
        self.dirty += usize::from(fresh);
        // Asked for again, because the count is the cache's.
        Ok(&mut self.page(image, at)?.bytes)
    }

    /// Whether so many pages wait that they should be written.
    pub(super) fn is_full(&self) -> bool {
        self.dirty >= DIRTY_MAX.min(self.room / 2)
    }

    /// Copies of the changed pages, by offset. They stay until [`Pages::written`].
    pub(super) fn take_dirty(&mut self) -> Vec<(u64, Bytes)> {
        let mut taken = Vec::with_capacity(self.dirty);
        for (at, page) in self.pages.iter_mut().filter(|(_, page)| page.dirty) {
            (page.dirty, page.leaving) = (false, true);
            taken.push((*at, page.bytes.clone()));
        }
        self.dirty = 0;
        taken.sort_unstable_by_key(|(at, _)| *at);
        taken
    }

    /// What was taken is in the file, or, where `failed`, is not.
    pub(super) fn written(&mut self, taken: &[(u64, Bytes)], failed: bool) {
        for (at, _) in taken {
            if let Some(page) = self.pages.get_mut(at) {
                page.leaving = false;
                if failed && !page.dirty {
                    page.dirty = true;
                    self.dirty += 1;
                }
            }
        }
    }
}
