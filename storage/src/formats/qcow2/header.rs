//! The header cluster: fixed fields, extensions, the name of the backing file.
//!
//! Only changes that a torn write cannot spoil are made: within the first sector, or in space that
//! nothing refers to yet, followed by the one sector that then does.

use std::ops::Range;

use super::{damaged, index, unsupported};
use crate::format::Format;
use crate::formats::FormatError;
use crate::image::ImageFile;

/// `QFI\xfb`.
const MAGIC: u32 = 0x5146_49fb;
/// Bytes that a disk writes as a whole.
const SECTOR: usize = 512;
/// Longest name of a backing file.
pub(super) const NAME_MAX: usize = 1023;
/// Longest L1 table, and longest refcount table, in bytes. QEMU has the same bounds.
const L1_MAX: u64 = 32 << 20;
pub(super) const TABLE_MAX: u64 = 8 << 20;

/// `incompatible_features`: refcounts are out of date.
const DIRTY: u64 = 1 << 0;
/// `incompatible_features`: do not write.
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
/// Of cohort's own (`docs/qcow2-extension.md`): the parent is one that only cohort can follow.
pub(super) const FOREIGN_PARENT: u64 = 1 << 59;
/// `autoclear_features`, of cohort's own: the identifier in the extension is still true.
pub(super) const IDENTIFIED: u64 = 1 << 58;

/// Types of header extensions.
pub(super) const BACKING_FORMAT: u32 = 0xe279_2aca;
pub(super) const FEATURE_NAMES: u32 = 0x6803_f857;
const BITMAPS: u32 = 0x2385_2875;

/// What to do with an image that cohort does not read.
const CONVERT: &str = " (`qemu-img convert` makes an image without)";

/// Where fields are.
mod at {
    pub(super) const BACKING: usize = 8;
    pub(super) const REFCOUNT_TABLE: usize = 48;
    pub(super) const INCOMPATIBLE: usize = 72;
    pub(super) const AUTOCLEAR: usize = 88;
}

/// The header of an open image, as it is in the file.
#[derive(Debug)]
pub(super) struct Header {
    /// The header cluster.
    bytes: Vec<u8>,
    /// 2 or 3.
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    /// Bytes the guest sees.
    pub(super) size: u64,
    /// Entries.
    pub(super) l1_size: usize,
    pub(super) l1_offset: u64,
    pub(super) snapshots: u32,
    pub(super) snapshots_offset: u64,
    pub(super) refcount_order: u32,
    /// Whether compressed clusters are of zstd, not deflate.
    pub(super) zstd: bool,
    /// Type and place of the data of each extension.
    extensions: Vec<(u32, Range<usize>)>,
    /// Where the list of extensions ends, if it does so by an entry of type 0.
    end: Option<usize>,
}

impl Header {
    /// Reads the header cluster and checks all that can be checked without anything else.
    pub(super) fn read(image: &ImageFile) -> Result<Header, FormatError> {
        let len = image.len().map_err(FormatError::host("find the size of", 0))?;
        let mut first = [0; 112];
        let start = index(len.min(112));
        let not_this = FormatError::NotThis { format: Format::Qcow2 };
        if start < 72 {
            return Err(not_this);
        }
        image.read_at(&mut first[..start], 0).map_err(FormatError::host("read", 0))?;
        let (short, long) = (|at| be32(&first, at), |at| be64(&first, at));
        let version = short(4);
        if short(0) != MAGIC {
            return Err(not_this);
        }
        if !matches!(version, 2 | 3) {
            return Err(unsupported(format!("version {version} of qcow2")));
        }
        let cluster_bits = short(20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(damaged(20, format!("clusters of 2^{cluster_bits} bytes")));
        }
        if short(32) != 0 {
            return Err(unsupported(format!("encryption{CONVERT}")));
        }
        let cluster = 1u64 << cluster_bits;
        if version == 3 && start < 104 {
            return Err(damaged(start as u64, "the header ends here"));
        }
        let features = if version == 3 { long(at::INCOMPATIBLE) } else { 0 };
        let header_length = if version == 3 { u64::from(short(100)) } else { 72 };
        if version == 3 && !(104..=cluster).contains(&header_length)
            || !header_length.is_multiple_of(8)
        {
            return Err(damaged(100, format!("a header of {header_length} bytes")));
        }
        let zstd = features & COMPRESSION_TYPE != 0 && {
            match first[104] {
                0 => false,
                1 if header_length >= 105 => true,
                kind => return Err(unsupported(format!("compression type {kind}"))),
            }
        };
        let refcount_order = if version == 3 { short(96) } else { 4 };
        if refcount_order > 6 {
            return Err(damaged(96, format!("refcounts of 2^{refcount_order} bits")));
        }
        let mut bytes = vec![0; index(cluster)];
        let have = index(len.min(cluster));
        image.read_at(&mut bytes[..have], 0).map_err(FormatError::host("read", 0))?;
        let mut header = Header {
            version,
            cluster_bits,
            size: long(24),
            l1_size: short(36) as usize,
            l1_offset: long(40),
            snapshots: short(60),
            snapshots_offset: long(64),
            refcount_order,
            zstd,
            extensions: Vec::new(),
            end: None,
            bytes,
        };
        header.check_bits(features, image.is_writable())?;
        header.check_tables()?;
        header.check_name()?;
        header.find_extensions(index(header_length))?;
        Ok(header)
    }

    /// Refuses what cohort cannot read, or must not write.
    fn check_bits(&self, features: u64, writable: bool) -> Result<(), FormatError> {
        let refuse = |what: &str| Err(unsupported(what.to_owned()));
        if features & DATA_FILE != 0 {
            return refuse(&format!("an external data file{CONVERT}"));
        }
        if features & EXTENDED_L2 != 0 {
            return refuse(&format!("an image with extended L2 entries{CONVERT}"));
        }
        let known = DIRTY | CORRUPT | COMPRESSION_TYPE | FOREIGN_PARENT;
        if features & !known != 0 {
            let bit = (features & !known).trailing_zeros();
            return Err(unsupported(format!("the incompatible feature bit {bit}")));
        }
        if writable && features & DIRTY != 0 {
            return refuse(
                "writing to an image that was not closed in order (`qemu-img check -r all` mends \
                 it)",
            );
        }
        if writable && features & CORRUPT != 0 {
            return refuse(
                "writing to an image marked as corrupt (`qemu-img check -r all` may mend it)",
            );
        }
        if writable && self.snapshots != 0 {
            return refuse(
                "writing to an image with internal snapshots (make a child of it, or delete them \
                 with `qemu-img snapshot -d`)",
            );
        }
        Ok(())
    }

    fn check_tables(&self) -> Result<(), FormatError> {
        let cluster = self.cluster();
        if self.size > i64::MAX as u64 {
            return Err(damaged(24, format!("a disk of {} bytes", self.size)));
        }
        let covered = cluster * (cluster / 8);
        let needed = self.size.div_ceil(covered);
        if (self.l1_size as u64) < needed {
            return Err(damaged(36, format!("{} of {needed} L1 entries", self.l1_size)));
        }
        if self.l1_size as u64 * 8 > L1_MAX {
            return Err(unsupported(format!("an L1 table of {} entries", self.l1_size)));
        }
        let (table, clusters) = self.refcount_table();
        if u64::from(clusters) * cluster > TABLE_MAX.max(cluster) {
            return Err(unsupported(format!("a refcount table of {clusters} clusters")));
        }
        for (at, offset) in [(40, self.l1_offset), (48, table)] {
            if !offset.is_multiple_of(cluster) || offset > (i64::MAX >> 1) as u64 {
                return Err(damaged(at, format!("a table at {offset:#x}")));
            }
        }
        Ok(())
    }

    fn check_name(&self) -> Result<(), FormatError> {
        let (offset, len) = self.name_place();
        let end = offset.checked_add(len as u64);
        let inside = end.is_some_and(|end| end <= self.cluster());
        if offset != 0 && (len > NAME_MAX || !inside) {
            return Err(damaged(8, format!("a name of {len} bytes at {offset:#x}")));
        }
        Ok(())
    }

    fn find_extensions(&mut self, start: usize) -> Result<(), FormatError> {
        let limit = match self.name_place().0 {
            0 => self.bytes.len(),
            offset => index(offset),
        };
        let mut at = start;
        while at.saturating_add(8) <= limit {
            let (kind, len) = (be32(&self.bytes, at), be32(&self.bytes, at + 4) as usize);
            if kind == 0 {
                self.end = Some(at);
                break;
            }
            let data = at + 8;
            if len > limit - data {
                return Err(damaged(at as u64, "a header extension that does not fit"));
            }
            self.extensions.push((kind, data..data + len));
            at = data + len.next_multiple_of(8);
        }
        Ok(())
    }

    /// Bytes of a cluster.
    pub(super) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Where the refcount table is, and of how many clusters.
    pub(super) fn refcount_table(&self) -> (u64, u32) {
        let at = at::REFCOUNT_TABLE;
        (be64(&self.bytes, at), be32(&self.bytes, at + 8))
    }

    /// The autoclear features; none in version 2.
    pub(super) fn autoclear(&self) -> u64 {
        if self.version == 3 { be64(&self.bytes, at::AUTOCLEAR) } else { 0 }
    }

    /// Whether the parent is one that only cohort can follow.
    pub(super) fn has_foreign_parent(&self) -> bool {
        self.version == 3 && be64(&self.bytes, at::INCOMPATIBLE) & FOREIGN_PARENT != 0
    }

    fn name_place(&self) -> (u64, usize) {
        (be64(&self.bytes, at::BACKING), be32(&self.bytes, at::BACKING + 8) as usize)
    }

    /// The name of the backing file; empty where there is none.
    pub(super) fn backing(&self) -> &[u8] {
        let (offset, len) = self.name_place();
        let start = index(offset);
        if start == 0 { &[] } else { self.bytes.get(start..start + len).unwrap_or_default() }
    }

    /// The data of an extension, and where it is in the file.
    pub(super) fn extension(&self, kind: u32) -> Option<(u64, &[u8])> {
        let (_, range) = self.extensions.iter().find(|(other, _)| *other == kind)?;
        Some((range.start as u64, &self.bytes[range.clone()]))
    }

    /// Whether there are bitmaps, which refer to clusters that nothing else refers to.
    pub(super) fn has_bitmaps(&self) -> bool {
        self.extension(BITMAPS).is_some()
    }

    /// Changes fields of the first sector, all or none of them, durably.
    fn edit(
        &mut self,
        image: &ImageFile,
        change: impl FnOnce(&mut [u8]),
    ) -> Result<(), FormatError> {
        let mut sector: [u8; SECTOR] = std::array::from_fn(|at| self.bytes[at]);
        change(&mut sector);
        if sector == self.bytes[..SECTOR] {
            return Ok(());
        }
        self.put(image, 0, &sector)
    }

    /// Writes a part of the header cluster, durably.
    pub(super) fn put(
        &mut self,
        image: &ImageFile,
        at: usize,
        bytes: &[u8],
    ) -> Result<(), FormatError> {
        image.write_at(bytes, at as u64).map_err(FormatError::host("write", at as u64))?;
        image.sync().map_err(FormatError::host("sync", at as u64))?;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    /// Replaces the autoclear features.
    pub(super) fn set_autoclear(
        &mut self,
        image: &ImageFile,
        bits: u64,
    ) -> Result<(), FormatError> {
        if self.version < 3 {
            return Ok(());
        }
        self.edit(image, |sector| put64(sector, at::AUTOCLEAR, bits))
    }

    /// Names another refcount table.
    pub(super) fn set_refcount_table(
        &mut self,
        image: &ImageFile,
        offset: u64,
        clusters: u32,
    ) -> Result<(), FormatError> {
        self.edit(image, |sector| {
            put64(sector, at::REFCOUNT_TABLE, offset);
            put32(sector, at::REFCOUNT_TABLE + 8, clusters);
        })
    }

    /// Puts the name of the backing file somewhere else, replacing it, and in the same stroke its
    /// format. `name` is empty for a parent that only cohort can follow. Whether that was possible;
    /// if not, nothing has changed.
    pub(super) fn set_backing(
        &mut self,
        image: &ImageFile,
        name: &[u8],
        format: Format,
    ) -> Result<bool, FormatError> {
        let foreign = name.is_empty();
        if self.version < 3 && foreign {
            return Ok(false);
        }
        let place = self.extension(BACKING_FORMAT).map(|(at, data)| (index(at), data.to_vec()));
        let word = format.name().as_bytes();
        let rewrite = match place {
            _ if foreign => None,
            Some((_, data)) if data == word => None,
            // The length before the data and the data itself are changed with the rest.
            Some((at, data)) if at + 8 <= SECTOR && data.len().next_multiple_of(8) == 8 => Some(at),
            _ => return Ok(false),
        };
        let mut to = (0, 0);
        if !foreign {
            let Some(at) = self.free_place(name.len()) else { return Ok(false) };
            self.put(image, at, name)?;
            to = (at as u64, u32::try_from(name.len()).unwrap_or_default());
        }
        let version = self.version;
        self.edit(image, |sector| {
            put64(sector, at::BACKING, to.0);
            put32(sector, at::BACKING + 8, to.1);
            if let Some(at) = rewrite {
                put32(sector, at - 4, u32::try_from(word.len()).unwrap_or_default());
                sector[at..at + 8].fill(0);
                sector[at..at + word.len()].copy_from_slice(word);
            }
            if version == 3 {
                let bits = be64(sector, at::INCOMPATIBLE) & !FOREIGN_PARENT;
                let own = if foreign { FOREIGN_PARENT } else { 0 };
                put64(sector, at::INCOMPATIBLE, bits | own);
            }
        })?;
        if let Some(at) = rewrite
            && let Some((_, range)) = self.extensions.iter_mut().find(|(_, r)| r.start == at)
        {
            *range = at..at + word.len();
        }
        Ok(true)
    }

    /// A place for a name of `len` bytes behind the extensions and clear of the present name.
    fn free_place(&self, len: usize) -> Option<usize> {
        let start = self.end? + 8;
        let (offset, old) = self.name_place();
        let taken = if offset == 0 { start..start } else { index(offset)..index(offset) + old };
        let behind = taken.end.max(start).next_multiple_of(8);
        let before = start + len <= taken.start;
        let at = if before { start } else { behind };
        (len <= NAME_MAX && at + len <= self.bytes.len()).then_some(at)
    }

    /// Adds an extension behind the others. Whether there was room; if not, nothing has changed.
    pub(super) fn add_extension(
        &mut self,
        image: &ImageFile,
        kind: u32,
        data: &[u8],
    ) -> Result<bool, FormatError> {
        let Some(end) = self.end else { return Ok(false) };
        let new_end = end + 8 + data.len().next_multiple_of(8);
        let (offset, name_len) = self.name_place();
        let name_at = index(offset);
        let mut needed = new_end + 8;
        let mut move_to = None;
        if offset != 0 && name_at < needed {
            let at = needed.max((name_at + name_len).next_multiple_of(8));
            move_to = Some(at);
            needed = at + name_len;
        }
        if needed > self.bytes.len() {
            return Ok(false);
        }
        if let Some(at) = move_to {
            let name = self.backing().to_vec();
            self.put(image, at, &name)?;
            self.edit(image, |sector| put64(sector, at::BACKING, at as u64))?;
        }
        // Until the last step, the list still ends where it did.
        let mut rest = data.to_vec();
        rest.resize(new_end - end, 0);
        self.put(image, end + 8, &rest)?;
        let mut entry = [0; 8];
        put32(&mut entry, 0, kind);
        put32(&mut entry, 4, u32::try_from(data.len()).unwrap_or_default());
        self.put(image, end, &entry)?;
        self.extensions.push((kind, end + 8..end + 8 + data.len()));
        self.end = Some(new_end);
        Ok(true)
    }

    /// Room for the data of another extension, if the name of the backing file may move.
    pub(super) fn room(&self) -> usize {
        let Some(end) = self.end else { return 0 };
        let (offset, len) = self.name_place();
        let name = if offset == 0 { 0 } else { 2 * len.next_multiple_of(8) };
        (self.bytes.len()).saturating_sub(end + 16 + name)
    }
}

/// The 32-bit number at `at`.
pub(super) fn be32(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    field.map_or(0, |field| u32::from_be_bytes(*field))
}

/// The 64-bit number at `at`.
pub(super) fn be64(bytes: &[u8], at: usize) -> u64 {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    field.map_or(0, |field| u64::from_be_bytes(*field))
}

/// Puts a 32-bit number at `at`.
pub(super) fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// Puts a 64-bit number at `at`.
pub(super) fn put64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}
