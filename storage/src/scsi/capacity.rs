//! READ CAPACITY, READ DEFECT DATA, REPORT LUNS: short answers about the medium.

use super::cdb::Cdb;
use super::sense::Fault;
use super::unit::Unit;

/// READ CAPACITY(10) (SBC-3 5.15).
pub(super) fn short(cdb: &Cdb, unit: &Unit) -> Result<Vec<u8>, Fault> {
    check_obsolete(cdb.number::<4>(2), cdb.byte(8))?;
    let last = u32::try_from(unit.blocks.saturating_sub(1)).unwrap_or(u32::MAX);
    let mut data = last.to_be_bytes().to_vec();
    data.extend(unit.block.to_be_bytes());
    Ok(data)
}

/// READ CAPACITY(16) (SBC-3 5.16).
pub(super) fn long(cdb: &Cdb, unit: &Unit) -> Result<Vec<u8>, Fault> {
    check_obsolete(cdb.number::<8>(2), cdb.byte(14))?;
    let mut data = unit.blocks.saturating_sub(1).to_be_bytes().to_vec();
    data.extend(unit.block.to_be_bytes());
    // LBPME, LBPRZ; the lowest aligned LBA is 0.
    data.extend([0, unit.physical_exponent(), 0x80 | 0x40, 0]);
    data.resize(32, 0);
    Ok(data)
}

/// LOGICAL BLOCK ADDRESS without PMI must be 0 (SBC-2 5.10.1); PMI is obsolete.
fn check_obsolete(lba: u64, pmi: u8) -> Result<(), Fault> {
    match (lba, pmi & 1) {
        (0, 0) => Ok(()),
        (_, 1) => Err(Fault::cdb(8, Some(0))),
        _ => Err(Fault::cdb(2, None)),
    }
}

/// READ DEFECT DATA(10) and (12) (SBC-3 5.17): there are none, in whatever format.
pub(super) fn defects(cdb: &Cdb) -> Vec<u8> {
    match cdb.length() {
        Some(10) => vec![0, cdb.byte(2) & 0x1f, 0, 0],
        _ => vec![0, cdb.byte(1) & 0x1f, 0, 0, 0, 0, 0, 0],
    }
}

/// REPORT LUNS (SPC-4 6.33).
pub(super) fn luns(cdb: &Cdb, units: usize) -> Result<Vec<u8>, Fault> {
    let listed = match cdb.byte(2) {
        // All units, with or without well known ones, of which there are none.
        0 | 2 => units,
        1 => 0,
        _ => return Err(Fault::cdb(2, None)),
    };
    let mut data = vec![0; 8];
    for number in 0..listed {
        data.extend([0, u8::try_from(number).unwrap_or(u8::MAX), 0, 0, 0, 0, 0, 0]);
    }
    let length = u32::try_from(data.len() - 8).unwrap_or_default();
    data[..4].copy_from_slice(&length.to_be_bytes());
    Ok(data)
}
