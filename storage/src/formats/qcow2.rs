//! qcow2, versions 2 and 3 (`docs/interop/qcow2.txt` of QEMU is the specification).
//!
//! The metadata code is cohort's own: what a layer needs (copying from parents of any format,
//! mappings that appear only after the payload, an identifier that others' writing voids) lies
//! across the way in which the libraries divide the work.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::pins::{Hold, Pins};
use super::{Decoded, FormatError, LayerFile};
use crate::format::Format;
use crate::identity::Identity;
use crate::image::ImageFile;
use crate::layer::{
    Erase, Extent, FileId, Finding, Layer, LayerError, LayerInfo, Outcome, Source, Ticket,
    WriteStep,
};
use crate::link::ParentLink;
use crate::units::{DiskRange, FileOffset, SECTOR};

mod check;
mod compressed;
mod create;
mod header;
mod map;
mod overlap;
mod record;
mod refcounts;
mod snapshots;
#[cfg(test)]
mod tests;
mod writes;

use compressed::Codec;
pub(super) use create::create;
use header::{Header, IDENTIFIED};
use map::{Map, Mapping};
use record::Record;
use writes::Plan;

/// An open qcow2 image.
pub(crate) struct Qcow2Layer {
    info: LayerInfo,
    image: Arc<ImageFile>,
    file: FileId,
    /// Whether an L2 entry can say that a cluster is zero: not in version 2.
    zero_flag: bool,
    codec: Codec,
    decoded: Arc<Decoded>,
    pins: Pins,
    state: Mutex<State>,
}

struct State {
    map: Map,
    /// What requests under way will change, by the number of their pin.
    pending: HashMap<u64, Pending>,
    /// Whether anything was changed since the image was opened.
    changed: bool,
}

/// What becomes of a request's clusters.
#[derive(Debug, Default)]
struct Pending {
    /// Guest clusters and their new L2 entries.
    entries: Vec<(u64, u64)>,
    /// Clusters of the file that were taken for it.
    taken: Vec<u64>,
}

/// Bytes of the guest's blocks: the format records none.
const LOGICAL_SECTOR: u32 = 512;
/// The ticket of a request that holds nothing.
const UNPINNED: u64 = 0;

impl Qcow2Layer {
    /// Opens an image, never the file behind it.
    pub(super) fn open(file: LayerFile) -> Result<Qcow2Layer, FormatError> {
        let LayerFile { image, id, memory, decoded } = file;
        let header = Header::read(&image)?;
        let cluster = header.cluster();
        let info = LayerInfo {
            format: Format::Qcow2,
            size: header.size,
            sector: LOGICAL_SECTOR,
            granularity: u32::try_from(cluster).unwrap_or(LOGICAL_SECTOR),
            read_only: !image.is_writable(),
            parent: record::parent(&header)?,
            traits: None,
        };
        let (zero_flag, codec) = (header.version >= 3, Codec { zstd: header.zstd, cluster });
        let map = Map::open(Arc::clone(&image), header, memory)?;
        let state = State { map, pending: HashMap::new(), changed: false };
        let (pins, state) = (Pins::default(), Mutex::new(state));
        Ok(Qcow2Layer { info, image, file: id, zero_flag, codec, decoded, pins, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest clusters that `range` touches.
    fn clusters(&self, range: DiskRange) -> Result<Range<u64>, LayerError> {
        if range.end() > self.info.size {
            return Err(LayerError::Beyond { range, size: self.info.size });
        }
        let cluster = u64::from(self.info.granularity);
        Ok(range.start() / cluster..range.end().div_ceil(cluster))
    }

    /// The part of `range` in a guest cluster.
    fn part(&self, range: DiskRange, cluster: u64) -> (u64, u64) {
        let len = u64::from(self.info.granularity);
        let start = cluster * len;
        (range.start().max(start), range.end().min(start + len))
    }

    /// Steps for a change of `range`: of a payload if `erase` is `None`.
    fn change(
        &self,
        range: DiskRange,
        erase: Option<Erase>,
        out: &mut Vec<WriteStep>,
    ) -> Result<Ticket, LayerError> {
        let clusters = self.clusters(range)?;
        let mut state = self.state();
        state.map.make_room()?;
        let mut exclusive = false;
        for cluster in clusters.clone() {
            let mapping = state.map.writable_mapping(cluster)?;
            exclusive |= self.moves(mapping, self.part(range, cluster), erase);
        }
        let hold = if exclusive { Hold::Exclusive } else { Hold::Shared };
        let pin = self.pins.try_hold(clusters.clone(), hold).ok_or(LayerError::Busy)?;
        let first = out.len();
        let mut plan = Plan { layer: self, map: &mut state.map, pending: Pending::default(), out };
        let planned = clusters.clone().try_for_each(|cluster| {
            let part = self.part(range, cluster);
            match erase {
                None => plan.store(cluster, part),
                Some(how) => plan.erase(cluster, part, how),
            }
        });
        let pending = plan.pending;
        if let Err(error) = planned {
            out.truncate(first);
            self.pins.release(pin);
            state.give_back(&pending)?;
            return Err(error);
        }
        state.changed = true;
        if !pending.entries.is_empty() || !pending.taken.is_empty() {
            state.pending.insert(pin, pending);
        }
        Ok(Ticket::new(pin + 1))
    }
}

impl State {
    fn give_back(&mut self, pending: &Pending) -> Result<(), FormatError> {
        for &cluster in &pending.taken {
            let image = Arc::clone(&self.map.image);
            self.map.refcounts.release(&image, cluster)?;
        }
        Ok(())
    }
}

impl Layer for Qcow2Layer {
    fn info(&self) -> &LayerInfo {
        &self.info
    }

    fn identity(&self) -> Result<Identity, LayerError> {
        if let Some(id) = record::identifier(&self.state().map.header) {
            return Ok(Identity::Id(id));
        }
        Ok(Identity::of(self.image.file()).map_err(FormatError::host("examine", 0))?)
    }

    fn resolve_read(&self, range: DiskRange, out: &mut Vec<Extent>) -> Result<Ticket, LayerError> {
        let clusters = self.clusters(range)?;
        let mut state = self.state();
        if !self.info.read_only {
            state.map.make_room()?;
        }
        let ticket = if self.info.read_only {
            UNPINNED
        } else {
            let pin = self.pins.try_hold(clusters.clone(), Hold::Shared);
            pin.ok_or(LayerError::Busy)? + 1
        };
        let first = out.len();
        for cluster in clusters {
            let (start, end) = self.part(range, cluster);
            let inside = start % u64::from(self.info.granularity);
            let mapping = state.map.mapping(cluster);
            let file_len = state.map.refcounts.file_len;
            let done = mapping.map_err(LayerError::from).and_then(|mapping| {
                let source = match mapping {
                    Mapping::Unallocated if self.info.parent.is_some() => Source::Transparent,
                    Mapping::Unallocated | Mapping::Zero { .. } => Source::Zero,
                    Mapping::Compressed { .. } => Source::Encoded { layer: 0 },
                    Mapping::Data { host } => {
                        // What was never written at the end of the file need not be there.
                        let at = host + inside;
                        let have = file_len.saturating_sub(at).min(end - start);
                        let offset = FileOffset::new(at).ok_or(LayerError::Gap { range })?;
                        let data = Source::Data { file: self.file, offset };
                        push(out, first, start, start + have, data);
                        push(out, first, start + have, end, Source::Zero);
                        return Ok(());
                    }
                };
                push(out, first, start, end, source);
                Ok(())
            });
            if let Err(error) = done {
                out.truncate(first);
                if let Some(pin) = ticket.checked_sub(1) {
                    self.pins.release(pin);
                }
                return Err(error);
            }
        }
        Ok(Ticket::new(ticket))
    }

    fn resolve_write(
        &self,
        range: DiskRange,
        out: &mut Vec<WriteStep>,
    ) -> Result<Ticket, LayerError> {
        self.change(range, None, out)
    }

    fn resolve_erase(
        &self,
        range: DiskRange,
        how: Erase,
        out: &mut Vec<WriteStep>,
    ) -> Result<Ticket, LayerError> {
        self.change(range, Some(how), out)
    }

    fn finish(&self, ticket: Ticket, how: Outcome) -> Result<(), LayerError> {
        let Some(pin) = ticket.request().checked_sub(1) else { return Ok(()) };
        let mut state = self.state();
        let pending = state.pending.remove(&pin);
        let result = pending.map_or(Ok(()), |pending| match how {
            Outcome::Abort => state.give_back(&pending),
            Outcome::Done => {
                let publish = |&(cluster, entry): &(u64, u64)| {
                    self.decoded.forget(self.file, cluster);
                    state.map.publish(cluster, entry)
                };
                pending.entries.iter().try_for_each(publish)
            }
        });
        // Only now: who waits for the clusters must find the new map.
        self.pins.release(pin);
        Ok(result?)
    }

    fn flush_metadata(&self) -> Result<(), LayerError> {
        Ok(self.state().map.flush()?)
    }

    fn read_encoded(&self, range: DiskRange, bytes: &mut [u8]) -> Result<(), LayerError> {
        let clusters = self.clusters(range)?;
        for cluster in clusters {
            let data = match self.decoded.get(self.file, cluster) {
                Some(data) => data,
                None => {
                    let mapping = self.state().map.mapping(cluster)?;
                    let Mapping::Compressed { at, len } = mapping else {
                        return Err(LayerError::Gap { range });
                    };
                    // Whoever reads this holds the cluster: it stays where it is.
                    let data = self.codec.decompress(&self.image, at, len)?.into();
                    self.decoded.put(self.file, cluster, &data);
                    data
                }
            };
            let (start, end) = self.part(range, cluster);
            let inside = index(start % u64::from(self.info.granularity));
            let to = index(start - range.start());
            let len = index(end - start);
            let place = bytes.get_mut(to..to + len).ok_or(LayerError::Gap { range })?;
            place.copy_from_slice(&data[inside..inside + len]);
        }
        Ok(())
    }

    fn announce_change(&self) -> Result<(), LayerError> {
        let mut guard = self.state();
        let State { map, changed, .. } = &mut *guard;
        overlap::require_apart(map)?;
        *changed = true;
        let image = &self.image;
        // All of them: cohort keeps up none of what the bits vouch for. Its own is set again only
        // when the new identifier is durable.
        map.header.set_autoclear(image, 0)?;
        // What was left out at the end of the file is there from now on.
        map.refcounts.complete(image)?;
        if map.header.version >= 3 {
            let backing = map.header.backing().to_vec();
            let record = match record::current(&map.header) {
                Some((_, old)) => old.next_sequence().map(|sequence| Record {
                    id: uuid::Uuid::new_v4(),
                    sequence,
                    ..old
                }),
                None => Some(Record::fresh(&backing, None)),
            };
            let write = |record| record::write(&mut map.header, image, &record);
            match record.map_or(Ok(false), write) {
                Ok(true) => return Ok(map.header.set_autoclear(image, IDENTIFIED)?),
                // No room, or no number that would count.
                Ok(false) | Err(FormatError::Unsupported { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // The file's fingerprint stays the identity, and must not be older than its payload.
        Ok(image.renew_times().map_err(FormatError::host("renew the times of", 0))?)
    }

    fn set_parent(&self, link: &ParentLink) -> Result<(), LayerError> {
        let mut guard = self.state();
        let header = &mut guard.map.header;
        let name = record::backing_name(link)?;
        let no_room = || {
            let what = "recording this parent in this image's header, where there is no place for \
                        it (`cohort disk convert --parent PARENT IMAGE COPY` makes a copy that has \
                        one),";
            unsupported(what.to_owned())
        };
        let (id, sequence) = match record::current(header) {
            Some((_, old)) => (old.id, old.next_sequence().ok_or_else(no_room)?),
            None => (uuid::Uuid::new_v4(), 1),
        };
        let record = Record { id, sequence, backing: name.clone(), link: Some(link.clone()) };
        // The record counts when the header has the same name.
        if !record::write(header, &self.image, &record)? {
            return Err(no_room().into());
        }
        if header.backing() == name && header.has_foreign_parent() == name.is_empty() {
            return Ok(());
        }
        match header.set_backing(&self.image, &name, link.format)? {
            true => Ok(()),
            false => Err(no_room().into()),
        }
    }

    fn close(&self) -> Result<(), LayerError> {
        let mut state = self.state();
        if !self.info.read_only && state.changed {
            // The payload comes first. What was erased where it is changed nothing in the map, and
            // so nothing else makes it durable.
            state.map.image.sync().map_err(FormatError::host("sync", 0))?;
            state.map.flush()?;
            // The counts of what the first one set free.
            state.map.flush()?;
        }
        Ok(())
    }

    fn check(&self, repair: bool) -> Result<Vec<Finding>, LayerError> {
        let mut state = self.state();
        let repair = repair && !self.info.read_only;
        state.changed |= repair;
        Ok(check::check(&mut state.map, repair)?)
    }
}

/// Appends an extent, or lets the last one since `first` go on. Empty ones are left out.
fn push(out: &mut Vec<Extent>, first: usize, start: u64, end: u64, source: Source) {
    let Some(range) = end.checked_sub(start).and_then(|len| DiskRange::new(start, len)) else {
        return;
    };
    if range.is_empty() {
        return;
    }
    if out.len() > first
        && let Some(last) = out.last_mut()
    {
        let goes_on = match (last.source, source) {
            (Source::Data { offset, .. }, Source::Data { offset: next, .. }) => {
                offset.checked_add(last.range.len()) == Some(next)
            }
            (Source::Zero, Source::Zero) | (Source::Transparent, Source::Transparent) => true,
            _ => false,
        };
        if goes_on
            && let Some(longer) = DiskRange::new(last.range.start(), end - last.range.start())
        {
            last.range = longer;
            return;
        }
    }
    out.push(Extent { range, source });
}

/// What of a table is not in the file yet.
type Dirty = Option<Range<usize>>;

fn touch(dirty: &mut Dirty, range: Range<usize>) {
    let old = dirty.get_or_insert(range.clone());
    *old = old.start.min(range.start)..old.end.max(range.end);
}

/// Writes the sectors of `bytes`, which belong at `at`, that `range` touches.
fn write_sectors(
    image: &ImageFile,
    at: u64,
    bytes: &[u8],
    range: Range<usize>,
) -> Result<(), FormatError> {
    let sector = index(SECTOR);
    let start = range.start / sector * sector;
    let end = range.end.next_multiple_of(sector).min(bytes.len());
    let at = at + start as u64;
    image.write_at(&bytes[start..end], at).map_err(FormatError::host("write", at))
}

/// A number that counts bytes or entries in memory.
fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn damaged(offset: u64, what: impl Into<String>) -> FormatError {
    FormatError::damaged(offset, what)
}

fn unsupported(what: String) -> FormatError {
    FormatError::Unsupported { what }
}
