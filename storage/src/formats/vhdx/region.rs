//! The region tables (MS-VHDX 2.2.3): where the block allocation table and the metadata are.

use super::bytes::{get_guid, get32, get64, is_sealed, put, put_guid, put32, put64, seal};
use super::pages::Source;
use super::{MIB, guid};
use crate::formats::FormatError;

const SIGNATURE: &[u8; 4] = b"regi";
/// Where the two copies are.
pub(super) const TABLES: [u64; 2] = [192 << 10, 256 << 10];
/// Bytes of a table, all of which its checksum covers.
pub(super) const TABLE_BYTES: usize = 64 << 10;
const ENTRIES_MAX: u32 = 2047;

/// A part of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) offset: u64,
    pub(super) len: u64,
}

impl Region {
    pub(super) fn end(self) -> u64 {
        self.offset.saturating_add(self.len)
    }

    pub(super) fn overlaps(self, other: Region) -> bool {
        self.offset < other.end() && other.offset < self.end()
    }
}

/// The first valid table, and where it is.
fn valid_table(source: &Source<'_>) -> Result<(u64, Vec<u8>), FormatError> {
    let mut table = vec![0; TABLE_BYTES];
    for at in TABLES {
        source.read(&mut table, at)?;
        if is_sealed(&table, SIGNATURE) {
            return Ok((at, table));
        }
    }
    Err(FormatError::damaged(TABLES[0], "neither region table is valid"))
}

/// Where the table is that is not valid, if one of them is not, and what the other says.
pub(super) fn damaged_table(source: &Source<'_>) -> Result<Option<(u64, Vec<u8>)>, FormatError> {
    let (valid, table) = valid_table(source)?;
    if valid != TABLES[0] {
        return Ok(Some((TABLES[0], table)));
    }
    let mut other = vec![0; TABLE_BYTES];
    source.read(&mut other, TABLES[1])?;
    Ok((!is_sealed(&other, SIGNATURE)).then_some((TABLES[1], table)))
}

/// The regions that there must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Regions {
    pub(super) bat: Region,
    pub(super) metadata: Region,
    pub(super) log: Region,
    /// Where the last region ends, also of those that need not be understood.
    pub(super) end: u64,
}

impl Regions {
    /// Reads the first valid table.
    pub(super) fn read(source: &Source<'_>, log: Region) -> Result<Regions, FormatError> {
        let (at, table) = valid_table(source)?;
        let count = get32(&table, 8);
        if count > ENTRIES_MAX {
            return Err(FormatError::damaged(at, format!("a table of {count} regions")));
        }
        let (mut bat, mut metadata) = (None, None);
        let mut all = vec![log];
        for number in 0..count as usize {
            let entry = &table[16 + 32 * number..][..32];
            let (id, required) = (get_guid(entry, 0), get32(entry, 28) & 1 != 0);
            let region = Region { offset: get64(entry, 16), len: u64::from(get32(entry, 24)) };
            let aligned = region.offset.is_multiple_of(MIB) && region.len.is_multiple_of(MIB);
            let end = region.offset.checked_add(region.len);
            let inside = end.is_some_and(|end| end <= i64::MAX as u64);
            if !aligned || !inside || region.offset < MIB || region.len == 0 {
                let what = format!("region {id} is in an impossible place");
                return Err(FormatError::damaged(at, what));
            }
            all.push(region);
            let known = match id {
                guid::BAT => &mut bat,
                guid::METADATA => &mut metadata,
                _ if required => {
                    let what = format!("the required region {id}");
                    return Err(FormatError::Unsupported { what });
                }
                _ => continue,
            };
            if known.replace(region).is_some() {
                return Err(FormatError::damaged(at, format!("region {id} is there twice")));
            }
        }
        all.sort_unstable_by_key(|region| region.offset);
        if all.windows(2).any(|pair| pair[0].overlaps(pair[1])) {
            return Err(FormatError::damaged(at, "regions overlap"));
        }
        let missing = |what| move || FormatError::damaged(at, format!("there is no {what} region"));
        let bat = bat.ok_or_else(missing("BAT"))?;
        let metadata = metadata.ok_or_else(missing("metadata"))?;
        let end = all.last().map_or(0, |region| region.end());
        Ok(Regions { bat, metadata, log, end })
    }

    /// The table that says this.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut table = vec![0; TABLE_BYTES];
        put(&mut table, 0, SIGNATURE);
        put32(&mut table, 8, 2);
        for (number, (id, region)) in
            [(guid::BAT, self.bat), (guid::METADATA, self.metadata)].into_iter().enumerate()
        {
            let at = 16 + 32 * number;
            put_guid(&mut table, at, id);
            put64(&mut table, at + 16, region.offset);
            put32(&mut table, at + 24, u32::try_from(region.len).unwrap_or(u32::MAX));
            put32(&mut table, at + 28, 1);
        }
        seal(&mut table);
        table
    }

    /// Whether a block may be there: behind the headers, in no region.
    pub(super) fn leave_room(&self, block: Region) -> bool {
        block.offset >= MIB
            && ![self.bat, self.metadata, self.log].iter().any(|region| region.overlaps(block))
    }
}
