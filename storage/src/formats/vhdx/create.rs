//! A new VHDX: log, metadata and block allocation table, in this order, then the blocks.

use std::sync::Arc;

use uuid::Uuid;

use super::bat::{self, Geometry};
use super::bytes::put;
use super::header::{FILE_SIGNATURE, Header, SLOTS};
use super::metadata::{Metadata, SIZE_MAX};
use super::region::{Region, Regions, TABLES};
use super::{MIB, locator};
use crate::engine::sys;
use crate::formats::{FormatError, NewLayer};
use crate::image::ImageFile;
use crate::layer::DiskTraits;

/// Sizes of payload blocks, as Hyper-V chooses them.
const BLOCK: u64 = 32 * MIB;
const BLOCK_DIFFERENCING: u64 = 2 * MIB;
/// Bytes of the block allocation table that are written at a time.
const PIECE: usize = 1 << 20;

/// Makes an empty file into a VHDX. The headers come last: before, it is none.
pub(super) fn create(image: &Arc<ImageFile>, new: &NewLayer) -> Result<(), FormatError> {
    let block = if new.parent.is_some() { BLOCK_DIFFERENCING } else { BLOCK };
    create_with_blocks(image, new, block)
}

/// The same with payload blocks of `block` bytes, a power of two from 1 MiB to 256 MiB.
pub(super) fn create_with_blocks(
    image: &ImageFile,
    new: &NewLayer,
    block: u64,
) -> Result<(), FormatError> {
    let unsupported = |what: &str| Err(FormatError::Unsupported { what: what.to_owned() });
    let sector = u64::from(new.sector);
    if ![512, 4096].contains(&sector) {
        return unsupported("a VHDX with sectors of neither 512 nor 4096 bytes");
    }
    if new.size == 0 || new.size > SIZE_MAX || !new.size.is_multiple_of(sector) {
        return unsupported("a VHDX of this size (whole sectors up to 64 TiB are)");
    }
    if new.fixed && new.parent.is_some() {
        return unsupported("a fixed VHDX with a parent");
    }
    let locator = new.parent.as_ref().map(locator::encode).transpose()?;
    let differencing = locator.is_some();
    let geometry = Geometry { size: new.size, block, sector, differencing };
    let bat_len = (geometry.entries() * 8).next_multiple_of(MIB);
    let regions = Regions {
        log: Region { offset: MIB, len: MIB },
        metadata: Region { offset: 2 * MIB, len: MIB },
        bat: Region { offset: 3 * MIB, len: bat_len },
        end: 3 * MIB + bat_len,
    };
    let blocks = regions.bat.end();
    let end = if new.fixed { blocks + geometry.blocks() * block } else { blocks };
    image.set_len(end).map_err(FormatError::host("set the size of", 0))?;
    let write =
        |bytes: &[u8], at| image.write_at(bytes, at).map_err(FormatError::host("write", at));
    if new.fixed {
        // Where the file system keeps no space for later, it is taken as it is needed.
        if let Err(error) = sys::fallocate(image.file(), 0, blocks, end - blocks)
            && error.raw_os_error() != Some(libc::EOPNOTSUPP)
        {
            return Err(FormatError::host("allocate", blocks)(error));
        }
        write_fixed_bat(&geometry, &regions, blocks, write)?;
    }
    let metadata = Metadata {
        geometry,
        leave_allocated: new.fixed,
        traits: new.traits.unwrap_or(DiskTraits { id: Uuid::new_v4(), physical_sector: 4096 }),
        locator,
        locator_entry: None,
        items: Vec::new(),
    };
    write(&metadata.encode(), regions.metadata.offset)?;
    let table = regions.encode();
    TABLES.into_iter().try_for_each(|at| write(&table, at))?;
    image.sync().map_err(FormatError::host("sync", 0))?;
    let mut header = Header {
        sequence: 1,
        file_write: Uuid::new_v4(),
        data_write: Uuid::new_v4(),
        log: Uuid::nil(),
        log_offset: regions.log.offset,
        log_len: u32::try_from(regions.log.len).unwrap_or_default(),
    };
    for at in SLOTS {
        write(&header.encode(), at)?;
        header.sequence += 1;
    }
    let mut start = vec![0; 8];
    put(&mut start, 0, FILE_SIGNATURE);
    start.extend("cohort".encode_utf16().flat_map(u16::to_le_bytes));
    write(&start, 0)?;
    image.sync().map_err(FormatError::host("sync", 0))
}

/// The table of a disk whose blocks all have their space, in order.
fn write_fixed_bat(
    geometry: &Geometry,
    regions: &Regions,
    blocks: u64,
    write: impl Fn(&[u8], u64) -> Result<(), FormatError>,
) -> Result<(), FormatError> {
    let (mut piece, mut at) = (Vec::with_capacity(PIECE), regions.bat.offset);
    let mut next = 0;
    for block in 0..geometry.blocks() {
        // Entries of sector bitmaps, of which a disk without parent has none, stay zero.
        for _ in next..geometry.entry_of(block) {
            piece.extend_from_slice(&[0; 8]);
        }
        piece.extend_from_slice(&bat::fully(blocks + block * geometry.block).to_le_bytes());
        next = geometry.entry_of(block) + 1;
        if piece.len() >= PIECE {
            write(&piece, at)?;
            at += piece.len() as u64;
            piece.clear();
        }
    }
    write(&piece, at)
}
