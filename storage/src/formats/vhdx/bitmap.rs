//! Bits of sector bitmap blocks (MS-VHDX 2.4): one for each sector, set where this file has it.

use std::ops::Range;

use super::pages::Pages;
use super::{PAGE, PAGE_BYTES};
use crate::formats::FormatError;
use crate::image::ImageFile;

/// Bits in a page.
const BITS: u64 = PAGE * 8;

/// A sector bitmap block: where it is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bitmap(pub(super) u64);

impl Bitmap {
    /// The pages that hold `bits`: their places, and which of their bits.
    fn pages(self, bits: Range<u64>) -> impl Iterator<Item = (u64, Range<usize>)> {
        let mut at = bits.start;
        std::iter::from_fn(move || {
            (at < bits.end).then(|| {
                let page = at / BITS;
                let end = bits.end.min((page + 1) * BITS);
                let within = |bit: u64| usize::try_from(bit - page * BITS).unwrap_or_default();
                let part = within(at)..within(end);
                at = end;
                (self.0 + page * PAGE, part)
            })
        })
    }

    /// Calls `run` for each run of equal bits in `bits`: how many, and whether they are set.
    pub(super) fn runs(
        self,
        pages: &mut Pages,
        image: &ImageFile,
        bits: Range<u64>,
        mut run: impl FnMut(u64, bool),
    ) -> Result<(), FormatError> {
        let mut last: Option<(u64, bool)> = None;
        for (at, part) in self.pages(bits) {
            let page = pages.get(image, at)?;
            let mut bit = part.start;
            while bit < part.end {
                let byte = page[bit / 8];
                let set = byte >> (bit % 8) & 1 != 0;
                // A byte at a time where all of its bits are equal.
                let whole = bit.is_multiple_of(8) && part.end - bit >= 8;
                let count = if whole && (byte == 0 || byte == 0xff) { 8 } else { 1 };
                match &mut last {
                    Some((len, same)) if *same == set => *len += count as u64,
                    _ => {
                        if let Some((len, same)) = last.replace((count as u64, set)) {
                            run(len, same);
                        }
                    }
                }
                bit += count;
            }
        }
        if let Some((len, same)) = last {
            run(len, same);
        }
        Ok(())
    }

    /// Whether all of `bits` are set.
    pub(super) fn all_set(
        self,
        pages: &mut Pages,
        image: &ImageFile,
        bits: Range<u64>,
    ) -> Result<bool, FormatError> {
        let mut all = true;
        self.runs(pages, image, bits, |_, set| all &= set)?;
        Ok(all)
    }

    /// Sets or clears `bits`.
    pub(super) fn fill(
        self,
        pages: &mut Pages,
        image: &ImageFile,
        bits: Range<u64>,
        set: bool,
    ) -> Result<(), FormatError> {
        for (at, part) in self.pages(bits) {
            let page: &mut [u8; PAGE_BYTES] = pages.get_mut(image, at)?;
            for bit in part {
                let mask = 1 << (bit % 8);
                if set {
                    page[bit / 8] |= mask;
                } else {
                    page[bit / 8] &= !mask;
                }
            }
        }
        Ok(())
    }
}
