//! The metadata region (MS-VHDX 2.6): what kind of disk this is.

use uuid::Uuid;

use super::bat::Geometry;
use super::bytes::{get_guid, get16, get32, get64, put, put_guid, put16, put32, put64};
use super::pages::Source;
use super::region::Region;
use super::{MIB, guid};
use crate::formats::FormatError;
use crate::layer::DiskTraits;

const SIGNATURE: &[u8; 8] = b"metadata";
/// Bytes of the table at the region's start; items are behind it.
pub(super) const TABLE_BYTES: usize = 64 << 10;
const ENTRIES_MAX: u16 = 2047;
const ITEM_MAX: u32 = 1 << 20;
/// Flags of entries: the item is a user's, none of the format's; it is about the virtual disk; it
/// must be understood.
const USER: u32 = 1;
const VIRTUAL_DISK: u32 = 2;
const REQUIRED: u32 = 4;
/// Largest disk (2.6.2.2).
pub(super) const SIZE_MAX: u64 = 64 << 40;

/// What the items say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) geometry: Geometry,
    /// Blocks keep their space when they are erased (`LeaveBlockAllocated`): a fixed disk.
    pub(super) leave_allocated: bool,
    pub(super) traits: DiskTraits,
    /// The parent locator, undecoded.
    pub(super) locator: Option<Vec<u8>>,
    /// The number of its entry in the table, and all entries' places in the region.
    pub(super) locator_entry: Option<usize>,
    pub(super) items: Vec<Region>,
}

impl Metadata {
    pub(super) fn read(source: &Source<'_>, region: Region) -> Result<Metadata, FormatError> {
        let damaged = |what: String| FormatError::damaged(region.offset, what);
        let mut table = vec![0; TABLE_BYTES];
        source.read(&mut table, region.offset)?;
        if !table.starts_with(SIGNATURE) {
            return Err(damaged("there is no metadata table".to_owned()));
        }
        let count = get16(&table, 10);
        if count > ENTRIES_MAX {
            return Err(damaged(format!("a table of {count} metadata items")));
        }
        let (mut items, mut locator_entry) = (Vec::new(), None);
        let mut known: [(Uuid, usize, Option<Vec<u8>>); 5] = [
            (guid::FILE_PARAMETERS, 8, None),
            (guid::DISK_SIZE, 8, None),
            (guid::DISK_ID, 16, None),
            (guid::LOGICAL_SECTOR, 4, None),
            (guid::PHYSICAL_SECTOR, 4, None),
        ];
        let mut locator = None;
        for number in 0..usize::from(count) {
            let entry = &table[32 + 32 * number..][..32];
            let (id, len, flags) = (get_guid(entry, 0), get32(entry, 20), get32(entry, 24));
            let item = Region { offset: u64::from(get32(entry, 16)), len: u64::from(len) };
            let placed = item.offset >= TABLE_BYTES as u64 && item.end() <= region.len;
            if len != 0 && (!placed || len > ITEM_MAX) {
                return Err(damaged(format!("metadata item {id} is in an impossible place")));
            }
            items.push(item);
            let read = || {
                let mut bytes = vec![0; len as usize];
                source.read(&mut bytes, region.offset + item.offset).map(|()| bytes)
            };
            let system = flags & USER == 0;
            if system && id == guid::PARENT_LOCATOR {
                if locator.replace(read()?).is_some() {
                    return Err(damaged(format!("metadata item {id} is there twice")));
                }
                locator_entry = Some(number);
            } else if let Some((_, wanted, place)) =
                known.iter_mut().find(|item| system && item.0 == id)
            {
                if len as usize != *wanted {
                    return Err(damaged(format!("metadata item {id} has {len} bytes")));
                }
                if place.replace(read()?).is_some() {
                    return Err(damaged(format!("metadata item {id} is there twice")));
                }
            } else if flags & REQUIRED != 0 {
                let what = format!("the required metadata item {id}");
                return Err(FormatError::Unsupported { what });
            }
        }
        let item = |number: usize| {
            let (id, _, bytes) = &known[number];
            bytes.as_deref().ok_or_else(|| damaged(format!("metadata item {id} is missing")))
        };
        let (block, flags) = (get32(item(0)?, 0), get32(item(0)?, 4));
        let (size, sector) = (get64(item(1)?, 0), get32(item(3)?, 0));
        let (id, physical_sector) = (get_guid(item(2)?, 0), get32(item(4)?, 0));
        let differencing = flags & 2 != 0;
        if !block.is_power_of_two() || !(MIB..=256 * MIB).contains(&u64::from(block)) {
            return Err(damaged(format!("blocks of {block} bytes")));
        }
        if ![512, 4096].contains(&sector) || ![512, 4096].contains(&physical_sector) {
            return Err(damaged(format!("sectors of {sector} and {physical_sector} bytes")));
        }
        if size == 0 || size > SIZE_MAX || !size.is_multiple_of(u64::from(sector)) {
            return Err(damaged(format!("a disk of {size} bytes")));
        }
        if differencing && locator.is_none() {
            return Err(damaged("a differencing disk without parent locator".to_owned()));
        }
        let (block, sector) = (u64::from(block), u64::from(sector));
        Ok(Metadata {
            geometry: Geometry { size, block, sector, differencing },
            leave_allocated: flags & 1 != 0,
            traits: DiskTraits { id, physical_sector },
            locator: locator.filter(|_| differencing),
            locator_entry: locator_entry.filter(|_| differencing),
            items,
        })
    }

    /// Table and items of a new disk, from the region's start on.
    pub(super) fn encode(&self) -> Vec<u8> {
        let Geometry { size, block, sector, differencing } = self.geometry;
        let DiskTraits { id, physical_sector } = self.traits;
        let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
        let mut parameters = [0; 8];
        put(&mut parameters, 0, &narrow(block));
        let flags = u32::from(self.leave_allocated) | u32::from(differencing) << 1;
        put32(&mut parameters, 4, flags);
        let mut items = vec![
            (guid::FILE_PARAMETERS, REQUIRED, parameters.to_vec()),
            (guid::DISK_SIZE, REQUIRED | VIRTUAL_DISK, size.to_le_bytes().to_vec()),
            (guid::DISK_ID, REQUIRED | VIRTUAL_DISK, id.to_bytes_le().to_vec()),
            (guid::LOGICAL_SECTOR, REQUIRED | VIRTUAL_DISK, narrow(sector).to_vec()),
            (
                guid::PHYSICAL_SECTOR,
                REQUIRED | VIRTUAL_DISK,
                physical_sector.to_le_bytes().to_vec(),
            ),
        ];
        items.extend(self.locator.iter().map(|it| (guid::PARENT_LOCATOR, REQUIRED, it.clone())));
        let mut region = vec![0; TABLE_BYTES];
        put(&mut region, 0, SIGNATURE);
        put16(&mut region, 10, u16::try_from(items.len()).unwrap_or(u16::MAX));
        for (number, (id, flags, bytes)) in items.iter().enumerate() {
            let (at, offset) = (32 + 32 * number, region.len() as u64);
            put_guid(&mut region, at, *id);
            put(&mut region, at + 16, &narrow(offset));
            put(&mut region, at + 20, &narrow(bytes.len() as u64));
            put32(&mut region, at + 24, *flags);
            region.extend_from_slice(bytes);
            // Each item begins at a multiple of 8.
            region.resize(region.len().next_multiple_of(8), 0);
        }
        region
    }

    /// A place in the region for `len` bytes that no item uses, on pages of its own.
    pub(super) fn free_place(&self, region: Region, len: u64) -> Option<u64> {
        let page = super::PAGE;
        let mut used: Vec<Region> = self.items.iter().copied().filter(|it| it.len > 0).collect();
        used.sort_unstable_by_key(|item| item.offset);
        let mut at = TABLE_BYTES as u64;
        for item in used {
            if at.checked_add(len)? <= item.offset {
                return Some(at);
            }
            at = at.max(item.end().checked_next_multiple_of(page)?);
        }
        (at.checked_add(len)? <= region.len).then_some(at)
    }
}

/// Puts an item's new place into its entry, `entry` being at `at` in `table`.
pub(super) fn set_place(page: &mut [u8], at: usize, offset: u64, len: usize) {
    put64(page, at, offset & u64::from(u32::MAX) | (len as u64) << 32);
}
