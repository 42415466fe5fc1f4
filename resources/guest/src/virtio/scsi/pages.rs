//! What logical units say about themselves (SBC-3, SPC-4): parameter data, read. Numbers are
//! big-endian; what is cut off is not there.
#![forbid(unsafe_code)]

use core::fmt;

/// VPD page: the serial number.
pub const UNIT_SERIAL_NUMBER: u8 = 0x80;
/// VPD page: names.
pub const DEVICE_IDENTIFICATION: u8 = 0x83;
/// VPD page: limits of commands.
pub const BLOCK_LIMITS: u8 = 0xB0;

/// Bytes of a header: of REPORT LUNS and of both kinds of PERSISTENT RESERVE IN.
const HEADER: usize = 8;

/// Size of a logical unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Number of logical blocks.
    pub blocks: u64,
    /// Bytes of a logical block.
    pub block: u32,
}

impl Capacity {
    /// Reads the data of READ CAPACITY(16).
    pub fn read(data: &[u8]) -> Option<Capacity> {
        let (last, block) = (be64(data, 0)?, be32(data, 8)?);
        // The last block's address: all ones stand for a unit that says no size.
        Some(Capacity { blocks: last.checked_add(1)?, block })
    }
}

/// The logical unit numbers in the data of REPORT LUNS: those of one level, by which a target's
/// own are addressed.
pub fn luns(data: &[u8]) -> impl Iterator<Item = u16> {
    let len = be32(data, 0).and_then(|len| usize::try_from(len).ok()).unwrap_or(0);
    let entries = data.get(HEADER..).unwrap_or_default();
    let entries = entries.get(..len).unwrap_or(entries).chunks_exact(8);
    entries.filter_map(|entry| {
        let [first, second, rest @ ..] = entry else { return None };
        // Address methods: peripheral on bus 0, and flat space (SAM-5, 4.7.7).
        let number = match first >> 6 {
            0 if *first == 0 => u16::from(*second),
            1 => u16::from_be_bytes([first & 0x3F, *second]),
            _ => return None,
        };
        rest.iter().all(|byte| *byte == 0).then_some(number)
    })
}

/// Whether the data of INQUIRY is that of a disk: a connected device (qualifier 0) of direct access
/// (type 0).
pub fn is_disk(data: &[u8]) -> bool {
    data.first() == Some(&0)
}

/// A VPD page without its header: `None` if it is another one.
pub fn page(number: u8, data: &[u8]) -> Option<&[u8]> {
    let [_, found, high, low, rest @ ..] = data else { return None };
    let len = usize::from(u16::from_be_bytes([*high, *low]));
    (*found == number).then(|| rest.get(..len).unwrap_or(rest))
}

/// The name of the logical unit that is registered worldwide, from the device identification
/// page: 8 or 16 bytes.
pub fn naa(page: &[u8]) -> Option<&[u8]> {
    let mut rest = page;
    loop {
        let [_, kind, _, len, behind @ ..] = rest else { return None };
        let (name, others) = behind.split_at_checked(usize::from(*len))?;
        // Association with the logical unit (0), type NAA (3).
        if kind & 0x3F == 3 && matches!(name.len(), 8 | 16) {
            return Some(name);
        }
        rest = others;
    }
}

/// How many blocks one UNMAP may have, from the block limits page. 0: none at all.
pub fn unmap_limit(page: &[u8]) -> u32 {
    // Byte 20 of the whole page.
    be32(page, 16).unwrap_or(0)
}

/// The counter that changes with each registration and the like.
pub fn generation(data: &[u8]) -> u32 {
    be32(data, 0).unwrap_or(0)
}

/// The keys in the data of PERSISTENT RESERVE IN, READ KEYS.
pub fn keys(data: &[u8]) -> impl Iterator<Item = u64> {
    additional(data).chunks_exact(8).filter_map(|key| be64(key, 0))
}

/// How many keys there are, also of those that were cut off.
pub fn key_count(data: &[u8]) -> u32 {
    be32(data, 4).unwrap_or(0) / 8
}

/// Who has reserved a logical unit, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The holder's key; 0 where all registrants are holders.
    pub key: u64,
    /// The type.
    pub kind: u8,
}

impl Reservation {
    /// Reads the data of PERSISTENT RESERVE IN, READ RESERVATION. `None` if there is none.
    pub fn read(data: &[u8]) -> Option<Reservation> {
        let descriptor = additional(data);
        Some(Reservation { key: be64(descriptor, 0)?, kind: descriptor.get(13)? & 0xF })
    }
}

/// Short names of the types of reservations (SPC-4, table 206).
pub const RESERVATION_TYPES: [(&str, u8); 6] =
    [("we", 1), ("ea", 3), ("we-ro", 5), ("ea-ro", 6), ("we-ar", 7), ("ea-ar", 8)];

impl fmt::Display for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {:#x} type ", self.key)?;
        match RESERVATION_TYPES.iter().find(|(_, kind)| *kind == self.kind) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}", self.kind),
        }
    }
}

/// What follows a header that ends with the length of it.
fn additional(data: &[u8]) -> &[u8] {
    let len = be32(data, 4).and_then(|len| usize::try_from(len).ok()).unwrap_or(0);
    let rest = data.get(HEADER..).unwrap_or_default();
    rest.get(..len).unwrap_or(rest)
}

fn be32(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*data.get(at..)?.first_chunk()?))
}

fn be64(data: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*data.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests;
