//! L1 and L2 tables: where the guest's clusters are.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use super::header::{Header, be64};
use super::refcounts::Refcounts;
use super::{Dirty, damaged, index};
use crate::formats::FormatError;
use crate::image::ImageFile;

/// L2 tables that a writable image has room for at least.
const TABLES_MIN: usize = 8;
/// Dirty refcount blocks after which they are written.
const DIRTY_BLOCKS_MAX: usize = 32;

/// Bits of an offset in an L1 or L2 entry.
pub(super) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// The cluster is referred to once, so it may be written in place.
pub(super) const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeroes (version 3).
pub(super) const ZERO: u64 = 1;

/// What an L2 entry says of a guest cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mapping {
    /// The bytes are the parent's.
    Unallocated,
    /// It reads as zeroes; a cluster of the file may be kept for it.
    Zero { host: Option<u64> },
    /// It is in the file, at this offset.
    Data { host: u64 },
    /// It is compressed: the offset, and the bytes that the stream has at most.
    Compressed { at: u64, len: u64 },
}

#[derive(Debug)]
struct L2 {
    entries: Vec<u64>,
    /// Entries.
    dirty: Dirty,
    /// Nothing in the file refers to it.
    fresh: bool,
}

/// What an open image has in memory of its metadata.
#[derive(Debug)]
pub(super) struct Map {
    pub(super) image: Arc<ImageFile>,
    pub(super) header: Header,
    pub(super) refcounts: Refcounts,
    l1: Vec<u64>,
    l1_dirty: BTreeSet<usize>,
    l2: HashMap<usize, L2>,
    /// L2 tables that are kept in memory.
    l2_max: usize,
    /// Tables that are dirty.
    dirty_tables: usize,
    dirty: bool,
    /// Clusters that the map in memory does not refer to any more: free as soon as the one in the
    /// file does not either.
    replaced: Vec<Range<u64>>,
}

impl Map {
    /// Reads the L1 table.
    pub(super) fn open(
        image: Arc<ImageFile>,
        header: Header,
        memory: usize,
    ) -> Result<Map, FormatError> {
        let refcounts = Refcounts::open(&image, &header)?;
        let at = header.l1_offset;
        let len = header.l1_size as u64 * 8;
        if at.saturating_add(len) > refcounts.file_len {
            return Err(damaged(at, "the L1 table is beyond the end of the file"));
        }
        let l1 = read_entries(&image, at, header.l1_size as u64)?;
        let least = if image.is_writable() { TABLES_MIN } else { 1 };
        let l2_max = (memory / index(header.cluster())).max(least);
        Ok(Map {
            image,
            header,
            refcounts,
            l1,
            l1_dirty: BTreeSet::new(),
            l2: HashMap::new(),
            l2_max,
            dirty_tables: 0,
            dirty: false,
            replaced: Vec::new(),
        })
    }

    /// Entries of an L2 table.
    pub(super) fn l2_entries(&self) -> u64 {
        self.header.cluster() / 8
    }

    /// L1 entries.
    pub(super) fn l1(&self) -> &[u64] {
        &self.l1
    }

    /// Where the table of an L1 entry is; 0 where there is none.
    fn l2_offset(&self, number: usize) -> Result<u64, FormatError> {
        let offset = self.l1.get(number).copied().unwrap_or(0) & OFFSET;
        if !offset.is_multiple_of(self.header.cluster()) {
            let at = self.header.l1_offset + number as u64 * 8;
            return Err(damaged(at, format!("an L2 table at {offset:#x}")));
        }
        Ok(offset)
    }

    /// The table of an L1 entry, if there is one.
    fn table(&mut self, number: usize) -> Result<Option<&mut L2>, FormatError> {
        if !self.l2.contains_key(&number) {
            let offset = self.l2_offset(number)?;
            if offset == 0 {
                return Ok(None);
            }
            if self.l2.len() >= self.l2_max
                && let Some(&clean) =
                    self.l2.iter().find(|(_, table)| table.dirty.is_none()).map(|(n, _)| n)
            {
                self.l2.remove(&clean);
            }
            let entries = self.read_table(offset)?;
            self.l2.insert(number, L2 { entries, dirty: None, fresh: false });
        }
        Ok(self.l2.get_mut(&number))
    }

    /// Reads an L2 table from the file.
    pub(super) fn read_table(&self, offset: u64) -> Result<Vec<u64>, FormatError> {
        read_entries(&self.image, offset, self.l2_entries())
    }

    /// The L2 entry of a guest cluster; 0 where there is no table.
    pub(super) fn entry(&mut self, cluster: u64) -> Result<u64, FormatError> {
        let per_table = self.l2_entries();
        let table = self.table(index(cluster / per_table))?;
        Ok(table.map_or(0, |table| table.entries[index(cluster % per_table)]))
    }

    /// What an L2 entry says.
    pub(super) fn decode(&self, entry: u64) -> Result<Mapping, FormatError> {
        let bits = self.header.cluster_bits;
        if entry & COMPRESSED != 0 {
            // Specification, "Compressed Clusters Descriptor".
            let x = 62 - (bits - 8);
            let at = entry & ((1 << x) - 1);
            let sectors = (entry & (COMPRESSED - 1)) >> x;
            let len = (sectors + 1) * 512 - at % 512;
            if at > (i64::MAX >> 1) as u64 {
                return Err(damaged(at, "a compressed cluster beyond what files can have"));
            }
            return Ok(Mapping::Compressed { at, len });
        }
        let host = entry & OFFSET;
        if !host.is_multiple_of(self.header.cluster()) {
            return Err(damaged(host, "an L2 entry with an offset within a cluster"));
        }
        Ok(if entry & ZERO != 0 {
            if self.header.version < 3 {
                return Err(damaged(host, "an L2 entry with a bit that version 2 does not have"));
            }
            Mapping::Zero { host: Some(host).filter(|&host| host != 0) }
        } else if host == 0 {
            Mapping::Unallocated
        } else {
            Mapping::Data { host }
        })
    }

    /// What is known of a guest cluster.
    pub(super) fn mapping(&mut self, cluster: u64) -> Result<Mapping, FormatError> {
        let entry = self.entry(cluster)?;
        self.decode(entry)
    }

    /// What is known of a guest cluster that is about to be written. What others refer to as well
    /// cannot be: that takes internal snapshots, or damage.
    pub(super) fn writable_mapping(&mut self, cluster: u64) -> Result<Mapping, FormatError> {
        let entry = self.entry(cluster)?;
        let mapping = self.decode(entry)?;
        if let Mapping::Data { host } | Mapping::Zero { host: Some(host) } = mapping
            && entry & COPIED == 0
            && self.refcounts.get(&self.image, host >> self.header.cluster_bits)? != 1
        {
            return Err(damaged(host, "a cluster is not this disk's alone"));
        }
        Ok(mapping)
    }

    /// Makes sure that there is an L2 table for a guest cluster. A table that stays empty does no
    /// harm.
    pub(super) fn ensure_table(&mut self, cluster: u64) -> Result<(), FormatError> {
        let number = index(cluster / self.l2_entries());
        let offset = self.l2_offset(number)?;
        let bits = self.header.cluster_bits;
        if offset != 0 {
            let shared = self.l1[number] & COPIED == 0
                && self.refcounts.get(&self.image, offset >> bits)? != 1;
            return match shared {
                true => Err(damaged(offset, "an L2 table is not this disk's alone")),
                false => Ok(()),
            };
        }
        let host = self.refcounts.allocate_table(&self.image)?;
        self.l1[number] = host << bits | COPIED;
        self.l1_dirty.insert(number);
        let entries = vec![0; index(self.l2_entries())];
        let dirty = Some(0..entries.len());
        self.l2.insert(number, L2 { entries, dirty, fresh: true });
        self.dirty_tables += 1;
        self.dirty = true;
        Ok(())
    }

    /// Lets a guest cluster be somewhere else. Its table is there.
    pub(super) fn publish(&mut self, cluster: u64, entry: u64) -> Result<(), FormatError> {
        let per_table = self.l2_entries();
        let bits = self.header.cluster_bits;
        let at = index(cluster % per_table);
        let Some(table) = self.table(index(cluster / per_table))? else {
            return Err(damaged(0, "an L2 table is gone"));
        };
        let old = std::mem::replace(&mut table.entries[at], entry);
        let clean = table.dirty.is_none();
        super::touch(&mut table.dirty, at..at + 1);
        self.dirty_tables += usize::from(clean);
        self.dirty = true;
        if let Mapping::Compressed { at, len } = self.decode(old)? {
            // Several streams may share a cluster; each counts.
            self.replaced.push(at >> bits..((at + len - 1) >> bits) + 1);
        }
        Ok(())
    }

    /// Writes what is dirty if that is much.
    pub(super) fn make_room(&mut self) -> Result<(), FormatError> {
        if self.dirty_tables > self.l2_max / 2 || self.refcounts.dirty_blocks > DIRTY_BLOCKS_MAX {
            self.flush()?;
        }
        // One request may have needed more than there is room for.
        if self.l2.len() > self.l2_max {
            self.l2.retain(|_, table| table.dirty.is_some());
        }
        Ok(())
    }

    /// Makes the map durable, and before it all payload that it refers to.
    pub(super) fn flush(&mut self) -> Result<(), FormatError> {
        if !self.dirty && !self.refcounts.dirty {
            return Ok(());
        }
        let image = Arc::clone(&self.image);
        let sync = || image.sync().map_err(FormatError::host("sync", 0));
        // First what nothing in the file refers to: payload, new tables and blocks. And counts,
        // which at worst are too high.
        self.refcounts.write_blocks(&image)?;
        for (&number, table) in self.l2.iter().filter(|(_, table)| table.fresh) {
            self.write_entries(number, table, 0..table.entries.len())?;
        }
        sync()?;
        self.refcounts.write_table(&image, &mut self.header)?;
        if self.dirty {
            for (&number, table) in self.l2.iter().filter(|(_, table)| !table.fresh) {
                if let Some(range) = &table.dirty {
                    self.write_entries(number, table, range.clone())?;
                }
            }
            for &number in &self.l1_dirty {
                // The file may refer to its table from here on, whatever becomes of this flush.
                if let Some(table) = self.l2.get_mut(&number) {
                    table.fresh = false;
                }
                let at = self.header.l1_offset + number as u64 * 8;
                let entry = self.l1[number].to_be_bytes();
                image.write_at(&entry, at).map_err(FormatError::host("write", at))?;
            }
            sync()?;
        }
        let moved = self.refcounts.written();
        (self.dirty, self.dirty_tables) = (false, 0);
        self.l1_dirty.clear();
        for table in self.l2.values_mut() {
            (table.dirty, table.fresh) = (None, false);
        }
        // Now nothing in the file refers to these either.
        for (offset, clusters) in moved {
            let first = offset >> self.header.cluster_bits;
            self.replaced.push(first..first + u64::from(clusters));
        }
        for range in std::mem::take(&mut self.replaced) {
            for cluster in range {
                self.refcounts.release(&image, cluster)?;
            }
        }
        Ok(())
    }

    fn write_entries(
        &self,
        number: usize,
        table: &L2,
        range: Range<usize>,
    ) -> Result<(), FormatError> {
        let bytes: Vec<u8> = table.entries.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        let at = self.l2_offset(number)?;
        super::write_sectors(&self.image, at, &bytes, range.start * 8..range.end * 8)
    }
}

/// Reads entries of an L1 or L2 table.
pub(super) fn read_entries(
    image: &ImageFile,
    at: u64,
    count: u64,
) -> Result<Vec<u64>, FormatError> {
    let mut bytes = vec![0; index(count * 8)];
    image.read_at(&mut bytes, at).map_err(FormatError::host("read", at))?;
    Ok((0..bytes.len() / 8).map(|entry| be64(&bytes, entry * 8)).collect())
}
