//! New images: version 3, clusters of 64 KiB, nothing allocated.

use super::header::{BACKING_FORMAT, FEATURE_NAMES, FOREIGN_PARENT, IDENTIFIED, put32, put64};
use super::record::{self, Record};
use super::{index, unsupported};
use crate::formats::{FormatError, NewLayer};
use crate::image::ImageFile;
use crate::units::SECTOR;

const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Bytes of the header's fields.
const HEADER: u32 = 112;
/// Largest disk.
const SIZE_MAX: u64 = 16 << 40;

/// Makes an empty file into an image.
pub(in crate::formats) fn create(image: &ImageFile, new: &NewLayer) -> Result<(), FormatError> {
    if u64::from(new.sector) != SECTOR {
        return Err(unsupported(format!("qcow2 with blocks of {} bytes", new.sector)));
    }
    if new.fixed {
        return Err(unsupported("qcow2 of fixed size".into()));
    }
    if new.size > SIZE_MAX || !new.size.is_multiple_of(SECTOR) {
        return Err(unsupported(format!("qcow2 of {} bytes", new.size)));
    }
    // One cluster of refcount table counts 16 TiB of file, which a full disk of that size exceeds
    // by its own metadata.
    let table_clusters = if new.size > SIZE_MAX / 2 { 2u64 } else { 1 };
    let l1_size = new.size.div_ceil(CLUSTER * CLUSTER / 8).max(1);
    let l1_clusters = (l1_size * 8).div_ceil(CLUSTER);
    // Header, refcount table, first refcount block, L1 table.
    let (table, block) = (1, 1 + table_clusters);
    let l1 = block + 1;
    let clusters = l1 + l1_clusters;

    let backing = new.parent.as_ref().map_or(Ok(Vec::new()), record::backing_name)?;
    let mut bytes = vec![0; index(CLUSTER)];
    put32(&mut bytes, 0, 0x5146_49fb);
    put32(&mut bytes, 4, 3);
    put32(&mut bytes, 20, CLUSTER_BITS);
    put64(&mut bytes, 24, new.size);
    put32(&mut bytes, 36, u32::try_from(l1_size).unwrap_or_default());
    put64(&mut bytes, 40, l1 * CLUSTER);
    put64(&mut bytes, 48, table * CLUSTER);
    put32(&mut bytes, 56, u32::try_from(table_clusters).unwrap_or_default());
    let foreign = new.parent.is_some() && backing.is_empty();
    put64(&mut bytes, 72, if foreign { FOREIGN_PARENT } else { 0 });
    put64(&mut bytes, 88, IDENTIFIED);
    put32(&mut bytes, 96, 4);
    put32(&mut bytes, 100, HEADER);
    let mut at = HEADER as usize;
    // In the first sector, where it can be changed together with the name.
    if let (Some(link), false) = (&new.parent, foreign) {
        put_extension(&mut bytes, &mut at, BACKING_FORMAT, link.format.name().as_bytes());
    }
    put_extension(&mut bytes, &mut at, FEATURE_NAMES, &feature_names());
    let record = Record::fresh(&backing, new.parent.as_ref());
    let data = record::new_extension(&record, bytes.len() - at)?;
    put_extension(&mut bytes, &mut at, record::KIND, &data);
    at += 8;
    if !backing.is_empty() {
        put64(&mut bytes, 8, at as u64);
        put32(&mut bytes, 16, u32::try_from(backing.len()).unwrap_or_default());
        bytes[at..at + backing.len()].copy_from_slice(&backing);
    }

    let write =
        |bytes: &[u8], at: u64| image.write_at(bytes, at).map_err(FormatError::host("write", at));
    let sync = || image.sync().map_err(FormatError::host("sync", 0));
    image.set_len(clusters * CLUSTER).map_err(FormatError::host("set the size of", 0))?;
    // What is written to a full file system later must not lack the space for its tables then.
    let tables = (clusters - 1) * CLUSTER;
    image.reserve(CLUSTER, tables).map_err(FormatError::host("take space for", CLUSTER))?;
    let counts: Vec<u8> = (0..clusters).flat_map(|_| 1u16.to_be_bytes()).collect();
    write(&counts, block * CLUSTER)?;
    write(&(block * CLUSTER).to_be_bytes(), table * CLUSTER)?;
    sync()?;
    // Without it, the file is nothing.
    write(&bytes, 0)?;
    sync()
}

fn put_extension(bytes: &mut [u8], at: &mut usize, kind: u32, data: &[u8]) {
    put32(bytes, *at, kind);
    put32(bytes, *at + 4, u32::try_from(data.len()).unwrap_or_default());
    bytes[*at + 8..*at + 8 + data.len()].copy_from_slice(data);
    *at += 8 + data.len().next_multiple_of(8);
}

/// What others call cohort's feature bits when they refuse the image.
fn feature_names() -> Vec<u8> {
    let entry = |kind: u8, bits: u64, name: &str| {
        let mut entry = [0; 48];
        entry[0] = kind;
        entry[1] = u8::try_from(bits.trailing_zeros()).unwrap_or_default();
        entry[2..2 + name.len()].copy_from_slice(name.as_bytes());
        entry
    };
    let parent = entry(0, FOREIGN_PARENT, "cohort: parent of another format");
    let identified = entry(2, IDENTIFIED, "cohort: identifier is true");
    [parent, identified].concat()
}
