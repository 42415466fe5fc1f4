//! Telling whether a file still knows which of its blocks were written
//! (`docs/layer-format.md`, "The seal").

use std::ops::Range;
use std::os::unix::fs::MetadataExt;

use super::geometry::{BLOCK, BLOCK_BYTES, Geometry};
use super::header::{Header, Seal, Written};
use crate::formats::FormatError;
use crate::image::ImageFile;

/// A block of zeroes that is written, with a hole behind it.
pub(super) const WITNESS: u64 = 512 << 10;
/// Bytes of the disk whose extents are asked for at once.
const STRIDE: u64 = 256 << 20;
/// Blocks after which a seal goes no further: 256 TiB.
const COVERED_MAX: u64 = (256 << 40) / BLOCK;
/// Runs after which a seal goes no further. A file system takes about 1 us to tell of one.
const RUNS_MAX: usize = 32 << 10;

/// What makes a copy of a layer useless, and what to do instead.
const LOST: &str = "which blocks are written is not what was recorded: a copy has lost the \
                    difference between zeroes and holes (copy layers with `cohort disk convert`, \
                    `tar --sparse` or `cp --reflink=always`)";

/// Writes the witness.
pub(super) fn write_witness(image: &ImageFile) -> Result<(), FormatError> {
    let zeroes = [0; BLOCK_BYTES];
    image.write_at(&zeroes, WITNESS).map_err(FormatError::host("write", WITNESS))?;
    image.punch(WITNESS + BLOCK, BLOCK).map_err(FormatError::host("punch", WITNESS + BLOCK))
}

/// Whether the witness is as it was written. The file has been synced since.
pub(super) fn witness_holds(image: &ImageFile) -> Result<bool, FormatError> {
    let mut ranges = Vec::new();
    let host = FormatError::host("map", WITNESS);
    image.written(WITNESS, 2 * BLOCK, &mut ranges).map_err(host)?;
    Ok(ranges == [(WITNESS, BLOCK)])
}

/// Appends the runs of whole blocks in `blocks` that are written, in order.
pub(super) fn written_blocks(
    image: &ImageFile,
    geometry: &Geometry,
    blocks: &Range<u64>,
    ranges: &mut Vec<(u64, u64)>,
    mut each: impl FnMut(Range<u64>),
) -> Result<(), FormatError> {
    let (bytes, body) = (geometry.bytes(blocks), geometry.body());
    let at = body + bytes.start;
    ranges.clear();
    let host = FormatError::host("map", at);
    image.written(at, bytes.end.saturating_sub(bytes.start), ranges).map_err(host)?;
    for &(start, len) in &*ranges {
        let (start, end) = (start.saturating_sub(body), (start + len).saturating_sub(body));
        // What is written in part only was never finished.
        let end = if end == geometry.size { end.div_ceil(BLOCK) } else { end / BLOCK };
        let run = start.div_ceil(BLOCK)..end;
        if !run.is_empty() {
            each(run);
        }
    }
    Ok(())
}

/// Which of the body's blocks before `end` are written; at most about `runs` runs are looked at.
/// The file has been synced.
fn written(
    image: &ImageFile,
    geometry: &Geometry,
    end: u64,
    runs: usize,
) -> Result<Written, FormatError> {
    let (mut found, mut ranges) = (Written::default(), Vec::new());
    let (mut run, mut seen) = (0..0, 0);
    let mut add = |run: &Range<u64>| {
        if !run.is_empty() {
            let count = run.end - run.start;
            found.blocks += count;
            for number in [run.start, count] {
                found.checksum = crc32c::crc32c_append(found.checksum, &number.to_le_bytes());
            }
        }
    };
    let (mut at, all) = (0, end.min(geometry.blocks()).min(COVERED_MAX));
    while at < all && seen < runs {
        let end = (at + STRIDE / BLOCK).min(all);
        written_blocks(image, geometry, &(at..end), &mut ranges, |next| {
            if next.start == run.end {
                run.end = next.end;
            } else {
                add(&run);
                run = next;
            }
        })?;
        (at, seen) = (end, seen + ranges.len());
    }
    add(&run);
    found.covered = at;
    Ok(found)
}

/// Whether the blocks that `seal` is about are written as they were. The file has been synced.
pub(super) fn matches(
    image: &ImageFile,
    geometry: &Geometry,
    seal: &Seal,
) -> Result<bool, FormatError> {
    Ok(written(image, geometry, seal.written.covered, usize::MAX)? == seal.written)
}

/// What tells the file from all others, and the space that it has.
fn facts(image: &ImageFile) -> Result<((u64, u64), u64), FormatError> {
    let facts = image.file().metadata().map_err(FormatError::host("examine", 0))?;
    Ok(((facts.dev(), facts.ino()), facts.blocks()))
}

/// The seal of a file that has been synced.
pub(super) fn make(image: &ImageFile, geometry: &Geometry) -> Result<Seal, FormatError> {
    let written = written(image, geometry, geometry.blocks(), RUNS_MAX)?;
    let (file, space) = facts(image)?;
    Ok(Seal { file, written, space })
}

/// Whether it is the file that was sealed, and nothing was punched out of it or filled in it since:
/// either changes its space.
pub(super) fn is_untouched(image: &ImageFile, seal: &Seal) -> Result<bool, FormatError> {
    Ok((seal.file, seal.space) == facts(image)?)
}

/// Makes sure, when a layer is opened, that the file system tells what was written.
pub(super) fn verify(image: &ImageFile, header: &Header) -> Result<(), FormatError> {
    let sync = || image.sync().map_err(FormatError::host("sync", 0));
    let geometry = &header.geometry;
    let same = match &header.seal {
        Some(seal) => is_untouched(image, seal)?,
        None => false,
    };
    if !same {
        // What is in the page cache only may not count as written yet.
        sync()?;
    }
    if header.parent.is_none() {
        // Holes and zeroes read the same.
        return Ok(());
    }
    let holds = witness_holds(image)?;
    let fine = match &header.seal {
        Some(_) if same && holds => true,
        // The witness may be lost where no such block of the disk's own was there to lose.
        Some(seal) => {
            sync()?;
            (holds || seal.written.covered == geometry.blocks()) && matches(image, geometry, seal)?
        }
        None => holds,
    };
    if fine { Ok(()) } else { Err(FormatError::damaged(geometry.body(), LOST)) }
}
