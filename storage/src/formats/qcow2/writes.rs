//! What a change of a range takes: which clusters are written in place, which are taken anew and
//! filled up from where.

use super::map::{COPIED, Map, Mapping, ZERO};
use super::{Pending, Qcow2Layer};
use crate::formats::FormatError;
use crate::layer::{Erase, LayerError, WriteStep};
use crate::units::{DiskRange, FileOffset};

/// The steps of one request as they are being put together.
pub(super) struct Plan<'a> {
    pub(super) layer: &'a Qcow2Layer,
    pub(super) map: &'a mut Map,
    pub(super) pending: Pending,
    pub(super) out: &'a mut Vec<WriteStep>,
}

impl Qcow2Layer {
    /// Whether a change of a part of a cluster changes where the cluster is.
    pub(super) fn moves(&self, mapping: Mapping, part: (u64, u64), erase: Option<Erase>) -> bool {
        match (mapping, erase) {
            (Mapping::Data { .. }, None) => false,
            (Mapping::Data { .. }, Some(how)) => self.drops(part, how),
            (_, None) => true,
            (Mapping::Unallocated, Some(_)) => self.info.parent.is_some(),
            (Mapping::Zero { .. }, Some(_)) => false,
            (Mapping::Compressed { .. }, Some(_)) => true,
        }
    }

    /// Whether a cluster with data becomes one that reads as zeroes by its L2 entry.
    fn drops(&self, part: (u64, u64), how: Erase) -> bool {
        self.is_whole(part) && self.zero_flag && how != (Erase::Zero { unmap: false })
    }

    /// Whether a part of a cluster is all that the guest sees of it.
    fn is_whole(&self, (start, end): (u64, u64)) -> bool {
        let len = u64::from(self.info.granularity);
        start.is_multiple_of(len) && (end.is_multiple_of(len) || end == self.info.size)
    }
}

impl Plan<'_> {
    fn cluster_len(&self) -> u64 {
        u64::from(self.layer.info.granularity)
    }

    /// A payload for a part of a cluster.
    pub(super) fn store(&mut self, cluster: u64, part: (u64, u64)) -> Result<(), LayerError> {
        let host = match self.map.writable_mapping(cluster)? {
            Mapping::Data { host } => {
                let end = host + self.cluster_len();
                self.map.refcounts.grow_to(&self.layer.image, end)?;
                host
            }
            mapping => self.fill(cluster, mapping, part)?,
        };
        let at = host + part.0 % self.cluster_len();
        self.step_store(part, at)
    }

    /// Zeroes for a part of a cluster, or anything that is not the parent's.
    pub(super) fn erase(
        &mut self,
        cluster: u64,
        part: (u64, u64),
        how: Erase,
    ) -> Result<(), LayerError> {
        let layer = self.layer;
        let (len, whole) = (self.cluster_len(), layer.is_whole(part));
        let unmap = how != (Erase::Zero { unmap: false });
        let inside = part.0 % len;
        let parent = layer.info.parent.is_some();
        match self.map.writable_mapping(cluster)? {
            Mapping::Zero { .. } => Ok(()),
            Mapping::Unallocated if !parent => Ok(()),
            Mapping::Data { host } => {
                if layer.drops(part, how) {
                    // The cluster stays this one's; its space goes back to the file system.
                    self.map.ensure_table(cluster)?;
                    self.pending.entries.push((cluster, host | COPIED | ZERO));
                }
                let (at, len) = match whole {
                    true => (host, len),
                    false => (host + inside, part.1 - part.0),
                };
                match how {
                    Erase::Discard => self.deallocate(at, len),
                    Erase::Zero { .. } => self.zero(at, len, unmap),
                }
            }
            Mapping::Unallocated | Mapping::Compressed { .. } if whole && layer.zero_flag => {
                self.map.ensure_table(cluster)?;
                self.pending.entries.push((cluster, ZERO));
                Ok(())
            }
            mapping => {
                let host = self.fill(cluster, mapping, part)?;
                self.zero(host + inside, part.1 - part.0, unmap)
            }
        }
    }

    /// Takes a cluster of the file for a guest cluster, and lets it have, but for `part`, what the
    /// guest cluster reads as. Gives its offset.
    fn fill(
        &mut self,
        cluster: u64,
        mapping: Mapping,
        part: (u64, u64),
    ) -> Result<u64, LayerError> {
        let layer = self.layer;
        let image = &layer.image;
        let len = self.cluster_len();
        self.map.ensure_table(cluster)?;
        let (host, blank) = match mapping {
            Mapping::Zero { host: Some(host) } => {
                self.map.refcounts.grow_to(image, host + len)?;
                (host, false)
            }
            _ => {
                let (taken, blank) = self.map.refcounts.allocate(image)?;
                self.pending.taken.push(taken);
                (taken << self.map.header.cluster_bits, blank)
            }
        };
        self.pending.entries.push((cluster, host | COPIED));
        let start = cluster * len;
        let seen = (start + len).min(layer.info.size);
        let whole = part == (start, start + len);
        match mapping {
            Mapping::Compressed { .. } if whole => {}
            Mapping::Compressed { at, len } => {
                // Nobody else can read this. The cluster is not in the map yet, so there is no
                // order to keep.
                let bytes = layer.codec.decompress(image, at, len)?;
                image.write_at(&bytes, host).map_err(FormatError::host("write", host))?;
            }
            Mapping::Unallocated if layer.info.parent.is_some() => {
                self.copy_up((start, part.0), host)?;
                self.copy_up((part.1, seen), host + (part.1 - start))?;
                if !blank {
                    self.zero(host + (seen - start), start + len - seen, true)?;
                }
            }
            _ if blank => {}
            _ => {
                self.zero(host, part.0 - start, true)?;
                self.zero(host + (part.1 - start), start + len - part.1, true)?;
            }
        }
        Ok(host)
    }

    fn at(&self, at: u64) -> Result<FileOffset, LayerError> {
        let beyond = || super::damaged(at, "a cluster beyond what files can have");
        Ok(FileOffset::new(at).ok_or_else(beyond)?)
    }

    fn copy_up(&mut self, (start, end): (u64, u64), at: u64) -> Result<(), LayerError> {
        let Some(range) = end.checked_sub(start).and_then(|len| DiskRange::new(start, len)) else {
            return Ok(());
        };
        if !range.is_empty() {
            let at = self.at(at)?;
            // Before every store.
            let place =
                self.out.iter().take_while(|s| matches!(s, WriteStep::CopyUp { .. })).count();
            self.out.insert(place, WriteStep::CopyUp { range, file: self.layer.file, at });
        }
        Ok(())
    }

    fn step_store(&mut self, (start, end): (u64, u64), at: u64) -> Result<(), LayerError> {
        let file = self.layer.file;
        let gap = || LayerError::Gap { range: DiskRange::EMPTY };
        if let Some(WriteStep::Store { range, at: first, .. }) = self.out.last_mut()
            && range.end() == start
            && first.get() + range.len() == at
        {
            *range = DiskRange::new(range.start(), end - range.start()).ok_or_else(gap)?;
            return Ok(());
        }
        let range = DiskRange::new(start, end - start).ok_or_else(gap)?;
        let at = self.at(at)?;
        self.out.push(WriteStep::Store { range, file, at });
        Ok(())
    }

    fn zero(&mut self, at: u64, len: u64, unmap: bool) -> Result<(), LayerError> {
        if len == 0 {
            return Ok(());
        }
        if let Some(WriteStep::ZeroFill { at: first, len: so_far, unmap: same, .. }) =
            self.out.last_mut()
            && first.get() + *so_far == at
            && *same == unmap
        {
            *so_far += len;
            return Ok(());
        }
        let at = self.at(at)?;
        self.out.push(WriteStep::ZeroFill { file: self.layer.file, at, len, unmap });
        Ok(())
    }

    fn deallocate(&mut self, at: u64, len: u64) -> Result<(), LayerError> {
        if let Some(WriteStep::Deallocate { at: first, len: so_far, .. }) = self.out.last_mut()
            && first.get() + *so_far == at
        {
            *so_far += len;
            return Ok(());
        }
        let at = self.at(at)?;
        self.out.push(WriteStep::Deallocate { file: self.layer.file, at, len });
        Ok(())
    }
}
