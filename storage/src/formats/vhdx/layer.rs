//! An open VHDX as a [`Layer`].

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::bat::Payload;
use super::change::Change;
use super::check::Copies;
use super::header::Headers;
use super::journal::Journal;
use super::map::Map;
use super::metadata::{Metadata, set_place};
use super::pages::{Bytes, Pages, Source as MetadataSource};
use super::plan::{Plan, Wish};
use super::region::{Region, Regions};
use super::space::Space;
use super::{PAGE, PAGE_BYTES, check, locator, replay};
use crate::format::Format;
use crate::formats::pins::{Hold, Pins};
use crate::formats::{FormatError, LayerFile};
use crate::identity::Identity;
use crate::image::ImageFile;
use crate::layer::{
    Erase, Extent, FileId, Finding, Layer, LayerError, LayerInfo, Outcome, Source, Ticket,
    WriteStep,
};
use crate::link::ParentLink;
use crate::units::{DiskRange, FileOffset};

/// The ticket of requests to layers that never change.
const UNPINNED: u64 = u64::MAX;

/// A VHDX file.
pub(crate) struct VhdxLayer {
    info: LayerInfo,
    image: Arc<ImageFile>,
    file: FileId,
    leave_allocated: bool,
    pins: Pins,
    /// Whether payload may have been written since the file was opened.
    changed: AtomicBool,
    shared: Mutex<Shared>,
    /// Whoever writes metadata to the file. Taken before [`VhdxLayer::shared`].
    writer: Mutex<Writer>,
}

/// The map, and what requests under way will change in it, by ticket.
pub(super) struct Shared {
    pub(super) map: Map,
    pending: HashMap<u64, Vec<Change>>,
}

pub(super) struct Writer {
    headers: Headers,
    journal: Journal,
    metadata: Metadata,
    /// Whether the file was searched for free space.
    searched: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl VhdxLayer {
    /// Reads all but the map, which is read as it is needed.
    pub(super) fn open(file: LayerFile) -> Result<VhdxLayer, FormatError> {
        let LayerFile { image, id, memory, .. } = file;
        let mut headers = Headers::read(&image)?;
        let overlay = replay::replay(&image, &mut headers)?;
        let len = overlay.len;
        let header = headers.current();
        let log = Region { offset: header.log_offset, len: u64::from(header.log_len) };
        let source = MetadataSource { image: &image, overlay: &overlay };
        let regions = Regions::read(&source, log)?;
        let metadata = Metadata::read(&source, regions.metadata)?;
        let geometry = metadata.geometry;
        if [regions.bat, regions.metadata, log].iter().any(|region| region.end() > len) {
            return Err(FormatError::damaged(len, "the file ends before its last region"));
        }
        if regions.bat.len < geometry.entries() * 8 {
            let what = "the BAT is too short for the disk";
            return Err(FormatError::damaged(regions.bat.offset, what));
        }
        let at = regions.metadata.offset;
        let parent = metadata.locator.as_deref().map(|bytes| locator::decode(bytes, at));
        let sector = u32::try_from(geometry.sector).unwrap_or_default();
        let info = LayerInfo {
            format: Format::Vhdx,
            size: geometry.size,
            sector,
            // Nothing is copied up: sector bitmaps tell whose a sector is.
            granularity: sector,
            read_only: !image.is_writable(),
            parent: parent.transpose()?,
            traits: Some(metadata.traits),
        };
        let leave_allocated = metadata.leave_allocated;
        let (pages, space) = (Pages::new(overlay, memory), Space::new(len.max(regions.end)));
        let map = Map { image: Arc::clone(&image), geometry, regions, pages, space };
        let shared = Mutex::new(Shared { map, pending: HashMap::new() });
        let writer =
            Mutex::new(Writer { headers, journal: Journal::new(log), metadata, searched: false });
        Ok(VhdxLayer {
            info,
            image,
            file: id,
            leave_allocated,
            pins: Pins::default(),
            changed: AtomicBool::new(false),
            shared,
            writer,
        })
    }

    /// The blocks of a range, which lies within the disk.
    fn blocks(&self, map: &Map, range: DiskRange) -> Result<Range<u64>, LayerError> {
        if range.end() > self.info.size {
            return Err(LayerError::Beyond { range, size: self.info.size });
        }
        let block = map.geometry.block;
        Ok(range.start() / block..range.end().div_ceil(block))
    }

    fn resolve_change(
        &self,
        range: DiskRange,
        wish: Wish,
        out: &mut Vec<WriteStep>,
    ) -> Result<Ticket, LayerError> {
        if self.info.read_only {
            return Err(FormatError::Unsupported { what: "a change".to_owned() }.into());
        }
        self.changed.store(true, Ordering::Release);
        let mut shared = lock(&self.shared);
        let Shared { map, pending } = &mut *shared;
        let blocks = self.blocks(map, range)?;
        let plan = Plan::new(map, range, wish, self.leave_allocated)?;
        let pin = self.pins.try_hold(blocks, plan.hold()).ok_or(LayerError::Busy)?;
        let (steps, mut changes) = (out.len(), Vec::new());
        if let Err(error) = plan.carry_out(map, self.file, out, &mut changes) {
            changes.into_iter().for_each(|change| map.give_up(change));
            out.truncate(steps);
            self.pins.release(pin);
            return Err(error.into());
        }
        if !changes.is_empty() {
            pending.insert(pin, changes);
        }
        Ok(Ticket::new(pin))
    }

    /// Writes what was published. Nobody is kept from using the map meanwhile.
    fn flush(&self, writer: &mut Writer) -> Result<(), FormatError> {
        let mut shared = lock(&self.shared);
        let (mut taken, released) =
            (shared.map.pages.take_dirty(), shared.map.space.take_released());
        let bat = shared.map.regions.bat;
        let block = shared.map.geometry.block;
        drop(shared);
        put_in_order(&mut taken, bat);
        let result = if !taken.is_empty() {
            writer.journal.write(&self.image, &mut writer.headers, &taken)
        } else if !released.is_empty() {
            // What was read from the file is in it for good.
            self.image.sync().map_err(FormatError::host("sync", 0))
        } else {
            Ok(())
        };
        let mut shared = lock(&self.shared);
        shared.map.pages.written(&taken, result.is_err());
        if result.is_err() {
            released.into_iter().for_each(|offset| shared.map.space.release(offset));
            return result;
        }
        drop(shared);
        // The file refers to none of it any more.
        let zeroed = released.into_iter().filter(|&at| self.image.punch(at, block).is_ok());
        let zeroed: Vec<u64> = zeroed.collect();
        lock(&self.shared).map.space.reuse(zeroed);
        Ok(())
    }

    /// Appends the extents of `range`.
    fn extents(
        &self,
        map: &mut Map,
        range: DiskRange,
        out: &mut Vec<Extent>,
    ) -> Result<(), LayerError> {
        let geometry = map.geometry;
        let first = out.len();
        let mut push = |start: u64, len: u64, source: Option<Source>| -> Result<(), LayerError> {
            let (Some(part), Some(source)) = (DiskRange::new(start, len), source) else {
                return Err(LayerError::Gap { range });
            };
            if let Some(last) = out[first..].last_mut()
                && last.source == source
                && matches!(source, Source::Zero | Source::Transparent)
                && let Some(joined) = DiskRange::new(last.range.start(), last.range.len() + len)
            {
                last.range = joined;
            } else {
                out.push(Extent { range: part, source });
            }
            Ok(())
        };
        let data =
            |at: u64| FileOffset::new(at).map(|offset| Source::Data { file: self.file, offset });
        for (block, within, len) in geometry.pieces(range.start(), range.end()) {
            let first_byte = block * geometry.block;
            let start = first_byte + within;
            match map.payload(block)? {
                Payload::NotPresent if geometry.differencing => {
                    push(start, len, Some(Source::Transparent))?;
                }
                Payload::NotPresent | Payload::Zero => push(start, len, Some(Source::Zero))?,
                Payload::Fully(at) => {
                    refuse_logged_payload(map, at + within, len)?;
                    push(start, len, data(at + within))?;
                }
                Payload::Partially(at) => {
                    refuse_logged_payload(map, at + within, len)?;
                    let bitmap = map.bitmap_of_partial(block)?;
                    // Whoever asks may have smaller sectors, and want parts of these.
                    let (wanted, sector) = (within..within + len, geometry.sector);
                    let mut next = within - within % sector;
                    let whole = wanted.end.next_multiple_of(sector) - next;
                    let bits = map.bits(block, next, whole);
                    let mut result = Ok(());
                    bitmap.runs(&mut map.pages, &map.image, bits, |sectors, present| {
                        let from = next.max(wanted.start);
                        next += sectors * sector;
                        let len = next.min(wanted.end) - from;
                        let source =
                            if present { data(at + from) } else { Some(Source::Transparent) };
                        if result.is_ok() {
                            result = push(first_byte + from, len, source);
                        }
                    })?;
                    result?;
                }
            }
        }
        zero_added(map, first, out);
        Ok(())
    }

    fn refuse_read_only(&self) -> Result<(), FormatError> {
        match self.info.read_only {
            true => Err(FormatError::Unsupported { what: "a change".to_owned() }),
            false => Ok(()),
        }
    }
}

/// Payload that is in the log only cannot be read where it belongs.
fn refuse_logged_payload(map: &Map, at: u64, len: u64) -> Result<(), FormatError> {
    if !map.pages.overlay().touches(at, len) {
        return Ok(());
    }
    let what = "reading this disk before its log is replayed (open it once for writing)";
    Err(FormatError::Unsupported { what: what.to_owned() })
}

/// What the log adds to the file's end is not there yet, and zero.
fn zero_added(map: &Map, first: usize, out: &mut Vec<Extent>) {
    let overlay = map.pages.overlay();
    if overlay.added.is_empty() {
        return;
    }
    for extent in out.split_off(first) {
        let Extent { range, source: Source::Data { offset, .. } } = extent else {
            out.push(extent);
            continue;
        };
        let own = overlay.before_added(offset.get(), range.len());
        let own_end = range.start() + own;
        let own = DiskRange::new(range.start(), own).filter(|own| !own.is_empty());
        out.extend(own.map(|range| Extent { range, ..extent }));
        let added = DiskRange::new(own_end, range.end() - own_end).filter(|it| !it.is_empty());
        out.extend(added.map(|range| Extent { range, source: Source::Zero }));
    }
}

/// Puts pages in an order in which each needs only those before it: bits first, then entries, the
/// last ones first, because the entry of a sector bitmap block comes behind those of its blocks.
fn put_in_order(pages: &mut [(u64, Bytes)], bat: Region) {
    pages.sort_unstable_by_key(|&(at, _)| {
        let entry = bat.offset <= at && at < bat.end();
        (entry, std::cmp::Reverse(at))
    });
}

impl Layer for VhdxLayer {
    fn info(&self) -> &LayerInfo {
        &self.info
    }

    fn identity(&self) -> Result<Identity, LayerError> {
        Ok(Identity::Id(lock(&self.writer).headers.current().data_write))
    }

    fn resolve_read(&self, range: DiskRange, out: &mut Vec<Extent>) -> Result<Ticket, LayerError> {
        let mut shared = lock(&self.shared);
        let map = &mut shared.map;
        let blocks = self.blocks(map, range)?;
        let pin = match self.info.read_only {
            true => UNPINNED,
            false => self.pins.try_hold(blocks, Hold::Shared).ok_or(LayerError::Busy)?,
        };
        let extents = out.len();
        self.extents(map, range, out).map(|()| Ticket::new(pin)).inspect_err(|_| {
            out.truncate(extents);
            self.pins.release(pin);
        })
    }

    fn resolve_write(
        &self,
        range: DiskRange,
        out: &mut Vec<WriteStep>,
    ) -> Result<Ticket, LayerError> {
        self.resolve_change(range, Wish::Write, out)
    }

    fn resolve_erase(
        &self,
        range: DiskRange,
        how: Erase,
        out: &mut Vec<WriteStep>,
    ) -> Result<Ticket, LayerError> {
        self.resolve_change(range, Wish::Erase(how), out)
    }

    fn finish(&self, ticket: Ticket, how: Outcome) -> Result<(), LayerError> {
        let pin = ticket.request();
        if pin == UNPINNED {
            return Ok(());
        }
        let mut shared = lock(&self.shared);
        let Shared { map, pending } = &mut *shared;
        let mut result = Ok(());
        for change in pending.remove(&pin).unwrap_or_default() {
            match how {
                Outcome::Done if result.is_ok() => result = map.apply(change),
                _ => map.give_up(change),
            }
        }
        self.pins.release(pin);
        let full = map.pages.is_full();
        drop(shared);
        result?;
        if full {
            self.flush(&mut lock(&self.writer))?;
        }
        Ok(())
    }

    fn flush_metadata(&self) -> Result<(), LayerError> {
        Ok(self.flush(&mut lock(&self.writer))?)
    }

    fn announce_change(&self) -> Result<(), LayerError> {
        self.refuse_read_only()?;
        let mut writer = lock(&self.writer);
        writer.headers.update(&self.image, |header| {
            header.file_write = Uuid::new_v4();
            header.data_write = Uuid::new_v4();
        })?;
        lock(&self.shared).map.complete_last_block()?;
        // Once, and before anything is set aside that no entry tells of yet.
        let searched = std::mem::replace(&mut writer.searched, true);
        if !searched && !self.leave_allocated && !self.changed.load(Ordering::Acquire) {
            let map = &mut lock(&self.shared).map;
            // From the next flush on, when it is sure to be zero.
            check::gaps(map)?.into_iter().for_each(|at| map.space.release(at));
        }
        Ok(())
    }

    /// The new record goes where nothing is yet; then its place changes, through the log.
    fn set_parent(&self, link: &ParentLink) -> Result<(), LayerError> {
        self.refuse_read_only()?;
        let region = lock(&self.shared).map.regions.metadata;
        let mut writer = lock(&self.writer);
        let Writer { headers, journal, metadata, .. } = &mut *writer;
        let bytes = locator::encode(link)?;
        let Some(number) = metadata.locator_entry else {
            let what = "a parent of a disk that was made without one".to_owned();
            return Err(FormatError::Unsupported { what }.into());
        };
        let place = metadata.free_place(region, bytes.len() as u64).ok_or_else(|| {
            FormatError::Unsupported {
                what: "another record of the parent in this file".to_owned(),
            }
        })?;
        headers.update(&self.image, |header| header.file_write = Uuid::new_v4())?;
        let at = region.offset + place;
        self.image.write_at(&bytes, at).map_err(FormatError::host("write", at))?;
        let entry = 32 + 32 * number;
        let page_at = region.offset + entry as u64 / PAGE * PAGE;
        let mut page = Box::new([0; PAGE_BYTES]);
        let read = self.image.read_at(&mut page[..], page_at);
        read.map_err(FormatError::host("read", page_at))?;
        set_place(&mut page[..], entry % PAGE_BYTES + 16, place, bytes.len());
        journal.write(&self.image, headers, &[(page_at, page)])?;
        if let Some(item) = metadata.items.get_mut(number) {
            *item = Region { offset: place, len: bytes.len() as u64 };
        }
        Ok(())
    }

    fn close(&self) -> Result<(), LayerError> {
        if self.info.read_only {
            return Ok(());
        }
        let mut writer = lock(&self.writer);
        self.flush(&mut writer)?;
        if self.changed.load(Ordering::Acquire) {
            // What was written in place since the last flush.
            self.image.sync().map_err(FormatError::host("sync", 0))?;
        }
        let Writer { headers, journal, .. } = &mut *writer;
        Ok(journal.empty(&self.image, headers)?)
    }

    fn check(&self, repair: bool) -> Result<Vec<Finding>, LayerError> {
        let mut writer = lock(&self.writer);
        let mend = repair && !self.info.read_only;
        if mend {
            self.flush(&mut writer)?;
        }
        let mut shared = lock(&self.shared);
        let (mut findings, end) = check::check(&mut shared.map)?;
        if self.info.read_only && !writer.headers.current().log.is_nil() {
            let what = "it was not closed in order: its log is to be replayed".to_owned();
            findings.push(Finding { what, harmless: true, repaired: false });
        }
        // What requests under way have set aside must stay.
        if mend && shared.pending.is_empty() && end < shared.map.space.end() {
            let Writer { headers, journal, .. } = &mut *writer;
            // The log may say how long the file must be.
            journal.empty(&self.image, headers)?;
            headers.update(&self.image, |header| header.file_write = Uuid::new_v4())?;
            self.image.set_len(end).map_err(FormatError::host("set the size of", end))?;
            self.image.sync().map_err(FormatError::host("sync", end))?;
            shared.map.space.cut(end);
            findings.iter_mut().filter(|it| it.harmless).for_each(|it| it.repaired = true);
        }
        let copies = Copies::look(&shared.map)?;
        if mend && !copies.are_sound() {
            let Writer { headers, journal, .. } = &mut *writer;
            copies.mend(&self.image, headers, journal)?;
        }
        findings.extend(copies.findings(mend));
        Ok(findings)
    }
}
