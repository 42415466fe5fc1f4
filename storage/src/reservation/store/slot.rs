//! A slot: all that is kept at one time, with a checksum.
//!
//! ```text
//!    0  signature: "cohresv" and a zero
//!    8  CRC-32C of header and units, this field taken as zero   u32, as are all numbers little-endian
//!   12  version: 1                                              u32
//!   16  sequence: the higher one counts; even: first slot       u64
//!   24  bytes of the units                                      u32
//!   28  number of units                                         u32
//!   32  each: LUN (u16), length of the identity (u16), identity,
//!             length of the state (u32), state (see state.rs); ordered by identity
//! ```

use std::collections::BTreeMap;
use std::io;

use super::StoreError;
use crate::image::ImageFile;
use crate::reservation::Reservations;

const SIGNATURE: [u8; 8] = *b"cohresv\0";
/// The only version there is.
const VERSION: u32 = 1;
const HEADER: usize = 32;
const CHECKSUM_AT: usize = 8;
/// Bytes of a slot at most. One logical unit with as many registrations as it takes has 0.3 MiB.
const SLOT_MAX: usize = 16 << 20;
/// Disks that are remembered at most.
const UNITS_MAX: usize = 4096;
/// Bytes of a disk's identity at most.
const IDENTITY_MAX: usize = 4096;
/// Where the slots are.
pub(super) const SLOTS: [u64; 2] = [0, SLOT_MAX as u64];

/// What is kept of a logical unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// Where it was found last, for those who look at the file.
    pub(super) lun: u16,
    pub(super) reservations: Reservations,
}

/// All that is kept, by the identity of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) sequence: u64,
    pub(super) units: BTreeMap<String, Unit>,
}

/// What a slot holds.
#[derive(Debug)]
pub(super) enum Slot {
    /// Nothing was ever written there.
    Unused,
    /// What is there was not written to its end, or is something else.
    Damaged(&'static str),
    Valid(Contents),
}

/// The checksum, its own field taken as zero.
fn checksum(bytes: &[u8]) -> u32 {
    let (before, after) = bytes.split_at(CHECKSUM_AT.min(bytes.len()));
    let after = after.get(4..).unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]), after)
}

fn get<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).copied().unwrap_or([0; N])
}

fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(get(bytes, at))
}

impl Contents {
    /// Where it goes.
    pub(super) fn place(&self) -> u64 {
        SLOTS[usize::from(self.sequence % 2 == 1)]
    }

    /// A slot's bytes, or what there is too much of.
    pub(super) fn encode(&self) -> Result<Vec<u8>, &'static str> {
        if self.units.len() > UNITS_MAX {
            return Err("there are too many disks");
        }
        let mut bytes = vec![0; HEADER];
        for (identity, unit) in &self.units {
            let length = u16::try_from(identity.len()).ok();
            let length = length.filter(|_| (1..=IDENTITY_MAX).contains(&identity.len()));
            let length = length.ok_or("the identity of a disk is too long, or there is none")?;
            let state = unit.reservations.to_bytes();
            bytes.extend(unit.lun.to_le_bytes());
            bytes.extend(length.to_le_bytes());
            bytes.extend(identity.bytes());
            bytes.extend(u32::try_from(state.len()).unwrap_or(u32::MAX).to_le_bytes());
            bytes.extend(state);
            if bytes.len() > SLOT_MAX {
                return Err("there are too many registrations");
            }
        }
        let length = u32::try_from(bytes.len() - HEADER).unwrap_or(u32::MAX);
        let count = u32::try_from(self.units.len()).unwrap_or(u32::MAX);
        bytes[..8].copy_from_slice(&SIGNATURE);
        bytes[12..16].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..28].copy_from_slice(&length.to_le_bytes());
        bytes[28..32].copy_from_slice(&count.to_le_bytes());
        let checksum = checksum(&bytes);
        bytes[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
        Ok(bytes)
    }
}

impl Slot {
    /// Reads the slot at `at`.
    pub(super) fn read(image: &ImageFile, at: u64) -> Result<Slot, StoreError> {
        let host = |error| StoreError::host(image.path(), "read")(error);
        let len = image.len().map_err(host)?.saturating_sub(at);
        let there = usize::try_from(len).unwrap_or(usize::MAX).min(SLOT_MAX);
        let mut bytes = vec![0; HEADER.min(there)];
        image.read_at(&mut bytes, at).map_err(host)?;
        if get(&bytes, 0) == SIGNATURE {
            let length = usize::try_from(get_u32(&bytes, 24)).unwrap_or(usize::MAX);
            // No more than there is, so that a wrong length costs nothing.
            bytes.resize(HEADER.saturating_add(length).min(there), 0);
            match image.read_at(&mut bytes, at) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                result => result.map_err(host)?,
            }
        }
        Slot::decode(&bytes, at).map_err(|bad| match bad {
            Bad::Version(version) => StoreError::Version { path: image.path().into(), version },
            Bad::Content(what) => StoreError::Damaged { path: image.path().into(), what },
        })
    }

    /// Takes a slot's bytes apart. The error is for what was written as it is and makes no sense
    /// all the same: it is not the trace of a crash.
    fn decode(bytes: &[u8], at: u64) -> Result<Slot, Bad> {
        if bytes.iter().all(|&byte| byte == 0) {
            return Ok(Slot::Unused);
        }
        if get(bytes, 0) != SIGNATURE {
            return Ok(Slot::Damaged("the signature is wrong"));
        }
        let length = usize::try_from(get_u32(bytes, 24)).unwrap_or(usize::MAX);
        let Some(all) = bytes.get(..HEADER.saturating_add(length)) else {
            return Ok(Slot::Damaged("it ends too early"));
        };
        if checksum(all) != get_u32(all, CHECKSUM_AT) {
            return Ok(Slot::Damaged("the checksum is wrong"));
        }
        let version = get_u32(all, 12);
        if version != VERSION {
            return Err(Bad::Version(version));
        }
        let sequence = u64::from_le_bytes(get(all, 16));
        if sequence == u64::MAX {
            return Err(Bad::Content("the sequence number has no successor"));
        }
        let units = units(&all[HEADER..], get_u32(all, 28)).map_err(Bad::Content)?;
        let contents = Contents { sequence, units };
        if contents.place() != at {
            return Err(Bad::Content("the sequence number belongs elsewhere"));
        }
        Ok(Slot::Valid(contents))
    }
}

#[derive(Debug)]
enum Bad {
    Version(u32),
    Content(&'static str),
}

fn units(mut bytes: &[u8], count: u32) -> Result<BTreeMap<String, Unit>, &'static str> {
    const SHORT: &str = "a record ends too early";
    let mut take = |length: usize| {
        let (taken, rest) = bytes.split_at_checked(length).ok_or(SHORT)?;
        bytes = rest;
        Ok::<&[u8], &'static str>(taken)
    };
    if usize::try_from(count).is_ok_and(|count| count > UNITS_MAX) {
        return Err("there are too many disks");
    }
    let mut units = BTreeMap::new();
    for _ in 0..count {
        let head = take(4)?;
        let (lun, length) = (u16::from_le_bytes(get(head, 0)), u16::from_le_bytes(get(head, 2)));
        let identity = str::from_utf8(take(length.into())?).ok();
        let identity = identity.filter(|it| (1..=IDENTITY_MAX).contains(&it.len()));
        let identity = identity.ok_or("the identity of a disk makes no sense")?;
        let length = usize::try_from(get_u32(take(4)?, 0)).unwrap_or(usize::MAX);
        let reservations = Reservations::from_bytes(take(length)?)
            .map_err(|_| "the reservations of a disk make no sense")?;
        if units.last_key_value().is_some_and(|(last, _): (&String, &Unit)| **last >= *identity) {
            return Err("disks are not in order");
        }
        units.insert(identity.to_owned(), Unit { lun, reservations });
    }
    if !bytes.is_empty() {
        return Err("there is more than it says");
    }
    Ok(units)
}

#[cfg(test)]
mod tests;
