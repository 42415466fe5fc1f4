//! Internal snapshots: maps of earlier states, which share clusters with the present one. cohort
//! reads the present state beside them, and counts what they refer to.

use super::header::{Header, be32, be64};
use super::{damaged, unsupported};
use crate::formats::FormatError;
use crate::image::ImageFile;

/// QEMU keeps no more either.
const COUNT_MAX: u32 = 1 << 16;
/// Bytes of L1 tables of all snapshots together that are looked through.
const L1_BYTES_MAX: u64 = 1 << 30;
/// Bytes of an entry before its parts of variable length.
const FIXED: usize = 40;

/// Where the snapshots' own tables are.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    /// Bytes of the list of snapshots, which starts at `header.snapshots_offset`.
    pub(super) len: u64,
    /// Offset and number of entries of each L1 table.
    pub(super) l1: Vec<(u64, u64)>,
}

impl Snapshots {
    /// Reads the list.
    pub(super) fn read(
        image: &ImageFile,
        header: &Header,
        file_len: u64,
    ) -> Result<Snapshots, FormatError> {
        let start = header.snapshots_offset;
        let mut snapshots = Snapshots::default();
        if header.snapshots > COUNT_MAX {
            return Err(damaged(60, format!("{} internal snapshots", header.snapshots)));
        }
        let mut at = start;
        let mut room = L1_BYTES_MAX;
        for _ in 0..header.snapshots {
            let mut entry = [0; FIXED];
            if at.saturating_add(FIXED as u64) > file_len {
                return Err(damaged(at, "the list of snapshots is beyond the end of the file"));
            }
            image.read_at(&mut entry, at).map_err(FormatError::host("read", at))?;
            let (l1, entries) = (be64(&entry, 0), u64::from(be32(&entry, 8)));
            let inside = l1.checked_add(entries * 8).is_some_and(|end| end <= file_len);
            if !inside || !l1.is_multiple_of(header.cluster()) {
                return Err(damaged(at, format!("a snapshot with an L1 table at {l1:#x}")));
            }
            room = room.checked_sub(entries * 8).ok_or_else(|| {
                unsupported("checking snapshots with more than 1 GiB of L1 tables".to_owned())
            })?;
            snapshots.l1.push((l1, entries));
            let names = u64::from(be32(&entry, 12) >> 16) + u64::from(be32(&entry, 12) & 0xffff);
            let extra = u64::from(be32(&entry, 36));
            at = (at + FIXED as u64 + extra + names).next_multiple_of(8);
        }
        snapshots.len = at - start;
        Ok(snapshots)
    }
}
