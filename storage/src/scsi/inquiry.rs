//! INQUIRY and the vital product data (SPC-4 6.6, 7.8; SBC-3 6.5).

use super::cdb::Cdb;
use super::sense::Fault;
use super::unit::{UNMAP_BLOCKS_MAX, UNMAP_DESCRIPTORS_MAX, Unit};

/// T10 VENDOR IDENTIFICATION.
const VENDOR: &[u8; 8] = b"COHORT  ";
/// PRODUCT IDENTIFICATION.
const PRODUCT: &[u8; 16] = b"SHARED DISK     ";
/// PRODUCT REVISION LEVEL.
const REVISION: &[u8; 4] = b"0001";

/// Pages of vital product data, in order.
const PAGES: [u8; 6] = [0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2];

/// What INQUIRY answers for `unit`, or for a logical unit that is not there.
pub(super) fn inquiry(cdb: &Cdb, unit: Option<&Unit>, port: u64) -> Result<Vec<u8>, Fault> {
    let (flags, page) = (cdb.byte(1), cdb.byte(2));
    if flags & 0xfe != 0 {
        // CMDDT is obsolete.
        return Err(Fault::cdb(1, Some(1)));
    }
    if flags == 0 && page != 0 {
        return Err(Fault::cdb(2, None));
    }
    match (unit, flags) {
        (unit, 0) => Ok(standard(unit.is_some())),
        (Some(unit), _) => vital(unit, page, port),
        (None, _) => Err(Fault::cdb(2, None)),
    }
}

/// Standard INQUIRY data (SPC-4 6.6.2).
fn standard(present: bool) -> Vec<u8> {
    let mut data = vec![0; 96];
    // Peripheral qualifier 011b, device type 1Fh: no logical unit can be here.
    data[0] = if present { 0x00 } else { 0x7f };
    // SPC-4; HISUP, response data format 2.
    (data[2], data[3]) = (0x06, 0x12);
    data[4] = 96 - 5;
    // CMDQUE
    data[7] = 0x02;
    data[8..16].copy_from_slice(VENDOR);
    data[16..32].copy_from_slice(PRODUCT);
    data[32..36].copy_from_slice(REVISION);
    // Version descriptors: SAM-5, SPC-4, SBC-3.
    for (at, version) in [(58, 0x00a0u16), (60, 0x0460), (62, 0x04c0)] {
        data[at..at + 2].copy_from_slice(&version.to_be_bytes());
    }
    data
}

fn vital(unit: &Unit, page: u8, port: u64) -> Result<Vec<u8>, Fault> {
    let body = match page {
        0x00 => PAGES.to_vec(),
        0x80 => unit.names.serial.as_bytes().to_vec(),
        0x83 => designators(unit, port),
        0xb0 => limits(unit),
        0xb1 => characteristics(),
        0xb2 => provisioning(),
        _ => return Err(Fault::cdb(2, None)),
    };
    let [high, low] = u16::try_from(body.len()).unwrap_or_default().to_be_bytes();
    let mut data = vec![0x00, page, high, low];
    data.extend(body);
    Ok(data)
}

/// Device identification (SPC-4 7.8.6): names of the logical unit, then those of the target port.
fn designators(unit: &Unit, port: u64) -> Vec<u8> {
    /// ASCII or UTF-8, or binary.
    const BINARY: u8 = 1;
    const ASCII: u8 = 2;
    const UTF8: u8 = 3;
    /// The association with the target port that the command came by. PIV is zero: a port that
    /// several transports lead to is of none of their protocols.
    const TARGET_PORT: u8 = 0x10;
    let mut data = Vec::new();
    let mut designator = |code_set: u8, kind: u8, name: &[u8]| {
        data.extend([code_set, kind, 0, u8::try_from(name.len()).unwrap_or_default()]);
        data.extend(name);
    };
    designator(BINARY, 0x03, &unit.names.naa.to_be_bytes());
    let mut vendor = VENDOR.to_vec();
    vendor.extend(unit.names.serial.as_bytes());
    designator(ASCII, 0x01, &vendor);
    // A SCSI name string ends with a zero and is a multiple of four long.
    let mut name = format!("naa.{:016X}", unit.names.naa).into_bytes();
    name.resize((name.len() + 1).next_multiple_of(4), 0);
    designator(UTF8, 0x08, &name);
    // There is one target port, hence relative port 1.
    designator(BINARY, TARGET_PORT | 0x04, &1u32.to_be_bytes());
    designator(BINARY, TARGET_PORT | 0x03, &port.to_be_bytes());
    data
}

/// Block limits (SBC-3 6.5.3).
fn limits(unit: &Unit) -> Vec<u8> {
    let mut page = [0; 64];
    let mut put = |at: usize, value: u64| {
        let value = u32::try_from(value).unwrap_or(u32::MAX);
        page[at..at + 4].copy_from_slice(&value.to_be_bytes());
    };
    let (granularity, transfer) = (unit.granularity(), unit.transfer_max());
    put(8, transfer);
    // OPTIMAL TRANSFER LENGTH: where larger ones do not get faster.
    put(12, transfer / 16);
    put(20, u64::from(UNMAP_BLOCKS_MAX));
    put(24, u64::from(UNMAP_DESCRIPTORS_MAX));
    put(28, u64::from(granularity));
    // UGAVALID; the alignment is 0.
    put(32, 0x8000_0000);
    // WSNZ is 0, and so is MAXIMUM WRITE SAME LENGTH: all of the disk may be written at once,
    // which takes its time, and no one else's.
    page[5] = unit.compare_max();
    let granularity = u16::try_from(granularity).unwrap_or(u16::MAX);
    page[6..8].copy_from_slice(&granularity.to_be_bytes());
    page[4..].to_vec()
}

/// Block device characteristics (SBC-3 6.5.2).
fn characteristics() -> Vec<u8> {
    let mut page = vec![0; 60];
    // MEDIUM ROTATION RATE: it does not rotate.
    page[1] = 0x01;
    page
}

/// Logical block provisioning (SBC-3 6.5.4). Unmapped blocks read as zeroes, as this target has
/// the disk make zeroes of them. Blocks cannot be anchored.
fn provisioning() -> Vec<u8> {
    /// LBPU, LBPWS, LBPWS10, LBPRZ
    const FLAGS: u8 = 0x80 | 0x40 | 0x20 | 0x04;
    /// Thin provisioned.
    const TYPE: u8 = 0x02;
    vec![0, FLAGS, TYPE, 0]
}
