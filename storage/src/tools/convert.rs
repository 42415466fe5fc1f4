//! All of a disk into a new file, of its differences only where it gets a parent.

use std::path::PathBuf;

use serde::Serialize;

use super::create::{describe, link, only_cohort, open_parent, refuse_fixed};
use super::io::{DiskIo, PIECE, options, parts};
use super::map::{MapState, Places};
use super::name::DiskName;
use super::new_file::NewFile;
use super::{Progress, ToolError, step, text};
use crate::disk::Disk;
use crate::format::Format;
use crate::formats::NewLayer;
use crate::units::DiskRange;

/// Bytes that are looked up at a time.
const WINDOW: u64 = 64 << 20;
/// Fewest bytes that are left out for being zero, or the parent's.
const BLOCK_MIN: u64 = 4096;
/// The same for a new file without a parent: smaller holes cost more than they save.
const BLOCK_ZERO: u64 = 64 << 10;

/// What is to be copied where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Convert {
    /// The disk.
    pub source: DiskName,
    /// The new file, whose name must be free.
    pub target: PathBuf,
    /// Its format; without one, the name tells.
    pub format: Option<Format>,
    /// Its parent: what both have is not copied.
    pub parent: Option<DiskName>,
    /// Take all of the space at once, where the format knows such images.
    pub fixed: bool,
}

/// What was copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Converted {
    /// The new file.
    #[serde(serialize_with = "text::path")]
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes that were written to it.
    pub written: u64,
    /// Other programs that know its format would not follow it to its parent.
    pub only_cohort_follows: bool,
}

/// Copies a disk.
pub fn convert(order: &Convert, progress: &dyn Progress) -> Result<Converted, ToolError> {
    NewFile::check(&order.target)?;
    let format = order.format.unwrap_or_else(|| Format::of_name(&order.target));
    refuse_fixed(&order.target, format, order.fixed)?;
    let mut source = DiskIo::new(&order.source.path, order.source.open()?)?;
    let base = order.parent.as_ref().map(|parent| open_parent(parent, &order.target));
    let base = base.transpose()?;
    let (size, sector) = (source.size(), source.disk.state().chain.info().sector);
    let new = describe(&order.target, base.as_ref(), Some(size), Some(sector), order.fixed)?;
    let link = match &base {
        Some((parent, disk)) => Some(link(&order.target, parent, disk)?),
        None => None,
    };
    let only_cohort_follows = link.as_ref().is_some_and(|link| only_cohort(format, link.format));
    let file = NewFile::create(&order.target, format, &NewLayer { parent: link, ..new })?;
    let disk = Disk::open(file.path(), &options(Some(format), false))?;
    let mut target = DiskIo::new(&order.target, disk)?;
    let written = match base {
        Some(_) => copy_differences(&mut source, &mut target, progress),
        None => copy_data(&mut source, &mut target, progress),
    };
    if written.is_err() {
        target.abandon();
    }
    let written = written?;
    target.settle()?;
    drop(target);
    step(progress, size, size)?;
    file.publish()?;
    Ok(Converted { path: order.target.clone(), format, size, written, only_cohort_follows })
}

/// Copies what is not zero to a disk that is all zero.
fn copy_data(
    source: &mut DiskIo,
    target: &mut DiskIo,
    progress: &dyn Progress,
) -> Result<u64, ToolError> {
    let (size, disk) = (source.size(), source.disk.clone());
    let places = Places::of(&disk);
    let (mut entries, mut written) = (Vec::new(), 0);
    for window in whole(size, WINDOW) {
        step(progress, window.start(), size)?;
        entries.clear();
        places.entries(source, window, &mut entries)?;
        for entry in entries.iter().filter(|entry| entry.state != MapState::Zero) {
            let Some(range) = DiskRange::new(entry.start, entry.length) else { continue };
            for part in parts(range, PIECE) {
                step(progress, part.start(), size)?;
                let bytes = source.read(part)?;
                written += store(target, part, BLOCK_ZERO, bytes, |_, block| !is_zero(block))?;
            }
        }
    }
    Ok(written)
}

/// Copies what differs to a child that reads as its parent.
fn copy_differences(
    source: &mut DiskIo,
    target: &mut DiskIo,
    progress: &dyn Progress,
) -> Result<u64, ToolError> {
    let (size, disk, child) = (source.size(), source.disk.clone(), target.disk.clone());
    let (here, there) = (Places::of(&disk), Places::of(&child));
    let block = u64::from(child.state().chain.info().granularity).clamp(BLOCK_MIN, PIECE);
    let (mut left, mut right, mut written) = (Vec::new(), Vec::new(), 0);
    for part in whole(size, PIECE) {
        step(progress, part.start(), size)?;
        left.clear();
        right.clear();
        here.entries(source, part, &mut left)?;
        there.below(target, part, &mut right)?;
        let zero = |entries: &[super::MapEntry]| entries.iter().all(|e| e.state == MapState::Zero);
        if zero(&left) && zero(&right) || same_places(&here, &left, &there, &right) {
            continue;
        }
        let before = target.read(part)?.to_vec();
        let bytes = source.read(part)?;
        if zero(&left) {
            target.zero(part)?;
            continue;
        }
        let differs = |at: usize, block: &[u8]| before.get(at..at + block.len()) != Some(block);
        written += store(target, part, block, bytes, differs)?;
    }
    Ok(written)
}

/// Whether two lists of entries are the same bytes of the same files.
pub(super) fn same_places(
    here: &Places<'_>,
    left: &[super::MapEntry],
    there: &Places<'_>,
    right: &[super::MapEntry],
) -> bool {
    left.len() == right.len()
        && left.iter().zip(right).all(|(a, b)| {
            let (place, other) = (here.place(a), there.place(b));
            (a.start, a.length) == (b.start, b.length)
                && a.state == b.state
                && (a.state == MapState::Zero || place.is_some() && place == other)
        })
}

/// Writes the blocks of `bytes`, which are for `range`, that are wanted, in as few runs as
/// possible; says how many bytes.
fn store(
    target: &mut DiskIo,
    range: DiskRange,
    block: u64,
    bytes: &[u8],
    wanted: impl Fn(usize, &[u8]) -> bool,
) -> Result<u64, ToolError> {
    let (mut written, mut run) = (0, None::<(u64, u64)>);
    for part in parts(range, block).map(Some).chain([None]) {
        let at = part.map(|part| (part.start() - range.start(), part.end() - range.start()));
        let content = |from: u64, to: u64| {
            let (from, to) = (usize::try_from(from).ok()?, usize::try_from(to).ok()?);
            Some((from, bytes.get(from..to)?))
        };
        let keep = at
            .and_then(|(from, to)| content(from, to))
            .is_some_and(|(from, block)| wanted(from, block));
        match (run, at) {
            (Some((from, _)), Some((_, to))) if keep => run = Some((from, to)),
            (None, Some(part)) if keep => run = Some(part),
            (Some((from, to)), _) => {
                run = None;
                let place = DiskRange::new(range.start() + from, to - from);
                if let (Some(place), Some((_, bytes))) = (place, content(from, to)) {
                    target.write(place, bytes)?;
                    written += to - from;
                }
            }
            _ => {}
        }
    }
    Ok(written)
}

/// A disk of `size` bytes in parts.
pub(super) fn whole(size: u64, unit: u64) -> impl Iterator<Item = DiskRange> {
    DiskRange::new(0, size).into_iter().flat_map(move |all| parts(all, unit))
}

/// Whether all bytes are zero.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}
