//! cohort's runtime format: byte *n* of the disk is at the body's start + *n* of the file, and the
//! file system knows which blocks are there. Specification: `docs/layer-format.md`.

use std::sync::{Arc, Mutex, PoisonError};

use self::blocks::{Blocks, State};
use self::geometry::{BLOCK_NUMBER, Geometry, disk_range};
use self::header::Header;
use super::pins::Pins;
use super::{FormatError, LayerFile, NewLayer};
use crate::format::Format;
use crate::identity::Identity;
use crate::image::ImageFile;
use crate::layer::{
    Erase, Extent, FileId, Finding, Layer, LayerError, LayerInfo, Outcome, Source, Ticket,
    WriteStep,
};
use crate::link::ParentLink;
use crate::units::DiskRange;

mod blocks;
mod change;
mod check;
mod geometry;
mod header;
mod mounts;
mod seal;
#[cfg(test)]
mod tests;

/// A file of the runtime format.
pub(crate) struct RuntimeLayer {
    info: LayerInfo,
    image: Arc<ImageFile>,
    file: FileId,
    geometry: Geometry,
    header: Mutex<Header>,
    blocks: Blocks,
    pins: Pins,
}

/// Makes an empty file into a layer.
pub(super) fn create(image: &ImageFile, new: &NewLayer) -> Result<(), FormatError> {
    let geometry = Geometry::new(new.size, new.sector)?;
    require_regular(image)?;
    image.set_len(geometry.file_len()).map_err(FormatError::host("set the size of", 0))?;
    header::write_signature(image)?;
    seal::write_witness(image)?;
    image.sync().map_err(FormatError::host("sync", 0))?;
    if new.parent.is_some() {
        mounts::refuse_huge_pages(image)?;
    }
    if new.parent.is_some() && !seal::witness_holds(image)? {
        let what = "a file system that does not tell written blocks of 4096 bytes from holes";
        return Err(FormatError::Unsupported { what: what.to_owned() });
    }
    let (data_id, parent) = (uuid::Uuid::new_v4(), new.parent.clone());
    let header = Header { sequence: 0, geometry, data_id, seal: None, parent };
    // The seal tells how much space the file has.
    header.reserve(image)?;
    Header { seal: Some(seal::make(image, &geometry)?), ..header }.write(image)
}

/// Refuses what cannot have holes.
fn require_regular(image: &ImageFile) -> Result<(), FormatError> {
    if image.file().metadata().map_err(FormatError::host("examine", 0))?.is_file() {
        return Ok(());
    }
    Err(FormatError::Unsupported { what: "a layer on a block device".to_owned() })
}

impl RuntimeLayer {
    /// Reads the header, and makes sure that the file system still tells what was written.
    pub(super) fn open(file: LayerFile) -> Result<RuntimeLayer, FormatError> {
        let LayerFile { image, id, memory, .. } = file;
        require_regular(&image)?;
        let header = header::current(header::read_slots(&image)?)?;
        let geometry = header.geometry;
        let len = image.len().map_err(FormatError::host("find the size of", 0))?;
        if len < geometry.file_len() {
            let what = format!("the file ends here and not at {:#x}", geometry.file_len());
            return Err(FormatError::damaged(len, what));
        }
        seal::verify(&image, &header)?;
        if image.is_writable() && header.parent.is_some() {
            mounts::refuse_huge_pages(&image)?;
            mounts::warn_if_unsound(&image);
        }
        let info = LayerInfo {
            format: Format::Layer,
            size: geometry.size,
            sector: geometry.sector,
            granularity: BLOCK_NUMBER,
            read_only: !image.is_writable(),
            parent: header.parent.clone(),
            traits: None,
        };
        let blocks = Blocks::new(&image, geometry, header.parent.is_some(), memory);
        let (header, pins) = (Mutex::new(header), Pins::default());
        Ok(RuntimeLayer { info, image, file: id, geometry, header, blocks, pins })
    }

    /// Replaces the header by one that `change` makes of it, durably.
    fn change_header(&self, change: impl FnOnce(&mut Header)) -> Result<(), FormatError> {
        let mut current = self.header.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = current.clone();
        // A header whose own number has no successor would not be read again.
        let sequence = current.sequence.checked_add(1).filter(|&number| number != u64::MAX);
        next.sequence = sequence.ok_or_else(|| {
            let what = "no sequence number is left for another header (`cohort disk convert` makes \
                        a layer that has some)";
            FormatError::damaged(current.place(), what)
        })?;
        change(&mut next);
        next.write(&self.image)?;
        *current = next;
        Ok(())
    }

    fn header(&self) -> Header {
        self.header.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Refuses what is not within the layer.
    fn require_within(&self, range: DiskRange) -> Result<(), LayerError> {
        if range.end() <= self.info.size {
            return Ok(());
        }
        Err(LayerError::Beyond { range, size: self.info.size })
    }

    /// What a run of blocks holds, in `range`, as an extent.
    fn extent(&self, run: std::ops::Range<u64>, state: State, range: DiskRange) -> Option<Extent> {
        let bytes = self.geometry.bytes(&run);
        let bytes = bytes.start.max(range.start())..bytes.end.min(range.end());
        let source = match state {
            State::Data => {
                Source::Data { file: self.file, offset: self.geometry.offset(bytes.start)? }
            }
            State::Transparent if self.info.parent.is_some() => Source::Transparent,
            State::Zero | State::Transparent => Source::Zero,
        };
        Some(Extent { range: disk_range(&bytes)?, source })
    }
}

impl Layer for RuntimeLayer {
    fn info(&self) -> &LayerInfo {
        &self.info
    }

    fn identity(&self) -> Result<Identity, LayerError> {
        Ok(Identity::Id(self.header().data_id))
    }

    /// Nothing is pinned: bytes never move, and no place of theirs is ever another block's.
    fn resolve_read(&self, range: DiskRange, out: &mut Vec<Extent>) -> Result<Ticket, LayerError> {
        self.require_within(range)?;
        let mut gap = false;
        let mut last: Option<State> = None;
        self.blocks.runs(self.geometry.touched(range), |run, state| {
            match (self.extent(run, state, range), out.last_mut()) {
                (Some(next), Some(before)) if last == Some(state) => {
                    let whole = before.range.start()..next.range.end();
                    before.range = disk_range(&whole).unwrap_or(before.range);
                }
                (Some(next), _) => out.push(next),
                (None, _) => gap = true,
            }
            last = Some(state);
        })?;
        if gap { Err(LayerError::Gap { range }) } else { Ok(change::read_ticket()) }
    }

    fn resolve_write(
        &self,
        range: DiskRange,
        out: &mut Vec<WriteStep>,
    ) -> Result<Ticket, LayerError> {
        self.plan_write(range, out)
    }

    /// Both kinds of erasure make zeroes: what this layer held may not stay as a part of blocks
    /// that are the parent's otherwise.
    fn resolve_erase(
        &self,
        range: DiskRange,
        _how: Erase,
        out: &mut Vec<WriteStep>,
    ) -> Result<Ticket, LayerError> {
        self.plan_erase(range, out)
    }

    fn finish(&self, ticket: Ticket, how: Outcome) -> Result<(), LayerError> {
        self.end(ticket.request(), how)
    }

    /// The file system has made the map durable with the payload, and the zero map is never
    /// behind.
    fn flush_metadata(&self) -> Result<(), LayerError> {
        Ok(())
    }

    fn announce_change(&self) -> Result<(), LayerError> {
        if self.info.parent.is_some() && !seal::witness_holds(&self.image)? {
            // Of a copy that lost nothing else.
            seal::write_witness(&self.image)?;
            self.image.sync().map_err(FormatError::host("sync", seal::WITNESS))?;
        }
        Ok(self.change_header(|header| {
            header.data_id = uuid::Uuid::new_v4();
            header.seal = None;
        })?)
    }

    fn set_parent(&self, link: &ParentLink) -> Result<(), LayerError> {
        if self.info.parent.is_none() {
            // What is transparent reads as zero here, and nothing else says that it does.
            let what = "a parent for a layer that was made without one".to_owned();
            return Err(FormatError::Unsupported { what }.into());
        }
        Ok(self.change_header(|header| header.parent = Some(link.clone()))?)
    }

    fn close(&self) -> Result<(), LayerError> {
        if self.info.read_only || self.header().seal.is_some() {
            return Ok(());
        }
        self.image.sync().map_err(FormatError::host("sync", 0))?;
        let seal = seal::make(&self.image, &self.geometry)?;
        Ok(self.change_header(|header| header.seal = Some(seal))?)
    }

    fn check(&self, repair: bool) -> Result<Vec<Finding>, LayerError> {
        Ok(self.look_for_damage(repair && !self.info.read_only)?)
    }
}
