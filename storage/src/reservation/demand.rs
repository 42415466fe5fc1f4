//! What a command needs of the reservations of its logical unit, by its CDB.
//!
//! The tables are SPC-4 table 65 and SBC-4 table 13 for persistent reservations, and SPC-2 table 9
//! for RESERVE and RELEASE. What neither names is taken for a write: a command that is not known
//! here must not pass a reservation, whatever it does.

/// What a command needs to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Demand {
    /// It is never refused: INQUIRY, REPORT LUNS, REQUEST SENSE, …
    Nothing,
    /// No persistent reservation refuses it, but another port's SPC-2 reservation does: TEST UNIT
    /// READY, READ CAPACITY, …
    Query,
    /// As a read of the medium.
    Read,
    /// As a write to the medium, which it may be.
    Write,
    /// As a write, and it leaves the medium as it is: MODE SELECT, SYNCHRONIZE CACHE, …
    Control,
    /// PERSISTENT RESERVE IN. Every SPC-2 reservation refuses it, the port's own included (SPC-2
    /// 5.5.1).
    PersistentIn,
    /// PERSISTENT RESERVE OUT. The same; the rest is what [`Reservations::out`] looks at.
    ///
    /// [`Reservations::out`]: super::Reservations::out
    PersistentOut,
    /// RESERVE: [`Reservations::reserve`](super::Reservations::reserve) decides.
    Reserve,
    /// RELEASE: [`Reservations::release`](super::Reservations::release) decides.
    Release,
}

/// What the command with this CDB needs.
pub fn demand(cdb: &[u8]) -> Demand {
    let byte = |at: usize| cdb.get(at).copied().unwrap_or_default();
    let action = byte(1) & 0x1f;
    match byte(0) {
        // INQUIRY, REQUEST SENSE, REPORT LUNS, LOG SENSE.
        0x12 | 0x03 | 0xa0 | 0x4d => Demand::Nothing,
        // TEST UNIT READY, READ CAPACITY(10).
        0x00 | 0x25 => Demand::Query,
        // ACCESS CONTROL IN and OUT, SERVICE ACTION IN(12) with READ MEDIA SERIAL NUMBER.
        0x86 | 0x87 => Demand::Query,
        0xab if action == 1 => Demand::Query,
        // READ(6), (10), (12), (16).
        0x08 | 0x28 | 0xa8 | 0x88 => Demand::Read,
        // VERIFY(10), (12), (16), PRE-FETCH(10), (16).
        0x2f | 0xaf | 0x8f | 0x34 | 0x90 => Demand::Read,
        // READ DEFECT DATA(10), (12), READ BUFFER, READ ATTRIBUTE.
        0x37 | 0xb7 | 0x3c | 0x8c => Demand::Read,
        // MODE SENSE(6), (10), RECEIVE DIAGNOSTIC RESULTS, SECURITY PROTOCOL IN.
        0x1a | 0x5a | 0x1c | 0xa2 => Demand::Read,
        0x9e => service_action_in_16(action),
        0xa3 => maintenance_in(action),
        0x7f => variable_length(u16::from_be_bytes([byte(8), byte(9)])),
        // PREVENT ALLOW MEDIUM REMOVAL: to allow it harms nobody.
        0x1e if byte(4) & 3 == 0 => Demand::Nothing,
        // START STOP UNIT: with START one and no power condition, it is what every host does.
        0x1b if byte(4) & 0xf1 == 1 => Demand::Query,
        // PREVENT ALLOW MEDIUM REMOVAL, START STOP UNIT.
        0x1e | 0x1b => Demand::Control,
        // MODE SELECT(6), (10), LOG SELECT, SEND DIAGNOSTIC.
        0x15 | 0x55 | 0x4c | 0x1d => Demand::Control,
        // SYNCHRONIZE CACHE(10), (16), MAINTENANCE OUT, SECURITY PROTOCOL OUT, RECEIVE COPY
        // RESULTS, READ LONG(10).
        0x35 | 0x91 | 0xa4 | 0xb5 | 0x84 | 0x3e => Demand::Control,
        0x5e => Demand::PersistentIn,
        0x5f => Demand::PersistentOut,
        0x16 | 0x56 => Demand::Reserve,
        0x17 | 0x57 => Demand::Release,
        // WRITE, WRITE AND VERIFY, WRITE SAME, COMPARE AND WRITE, ORWRITE, UNMAP, FORMAT UNIT,
        // SANITIZE, EXTENDED COPY, … and all that is not known.
        _ => Demand::Write,
    }
}

fn service_action_in_16(action: u8) -> Demand {
    match action {
        // READ CAPACITY(16), REPORT REFERRALS.
        0x10 | 0x13 => Demand::Query,
        // GET LBA STATUS.
        0x12 => Demand::Read,
        // READ LONG(16), and what is not known.
        _ => Demand::Control,
    }
}

fn maintenance_in(action: u8) -> Demand {
    match action {
        // REPORT IDENTIFYING INFORMATION, which SPC-2 calls REPORT DEVICE IDENTIFIER.
        0x05 => Demand::Nothing,
        // REPORT TARGET PORT GROUPS, ALIASES, PRIORITY, TIMESTAMP.
        0x0a | 0x0b | 0x0e | 0x0f => Demand::Query,
        // REPORT SUPPORTED OPERATION CODES and TASK MANAGEMENT FUNCTIONS, MANAGEMENT PROTOCOL IN.
        0x0c | 0x0d | 0x10 => Demand::Read,
        _ => Demand::Control,
    }
}

fn variable_length(action: u16) -> Demand {
    match action {
        // READ(32), VERIFY(32).
        0x0009 | 0x000a => Demand::Read,
        _ => Demand::Write,
    }
}
