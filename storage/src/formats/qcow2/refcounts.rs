//! Refcounts: which clusters of the file are in use, and which can be had.
//!
//! A count in the file may be too high after a crash (space is lost), never too low: counts go to
//! the file before anything refers to the cluster, and are lowered when nothing does any more.

use std::collections::{HashMap, VecDeque};

use super::header::{Header, TABLE_MAX, be64};
use super::{Dirty, damaged, index, unsupported};
use crate::formats::FormatError;
use crate::image::ImageFile;

/// Clean blocks that are kept.
const BLOCKS_MAX: usize = 64;
/// Clusters that are looked through at a time for free ones.
const SCAN: u64 = 1 << 15;
/// Bytes by which the file grows at least.
const GROWTH: u64 = 1 << 20;
/// Bits of an offset in the refcount table.
const OFFSET: u64 = !0x1ff;

#[derive(Debug)]
struct Block {
    bytes: Vec<u8>,
    /// In bytes.
    dirty: Dirty,
}

/// The refcount table, and the blocks that are in memory.
#[derive(Debug)]
pub(super) struct Refcounts {
    cluster_bits: u32,
    order: u32,
    table: Vec<u64>,
    /// Entries that are not in the file yet.
    table_dirty: Vec<usize>,
    /// Where the table is; the header may still name another place.
    place: (u64, u32),
    /// Whether the file has it there, but for the dirty entries.
    in_place: bool,
    /// Where it was. As long as something is dirty, the header may name any of these places.
    moved_from: Vec<(u64, u32)>,
    l1: (u64, u64),
    blocks: HashMap<usize, Block>,
    /// Blocks that are not in the file as they should be.
    pub(super) dirty_blocks: usize,
    free: VecDeque<u64>,
    /// The first cluster not yet looked at, and the first that was never part of the file.
    cursor: u64,
    scan_end: u64,
    /// The first cluster that is not used at all.
    end: u64,
    /// Bytes of the file.
    pub(super) file_len: u64,
    /// It is a device, which has the bytes that it has.
    fixed: bool,
    /// Whether something is not in the file yet.
    pub(super) dirty: bool,
}

impl Refcounts {
    /// Reads the table.
    pub(super) fn open(image: &ImageFile, header: &Header) -> Result<Refcounts, FormatError> {
        let (offset, clusters) = header.refcount_table();
        let file_len = image.len().map_err(FormatError::host("find the size of", 0))?;
        let len = u64::from(clusters) << header.cluster_bits;
        if offset.saturating_add(len) > file_len {
            return Err(damaged(offset, "the refcount table is beyond the end of the file"));
        }
        let mut bytes = vec![0; index(len)];
        image.read_at(&mut bytes, offset).map_err(FormatError::host("read", offset))?;
        let table = (0..bytes.len() / 8).map(|entry| be64(&bytes, entry * 8) & OFFSET).collect();
        let facts = image.file().metadata().map_err(FormatError::host("examine", 0))?;
        let fixed = !facts.is_file();
        let end = match fixed {
            true => file_len / header.cluster(),
            false => file_len.div_ceil(header.cluster()),
        };
        let l1_clusters = (header.l1_size as u64 * 8).div_ceil(header.cluster());
        Ok(Refcounts {
            cluster_bits: header.cluster_bits,
            order: header.refcount_order,
            table,
            table_dirty: Vec::new(),
            place: (offset, clusters),
            in_place: true,
            moved_from: Vec::new(),
            l1: (header.l1_offset >> header.cluster_bits, l1_clusters),
            blocks: HashMap::new(),
            dirty_blocks: 0,
            free: VecDeque::new(),
            cursor: 1,
            scan_end: end,
            end,
            file_len,
            fixed,
            dirty: false,
        })
    }

    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Clusters that a block counts.
    fn per_block(&self) -> u64 {
        (self.cluster() * 8) >> self.order
    }

    /// The highest count.
    fn max(&self) -> u64 {
        u64::MAX >> (64 - (1u32 << self.order))
    }

    /// Whether the table is in the file where it is to be.
    #[cfg(test)]
    pub(super) fn is_in_place(&self) -> bool {
        self.in_place
    }

    /// Clusters of the file that may be in use.
    pub(super) fn clusters(&self) -> u64 {
        self.end
    }

    /// Offsets of the blocks, and of the table with its length in clusters.
    pub(super) fn own(&self) -> (impl Iterator<Item = u64>, (u64, u32)) {
        (self.table.iter().copied().filter(|&offset| offset != 0), self.place)
    }

    /// The block that counts `cluster`, if there is one.
    fn block(
        &mut self,
        image: &ImageFile,
        number: usize,
    ) -> Result<Option<&mut Block>, FormatError> {
        let offset = self.table.get(number).copied().unwrap_or(0);
        if offset == 0 {
            return Ok(None);
        }
        if !self.blocks.contains_key(&number) {
            if !offset.is_multiple_of(self.cluster()) || offset > i64::MAX as u64 {
                let at = self.place.0 + number as u64 * 8;
                return Err(damaged(at, format!("a refcount block at {offset:#x}")));
            }
            if self.blocks.len() >= BLOCKS_MAX
                && let Some(&clean) =
                    self.blocks.iter().find(|(_, block)| block.dirty.is_none()).map(|(n, _)| n)
            {
                self.blocks.remove(&clean);
            }
            let mut bytes = vec![0; index(self.cluster())];
            image.read_at(&mut bytes, offset).map_err(FormatError::host("read", offset))?;
            self.blocks.insert(number, Block { bytes, dirty: None });
        }
        Ok(self.blocks.get_mut(&number))
    }

    /// How often `cluster` is referred to.
    pub(super) fn get(&mut self, image: &ImageFile, cluster: u64) -> Result<u64, FormatError> {
        let (order, per_block) = (self.order, self.per_block());
        let Some(block) = self.block(image, index(cluster / per_block))? else { return Ok(0) };
        let at = index(cluster % per_block);
        let bits = 1usize << order;
        if bits < 8 {
            let (byte, shift) = (at * bits / 8, at * bits % 8);
            let mask = (1u64 << bits) - 1;
            return Ok(u64::from(block.bytes[byte]) >> shift & mask);
        }
        let width = bits / 8;
        let field = &block.bytes[at * width..(at + 1) * width];
        Ok(field.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
    }

    /// Sets how often `cluster` is referred to.
    pub(super) fn set(
        &mut self,
        image: &ImageFile,
        cluster: u64,
        count: u64,
    ) -> Result<(), FormatError> {
        if count > self.max() {
            return Err(unsupported(format!("a refcount of {count} in this image")));
        }
        let (order, per_block) = (self.order, self.per_block());
        let number = index(cluster / per_block);
        self.ensure_block(image, number)?;
        let Some(block) = self.block(image, number)? else {
            return Err(damaged(0, "a refcount block is missing"));
        };
        let at = index(cluster % per_block);
        let bits = 1usize << order;
        let (start, len) = if bits < 8 {
            let (byte, shift) = (at * bits / 8, at * bits % 8);
            let mask = (1u8 << bits) - 1;
            let [.., low] = count.to_be_bytes();
            block.bytes[byte] = block.bytes[byte] & !(mask << shift) | low << shift;
            (byte, 1)
        } else {
            let width = bits / 8;
            block.bytes[at * width..(at + 1) * width]
                .copy_from_slice(&count.to_be_bytes()[8 - width..]);
            (at * width, width)
        };
        let clean = block.dirty.is_none();
        super::touch(&mut block.dirty, start..start + len);
        self.dirty_blocks += usize::from(clean);
        self.dirty = true;
        Ok(())
    }

    /// Makes a block where there is none.
    fn ensure_block(&mut self, image: &ImageFile, number: usize) -> Result<(), FormatError> {
        if number >= self.table.len() {
            self.grow_table(image, number + 1)?;
        }
        while self.table[number] == 0 {
            // What counts the block's own cluster comes first: nothing may be in the way any more
            // when the table refers to the block.
            let home = index(self.end / self.per_block());
            if home != number && self.block(image, home)?.is_none() {
                self.ensure_block(image, home)?;
                continue;
            }
            self.reserve(image, 1)?;
            let cluster = self.take_end(image, 1)?;
            let len = index(self.cluster());
            self.table[number] = cluster << self.cluster_bits;
            self.table_dirty.push(number);
            self.blocks.insert(number, Block { bytes: vec![0; len], dirty: Some(0..len) });
            self.dirty_blocks += 1;
            self.dirty = true;
            return self.set(image, cluster, 1);
        }
        Ok(())
    }

    /// Moves the table to a place where it has room for `entries` and as many again.
    fn grow_table(&mut self, image: &ImageFile, entries: usize) -> Result<(), FormatError> {
        let clusters = (entries as u64 * 2 * 8).div_ceil(self.cluster());
        if clusters * self.cluster() > TABLE_MAX {
            return Err(unsupported(format!("a refcount table for {entries} blocks")));
        }
        // With space for the blocks that count it, lest it move and they do not follow.
        self.reserve(image, clusters + clusters / self.per_block() + 2)?;
        let first = self.take_end(image, clusters)?;
        let before = (self.table.len(), self.place, self.in_place);
        self.table.resize(index(clusters * self.cluster() / 8), 0);
        self.moved_from.push(self.place);
        self.place = (first << self.cluster_bits, u32::try_from(clusters).unwrap_or(u32::MAX));
        (self.in_place, self.dirty) = (false, true);
        let counted = (first..first + clusters).try_for_each(|cluster| self.set(image, cluster, 1));
        counted.inspect_err(|_| {
            // A table that is not counted as a whole would be overwritten one day.
            let (len, place, in_place) = before;
            (self.place, self.in_place) = (place, in_place);
            self.moved_from.pop();
            self.table.truncate(len);
            self.table_dirty.retain(|&number| number < len);
            self.blocks.retain(|&number, _| number < len);
            self.dirty_blocks = self.blocks.values().filter(|block| block.dirty.is_some()).count();
        })
    }

    /// Clusters behind all others.
    fn take_end(&mut self, image: &ImageFile, count: u64) -> Result<u64, FormatError> {
        let (first, end) = (self.end, self.end + count);
        self.grow_to(image, end << self.cluster_bits)?;
        self.end = end;
        Ok(first)
    }

    /// Takes space for the next clusters behind all others: tables are written when the payload
    /// that they lead to has long been answered for.
    fn reserve(&mut self, image: &ImageFile, count: u64) -> Result<(), FormatError> {
        self.grow_to(image, (self.end + count) << self.cluster_bits)?;
        let (at, len) = (self.end << self.cluster_bits, count << self.cluster_bits);
        image.reserve(at, len).map_err(FormatError::host("take space for", at))
    }

    /// A cluster for a table, as [`Refcounts::allocate`] gives it and with its space taken.
    pub(super) fn allocate_table(&mut self, image: &ImageFile) -> Result<u64, FormatError> {
        let (cluster, _) = self.allocate(image)?;
        let at = cluster << self.cluster_bits;
        if let Err(error) = image.reserve(at, self.cluster()) {
            self.release(image, cluster)?;
            return Err(FormatError::host("take space for", at)(error));
        }
        Ok(cluster)
    }

    /// Lets the file have its last cluster as a whole.
    pub(super) fn complete(&mut self, image: &ImageFile) -> Result<(), FormatError> {
        if self.fixed {
            return Ok(());
        }
        self.grow_to(image, self.file_len.next_multiple_of(self.cluster()))
    }

    /// Makes the file at least `len` bytes long.
    pub(super) fn grow_to(&mut self, image: &ImageFile, len: u64) -> Result<(), FormatError> {
        if len > self.file_len {
            if self.fixed {
                let full = std::io::Error::from_raw_os_error(libc::ENOSPC);
                return Err(FormatError::host("extend", self.file_len)(full));
            }
            let len = len.next_multiple_of(GROWTH.max(self.cluster()));
            image.set_len(len).map_err(FormatError::host("extend", self.file_len))?;
            self.file_len = len;
        }
        Ok(())
    }

    /// A cluster that nothing refers to, with its count set to 1; and whether it is known to read
    /// as zeroes.
    pub(super) fn allocate(&mut self, image: &ImageFile) -> Result<(u64, bool), FormatError> {
        if self.free.is_empty() && self.cursor < self.scan_end {
            self.scan(image)?;
        }
        while let Some(cluster) = self.free.pop_front() {
            if self.get(image, cluster)? == 0 {
                self.set(image, cluster, 1)?;
                return Ok((cluster, false));
            }
        }
        // Blocks and tables may themselves take the end of the file.
        self.ensure_block(image, index(self.end / self.per_block()))?;
        let cluster = self.take_end(image, 1)?;
        self.set(image, cluster, 1)?;
        Ok((cluster, true))
    }

    /// Looks for free clusters a bit further on.
    fn scan(&mut self, image: &ImageFile) -> Result<(), FormatError> {
        let (table, table_clusters) = (self.place.0 >> self.cluster_bits, u64::from(self.place.1));
        let end = (self.cursor + SCAN).min(self.scan_end);
        for cluster in self.cursor..end {
            let own = (table..table + table_clusters).contains(&cluster)
                || (self.l1.0..self.l1.0 + self.l1.1).contains(&cluster);
            if !own && self.get(image, cluster)? == 0 {
                self.free.push_back(cluster);
            }
        }
        self.cursor = end;
        Ok(())
    }

    /// Counts one reference less.
    pub(super) fn release(&mut self, image: &ImageFile, cluster: u64) -> Result<(), FormatError> {
        let count = self.get(image, cluster)?;
        let Some(less) = count.checked_sub(1) else {
            let at = cluster << self.cluster_bits;
            return Err(damaged(at, "a cluster in use is counted as free"));
        };
        self.set(image, cluster, less)?;
        if less == 0 && (cluster < self.cursor || cluster >= self.scan_end) {
            self.free.push_back(cluster);
        }
        Ok(())
    }

    /// Writes counts, and new blocks that nothing in the file refers to yet.
    pub(super) fn write_blocks(&self, image: &ImageFile) -> Result<(), FormatError> {
        for (&number, block) in &self.blocks {
            if let Some(range) = &block.dirty {
                super::write_sectors(image, self.table[number], &block.bytes, range.clone())?;
            }
        }
        Ok(())
    }

    /// Makes the file refer to new blocks, which are durable, and to the table's place; durably.
    pub(super) fn write_table(
        &mut self,
        image: &ImageFile,
        header: &mut Header,
    ) -> Result<(), FormatError> {
        let sync = |at| image.sync().map_err(FormatError::host("sync", at));
        if !self.in_place {
            let bytes: Vec<u8> = self.table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
            let at = self.place.0;
            image.write_at(&bytes, at).map_err(FormatError::host("write", at))?;
            sync(at)?;
            // From here on the header may name it, also where writing that has failed.
            self.in_place = true;
            self.table_dirty.clear();
        }
        let mut written = Vec::new();
        for &number in &self.table_dirty {
            let (at, entry) = (self.place.0 + number as u64 * 8, self.table[number]);
            // What counts the block's own cluster came first, and must be there first: a crash
            // between the two would leave the block where the next one finds free space.
            let home = index((entry >> self.cluster_bits) / self.per_block());
            if home != number && written.contains(&home) {
                sync(at)?;
                written.clear();
            }
            image.write_at(&entry.to_be_bytes(), at).map_err(FormatError::host("write", at))?;
            written.push(number);
        }
        if !written.is_empty() {
            sync(self.place.0)?;
        }
        header.set_refcount_table(image, self.place.0, self.place.1)
    }

    /// Takes note that everything is in the file and durable. Gives back the places that a table
    /// has moved away from.
    pub(super) fn written(&mut self) -> Vec<(u64, u32)> {
        self.blocks.values_mut().for_each(|block| block.dirty = None);
        self.table_dirty.clear();
        (self.dirty, self.dirty_blocks) = (false, 0);
        std::mem::take(&mut self.moved_from)
    }
}
