//! The commands there are, and how they are reported (SPC-4 6.35, 6.36).

use super::cdb::Cdb;
use super::sense::{self, Fault};

/// What a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    TestUnitReady,
    RequestSense,
    Inquiry,
    ReportLuns,
    ReadCapacity10,
    ReadCapacity16,
    ModeSense,
    ModeSelect,
    StartStop,
    PreventAllow,
    Reserve,
    Release,
    PersistentIn,
    PersistentOut,
    ReportOpcodes,
    ReportTaskManagement,
    ReadDefects,
    Read,
    Write,
    WriteAndVerify,
    Verify,
    SynchronizeCache,
    PreFetch,
    Unmap,
    WriteSame,
    CompareAndWrite,
    OrWrite,
}

/// One command.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) kind: Kind,
    /// The SERVICE ACTION, of operation codes that have several.
    pub(super) action: Option<u8>,
    /// CDB USAGE DATA: the operation code, then ones where the target looks at a bit.
    pub(super) usage: &'static [u8],
}

const fn plain(kind: Kind, usage: &'static [u8]) -> Command {
    Command { kind, action: None, usage }
}

const fn with_action(kind: Kind, action: u8, usage: &'static [u8]) -> Command {
    Command { kind, action: Some(action), usage }
}

/// The CONTROL byte: NACA is looked at.
const C: u8 = 0x04;

const COMPARE_AND_WRITE: [u8; 16] = {
    let mut usage = long(0x89, 0xf8);
    (usage[10], usage[11], usage[12]) = (0, 0, 0);
    usage
};

const READ_CAPACITY: [u8; 16] = {
    let mut usage = long(0x9e, 0x1f);
    usage[14] = 0x01;
    usage
};

/// All commands, by operation code and service action.
pub(super) const COMMANDS: &[Command] = &[
    plain(Kind::TestUnitReady, &[0x00, 0, 0, 0, 0, C]),
    plain(Kind::RequestSense, &[0x03, 0x01, 0, 0, 0xff, C]),
    plain(Kind::Read, &[0x08, 0x1f, 0xff, 0xff, 0xff, C]),
    plain(Kind::Write, &[0x0a, 0x1f, 0xff, 0xff, 0xff, C]),
    plain(Kind::Inquiry, &[0x12, 0x01, 0xff, 0xff, 0xff, C]),
    plain(Kind::ModeSelect, &[0x15, 0x11, 0, 0, 0xff, C]),
    plain(Kind::Reserve, &[0x16, 0x11, 0, 0, 0, C]),
    plain(Kind::Release, &[0x17, 0x11, 0, 0, 0, C]),
    plain(Kind::ModeSense, &[0x1a, 0x08, 0xff, 0xff, 0xff, C]),
    plain(Kind::StartStop, &[0x1b, 0x01, 0, 0x0f, 0xf7, C]),
    plain(Kind::PreventAllow, &[0x1e, 0, 0, 0, 0x03, C]),
    plain(Kind::ReadCapacity10, &[0x25, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0x01, C]),
    plain(Kind::Read, &[0x28, 0xf8, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, C]),
    plain(Kind::Write, &[0x2a, 0xf8, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, C]),
    plain(Kind::WriteAndVerify, &[0x2e, 0xf6, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, C]),
    plain(Kind::Verify, &[0x2f, 0xf6, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, C]),
    plain(Kind::PreFetch, &[0x34, 0x02, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, C]),
    plain(Kind::SynchronizeCache, &[0x35, 0x02, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, C]),
    plain(Kind::ReadDefects, &[0x37, 0, 0x1f, 0, 0, 0, 0, 0xff, 0xff, C]),
    plain(Kind::WriteSame, &[0x41, 0xf8, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, C]),
    plain(Kind::Unmap, &[0x42, 0x01, 0, 0, 0, 0, 0, 0xff, 0xff, C]),
    plain(Kind::ModeSelect, &[0x55, 0x11, 0, 0, 0, 0, 0, 0xff, 0xff, C]),
    plain(Kind::Reserve, &[0x56, 0x13, 0, 0, 0, 0, 0, 0xff, 0xff, C]),
    plain(Kind::Release, &[0x57, 0x13, 0, 0, 0, 0, 0, 0xff, 0xff, C]),
    plain(Kind::ModeSense, &[0x5a, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, C]),
    with_action(Kind::PersistentIn, 0, &[0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff, C]),
    with_action(Kind::PersistentIn, 1, &[0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff, C]),
    with_action(Kind::PersistentIn, 2, &[0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff, C]),
    with_action(Kind::PersistentIn, 3, &[0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff, C]),
    with_action(Kind::PersistentOut, 0, &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, C]),
    with_action(Kind::PersistentOut, 1, &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, C]),
    with_action(Kind::PersistentOut, 2, &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, C]),
    with_action(Kind::PersistentOut, 3, &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, C]),
    with_action(Kind::PersistentOut, 4, &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, C]),
    with_action(Kind::PersistentOut, 5, &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, C]),
    with_action(Kind::PersistentOut, 6, &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, C]),
    plain(Kind::Read, &long(0x88, 0xf8)),
    plain(Kind::CompareAndWrite, &COMPARE_AND_WRITE),
    plain(Kind::Write, &long(0x8a, 0xf8)),
    plain(Kind::OrWrite, &long(0x8b, 0xf8)),
    plain(Kind::WriteAndVerify, &long(0x8e, 0xf6)),
    plain(Kind::Verify, &long(0x8f, 0xf6)),
    plain(Kind::PreFetch, &long(0x90, 0x02)),
    plain(Kind::SynchronizeCache, &long(0x91, 0x02)),
    plain(Kind::WriteSame, &long(0x93, 0xf9)),
    with_action(Kind::ReadCapacity16, 0x10, &READ_CAPACITY),
    plain(Kind::ReportLuns, &[0xa0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, C]),
    with_action(Kind::ReportOpcodes, 0x0c, &{
        [0xa3, 0x1f, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, C]
    }),
    with_action(Kind::ReportTaskManagement, 0x0d, &{
        [0xa3, 0x1f, 0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, C]
    }),
    plain(Kind::Read, &[0xa8, 0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, C]),
    plain(Kind::Write, &[0xaa, 0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, C]),
    plain(
        Kind::WriteAndVerify,
        &[0xae, 0xf6, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, C],
    ),
    plain(Kind::Verify, &[0xaf, 0xf6, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, C]),
    plain(Kind::ReadDefects, &[0xb7, 0x1f, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, C]),
];

/// A CDB of 16 bytes with LBA and number of blocks.
const fn long(code: u8, flags: u8) -> [u8; 16] {
    let ones = 0xff;
    [code, flags, ones, ones, ones, ones, ones, ones, ones, ones, ones, ones, ones, ones, 0, C]
}

/// By operation code, how many commands have lower ones: those of one code follow one another.
static BEFORE: [u8; 257] = {
    let mut before = [0; 257];
    let mut at = 0;
    while at < COMMANDS.len() {
        let code = COMMANDS[at].usage[0] as usize;
        assert!(at == 0 || COMMANDS[at - 1].usage[0] as usize <= code, "in order");
        let mut higher = code + 1;
        while higher < before.len() {
            before[higher] += 1;
            higher += 1;
        }
        at += 1;
    }
    before
};

/// The commands of an operation code.
fn of_code(code: u8) -> &'static [Command] {
    let [from, to] = [usize::from(code), usize::from(code) + 1].map(|at| usize::from(BEFORE[at]));
    COMMANDS.get(from..to).unwrap_or_default()
}

/// The command of a CDB of which `given` bytes came.
pub(super) fn find(cdb: &Cdb, given: u8) -> Result<&'static Command, Fault> {
    let mut known = false;
    for command in of_code(cdb.opcode()) {
        known = true;
        if command.action.is_none_or(|action| action == cdb.action()) {
            let length = u8::try_from(command.usage.len()).unwrap_or(u8::MAX);
            if given < length {
                return Err(Fault::cdb(u16::from(given), None));
            }
            cdb.check_control(length)?;
            return Ok(command);
        }
    }
    Err(if known { Fault::cdb(1, Some(4)) } else { sense::INVALID_OPCODE.into() })
}

/// REPORT SUPPORTED OPERATION CODES (SPC-4 6.35).
pub(super) fn report(cdb: &Cdb) -> Result<Vec<u8>, Fault> {
    let timeouts = cdb.byte(2) & 0x80 != 0;
    let (wanted, action) = (cdb.byte(3), cdb.number::<2>(4));
    let of_code = || of_code(wanted).iter();
    let has_actions = of_code().any(|command| command.action.is_some());
    let matching =
        || of_code().find(|command| command.action.is_some_and(|a| u64::from(a) == action));
    let one = match cdb.byte(2) & 7 {
        0 => return Ok(all(timeouts)),
        1 if has_actions => return Err(Fault::cdb(2, Some(2))),
        1 => of_code().next(),
        2 if !has_actions && of_code().next().is_some() => return Err(Fault::cdb(2, Some(2))),
        2 => matching(),
        3 if has_actions => matching(),
        3 if action != 0 => None,
        3 => of_code().next(),
        _ => return Err(Fault::cdb(2, Some(2))),
    };
    let Some(command) = one else {
        // SUPPORT 001b: there is no such command.
        return Ok(vec![0, 0x01, 0, 0]);
    };
    let length = u8::try_from(command.usage.len()).unwrap_or_default();
    // SUPPORT 011b: in conformance with a standard.
    let mut data = vec![0, 0x03 | u8::from(timeouts) << 7, 0, length];
    data.extend(command.usage);
    if command.action.is_some() {
        // The service action itself, in its five bits.
        data[5] = data[5] & 0xe0 | command.action.unwrap_or_default();
    }
    if timeouts {
        data.extend(NO_TIMEOUTS);
    }
    Ok(data)
}

/// A command timeouts descriptor (SPC-4 6.35.4) that indicates none.
const NO_TIMEOUTS: [u8; 12] = [0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The list of all commands (SPC-4 6.35.2).
fn all(timeouts: bool) -> Vec<u8> {
    let mut data = vec![0; 4];
    for command in COMMANDS {
        let length = u8::try_from(command.usage.len()).unwrap_or_default();
        let flags = u8::from(timeouts) << 1 | u8::from(command.action.is_some());
        let action = command.action.unwrap_or_default();
        data.extend([command.usage[0], 0, 0, action, 0, flags, 0, length]);
        if timeouts {
            data.extend(NO_TIMEOUTS);
        }
    }
    let length = u32::try_from(data.len() - 4).unwrap_or_default();
    data[..4].copy_from_slice(&length.to_be_bytes());
    data
}

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4 6.36): ABORT TASK, ABORT TASK SET, CLEAR
/// TASK SET, LOGICAL UNIT RESET, TARGET RESET.
pub(super) fn report_task_management(cdb: &Cdb) -> Result<Vec<u8>, Fault> {
    if cdb.number::<4>(6) < 4 {
        return Err(Fault::cdb(6, None));
    }
    let mut data = vec![0x80 | 0x40 | 0x10 | 0x08 | 0x02, 0, 0, 0];
    if cdb.byte(2) & 0x80 != 0 {
        // REPD: the extended form, without timeouts.
        data[3] = 12;
        data.resize(16, 0);
    }
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_its_lengths_are_those_of_the_groups() {
        let order = |command: &Command| (command.usage[0], command.action);
        assert!(COMMANDS.windows(2).all(|pair| order(&pair[0]) < order(&pair[1])));
        for command in COMMANDS {
            let mut bytes = [0; 32];
            bytes[0] = command.usage[0];
            assert_eq!(Cdb(bytes).length().map(usize::from), Some(command.usage.len()));
        }
    }
}
