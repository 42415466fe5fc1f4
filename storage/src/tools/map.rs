//! Where the bytes of a disk are, with what file systems know of holes.

use std::os::unix::fs::MetadataExt;

use serde::Serialize;

use super::io::{DiskIo, parts};
use super::{Progress, ToolError, step};
use crate::disk::{Disk, DiskState};
use crate::layer::{Extent, Outcome, Source};
use crate::units::DiskRange;

/// Bytes that are looked up at a time.
const STEP: u64 = 64 << 20;

/// A run of a disk's bytes that are of one kind and in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MapEntry {
    /// The first byte, as the guest counts.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// What they are.
    pub state: MapState,
    /// The layer that they come from, the top being 0; none where no layer has them.
    pub depth: Option<u16>,
    /// The offset of the first in that layer's file, where the file has them as they are.
    pub offset: Option<u64>,
}

/// What bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MapState {
    /// In a file.
    Data,
    /// In a file, compressed.
    Compressed,
    /// Zero, and nowhere.
    Zero,
}

impl MapEntry {
    /// The byte after the last one.
    pub(super) fn end(&self) -> u64 {
        self.start + self.length
    }

    fn goes_on(&self, next: &MapEntry) -> bool {
        self.state == next.state
            && self.depth == next.depth
            && self.end() == next.start
            && match (self.offset, next.offset) {
                (Some(offset), Some(other)) => offset + self.length == other,
                (None, None) => true,
                _ => false,
            }
    }
}

/// The extents of the disk that `disk` has open, in order, as few as possible.
pub fn map(disk: &Disk, progress: &dyn Progress) -> Result<Vec<MapEntry>, ToolError> {
    let io = DiskIo::new(disk.path(), disk.clone())?;
    let places = Places::of(disk);
    let size = disk.size().get();
    let mut entries = Vec::new();
    let Some(all) = DiskRange::new(0, size) else { return Ok(entries) };
    for part in parts(all, STEP) {
        step(progress, part.start(), size)?;
        places.entries(&io, part, &mut entries)?;
    }
    step(progress, size, size)?;
    Ok(entries)
}

/// What looks up extents of one disk.
pub(super) struct Places<'d> {
    state: &'d DiskState,
    /// The files' numbers, where what was never written in them can be told.
    files: Vec<((u64, u64), bool)>,
}

impl<'d> Places<'d> {
    /// The places of a disk that nobody changes meanwhile.
    pub(super) fn of(disk: &'d Disk) -> Places<'d> {
        let state = disk.state();
        let number = |file: &crate::file::BackingFile| {
            // What is in the page cache only may not be told from space never written.
            let synced = file.image().sync().is_ok();
            let facts = file.image().file().metadata();
            (facts.map_or((0, 0), |facts| (facts.dev(), facts.ino())), synced)
        };
        Places { state, files: state.files.iter().map(number).collect() }
    }

    /// Appends what makes up `range` to entries that end where it starts.
    pub(super) fn entries(
        &self,
        io: &DiskIo,
        range: DiskRange,
        out: &mut Vec<MapEntry>,
    ) -> Result<(), ToolError> {
        let mut extents = Vec::new();
        let chain = &self.state.chain;
        let ticket = chain.resolve_read(range, &mut extents).map_err(|e| io.failed(e))?;
        chain.finish(ticket, Outcome::Done).map_err(|e| io.failed(e))?;
        self.refine(&extents, out);
        Ok(())
    }

    /// The same of `range` as it reads without the top layer.
    pub(super) fn below(
        &self,
        io: &DiskIo,
        range: DiskRange,
        out: &mut Vec<MapEntry>,
    ) -> Result<(), ToolError> {
        let mut extents = Vec::new();
        self.state.chain.resolve_below(range, &mut extents).map_err(|e| io.failed(e))?;
        self.refine(&extents, out);
        Ok(())
    }

    /// What tells an entry's bytes from all others on this host; none if they are nowhere.
    pub(super) fn place(&self, entry: &MapEntry) -> Option<((u64, u64), u64)> {
        let (number, _) = self.files.get(usize::from(entry.depth?))?;
        Some((*number, entry.offset?))
    }

    fn refine(&self, extents: &[Extent], out: &mut Vec<MapEntry>) {
        let mut written = Vec::new();
        for Extent { range, source } in extents {
            let (start, length) = (range.start(), range.len());
            let entry =
                MapEntry { start, length, state: MapState::Zero, depth: None, offset: None };
            let (file, offset) = match *source {
                Source::Zero | Source::Transparent => {
                    push(out, entry);
                    continue;
                }
                Source::Encoded { layer } => {
                    push(
                        out,
                        MapEntry { state: MapState::Compressed, depth: Some(layer), ..entry },
                    );
                    continue;
                }
                Source::Data { file, offset } => (file.0, offset.get()),
            };
            let whole = [(offset, length)];
            written.clear();
            let backing = self.state.files.get(usize::from(file));
            let synced = self.files.get(usize::from(file)).is_some_and(|(_, synced)| *synced);
            let told = match backing.filter(|_| synced) {
                Some(backing) => backing.image().written(offset, length, &mut written),
                None => Err(std::io::ErrorKind::Unsupported.into()),
            };
            let written = if told.is_ok() { &written[..] } else { &whole };
            let (at, depth) = (|place: u64| start + (place - offset), Some(file));
            let mut done = offset;
            for &(from, len) in written {
                let (state, hole) = (MapState::Data, from - done);
                push(out, MapEntry { start: at(done), length: hole, depth, ..entry });
                let offset = Some(from);
                push(out, MapEntry { start: at(from), length: len, state, depth, offset });
                done = from + len;
            }
            let hole = offset + length - done;
            push(out, MapEntry { start: at(done), length: hole, depth, ..entry });
        }
    }
}

/// Appends an entry, or extends the last one.
fn push(out: &mut Vec<MapEntry>, entry: MapEntry) {
    match out.last_mut() {
        _ if entry.length == 0 => {}
        Some(last) if last.goes_on(&entry) => last.length += entry.length,
        _ => out.push(entry),
    }
}
