//! From a CDB to what is to be done: everything about a command is checked here, once.

use super::cdb::{Blocks, Cdb};
use super::command::Command;
use super::nexus::Access;
use super::opcodes::{self, Kind};
use super::ranges::Hold;
use super::sense::{self, Fault};
use super::unit::Unit;
use super::work::{self, Against, Steps, Work};
use super::{capacity, inquiry, mode};
use crate::Buffers;

/// What a command comes to.
pub(super) enum Begin {
    /// It is carried out.
    Good {
        /// Bytes that it would transfer.
        wanted: u64,
    },
    /// Data for the initiator, at most as much as it has allocated.
    Reply(Vec<u8>, u64),
    /// Something to do with the medium.
    Work(Plan),
    /// A reservation command with its parameter list.
    Reservation(Vec<u8>),
    /// Mode parameters were changed: the other initiators are told, and then this is done.
    ModeChanged(Plan),
}

/// Work on the medium.
pub(super) struct Plan {
    pub(super) steps: Work,
    /// Blocks to hold meanwhile.
    pub(super) hold: Option<(u64, u64, Hold)>,
    /// Bytes of data-out that it uses.
    pub(super) data_out: u64,
    /// Bytes that the command transfers.
    pub(super) wanted: u64,
}

impl Plan {
    fn new(steps: impl Steps + 'static) -> Plan {
        Plan::of(Work::Other(Box::new(steps)))
    }

    fn of(steps: Work) -> Plan {
        Plan { steps, hold: None, data_out: 0, wanted: 0 }
    }

    fn holding(mut self, blocks: Blocks, hold: Hold) -> Plan {
        self.hold = Some((blocks.lba, blocks.lba + blocks.count, hold));
        self
    }

    fn moving(mut self, data_out: u64, wanted: u64) -> Plan {
        (self.data_out, self.wanted) = (data_out, wanted);
        self
    }
}

/// Looks at a command of this kind.
pub(super) fn begin(
    kind: Kind,
    cdb: &Cdb,
    command: &mut Command,
    (unit, access): (&Unit, &Access),
    (port, units): (u64, usize),
) -> Result<Begin, Fault> {
    let good = Ok(Begin::Good { wanted: 0 });
    match kind {
        Kind::TestUnitReady => good,
        Kind::RequestSense => Ok(request_sense(cdb, access)),
        Kind::Inquiry => {
            Ok(Begin::Reply(inquiry::inquiry(cdb, Some(unit), port)?, cdb.number::<2>(3)))
        }
        Kind::ReportLuns => Ok(Begin::Reply(capacity::luns(cdb, units)?, cdb.number::<4>(6))),
        Kind::ReadCapacity10 => Ok(Begin::Reply(capacity::short(cdb, unit)?, u64::MAX)),
        Kind::ReadCapacity16 => Ok(Begin::Reply(capacity::long(cdb, unit)?, cdb.number::<4>(10))),
        Kind::ModeSense => Ok(Begin::Reply(mode::sense(cdb, unit)?, list_length(cdb))),
        Kind::ModeSelect => mode_select(cdb, unit, command),
        Kind::StartStop => start_stop(cdb),
        Kind::PreventAllow if cdb.byte(4) & 2 != 0 => Err(Fault::cdb(4, Some(1))),
        // The medium cannot be removed, so this is always so.
        Kind::PreventAllow => good,
        Kind::Reserve | Kind::Release => reserve(cdb),
        Kind::PersistentIn => Ok(Begin::Reservation(Vec::new())),
        Kind::PersistentOut => {
            Ok(Begin::Reservation(parameters(command, cdb.number::<4>(5).min(LIST_MAX))?))
        }
        Kind::ReportOpcodes => Ok(Begin::Reply(opcodes::report(cdb)?, cdb.number::<4>(6))),
        Kind::ReportTaskManagement => {
            Ok(Begin::Reply(opcodes::report_task_management(cdb)?, cdb.number::<4>(6)))
        }
        Kind::ReadDefects => {
            let allocated =
                if cdb.length() == Some(10) { cdb.number::<2>(7) } else { cdb.number::<4>(6) };
            Ok(Begin::Reply(capacity::defects(cdb), allocated))
        }
        Kind::Read => read(cdb, unit, command),
        Kind::Write | Kind::WriteAndVerify | Kind::OrWrite => write(kind, cdb, unit, command),
        Kind::Verify => verify(cdb, unit, command),
        Kind::SynchronizeCache => {
            to_the_end(cdb, unit)?;
            // With IMMED as well, GOOD comes when all is durable: later than asked for, and true.
            Ok(Begin::Work(Plan::new(work::Sync::new())))
        }
        Kind::PreFetch => {
            to_the_end(cdb, unit)?;
            // GOOD: not all of it may be in a cache (SBC-3 5.8); the host reads ahead by itself.
            good
        }
        Kind::Unmap => unmap(cdb, unit, command),
        Kind::WriteSame => write_same(cdb, unit, command),
        Kind::CompareAndWrite => compare_and_write(cdb, unit, command),
    }
}

/// The longest parameter list that is looked at; no command here has more to say.
const LIST_MAX: u64 = 64 << 10;

/// PARAMETER LIST LENGTH or ALLOCATION LENGTH of commands with 6 or 10 bytes.
fn list_length(cdb: &Cdb) -> u64 {
    if cdb.length() == Some(6) { u64::from(cdb.byte(4)) } else { cdb.number::<2>(7) }
}

/// A parameter list of `len` bytes, which the initiator must have sent.
fn parameters(command: &mut Command, len: u64) -> Result<Vec<u8>, Fault> {
    if command.data_out.len() < len {
        return Err(sense::SHORT_DATA.into());
    }
    let mut list = vec![0; usize::try_from(len).unwrap_or_default()];
    command.data_out.copy_to(&mut list);
    Ok(list)
}

/// REQUEST SENSE (SPC-4 6.39): a unit attention, which is cleared by that, or nothing.
fn request_sense(cdb: &Cdb, access: &Access) -> Begin {
    let code = access.take_attention().unwrap_or(sense::NO_SENSE);
    let data = Fault::from(code).encode(cdb.byte(1) & 1 != 0);
    Begin::Reply(data.bytes().to_vec(), u64::from(cdb.byte(4)))
}

/// START STOP UNIT (SBC-3 5.25).
fn start_stop(cdb: &Cdb) -> Result<Begin, Fault> {
    match cdb.byte(4) {
        power if power & 0xf0 != 0 => Err(Fault::cdb(4, Some(7))),
        // LOEJ: the medium cannot be removed.
        eject if eject & 0x02 != 0 => Err(Fault::cdb(4, Some(1))),
        start if start & 0x01 != 0 => Ok(Begin::Good { wanted: 0 }),
        // One initiator does not stop the others: the unit makes all durable, and goes on.
        _ => Ok(Begin::Work(Plan::new(work::Sync::new()))),
    }
}

/// RESERVE and RELEASE (SPC-2 7.21 to 7.24): of the whole unit, for the initiator itself.
fn reserve(cdb: &Cdb) -> Result<Begin, Fault> {
    match cdb.byte(1) & 0x13 {
        0 => Ok(Begin::Reservation(Vec::new())),
        third_party if third_party & 0x10 != 0 => Err(Fault::cdb(1, Some(4))),
        long_id if long_id & 0x02 != 0 => Err(Fault::cdb(1, Some(1))),
        _ => Err(Fault::cdb(1, Some(0))),
    }
}

fn mode_select(cdb: &Cdb, unit: &Unit, command: &mut Command) -> Result<Begin, Fault> {
    let wanted = list_length(cdb);
    let list = parameters(command, wanted)?;
    let changed = mode::select(cdb, unit, &list)?;
    if !changed {
        return Ok(Begin::Good { wanted });
    }
    // What was answered while writes were cached is to be durable when they are not any more.
    Ok(Begin::ModeChanged(Plan::new(work::Sync::new()).moving(wanted, wanted)))
}

/// The range of a command for which a count of 0 means all up to the end.
fn to_the_end(cdb: &Cdb, unit: &Unit) -> Result<(), Fault> {
    let blocks = cdb.blocks();
    unit.check_range(blocks.lba, blocks.count)
}

/// The blocks of a command that moves their data, within the limits of one.
fn moved_blocks(cdb: &Cdb, unit: &Unit) -> Result<Blocks, Fault> {
    let blocks = cdb.unprotected_blocks()?;
    if blocks.count > unit.transfer_max() {
        return Err(Fault::cdb(blocks.count_at, None));
    }
    unit.check_range(blocks.lba, blocks.count)?;
    Ok(blocks)
}

/// Refuses changes of a unit that is write protected.
fn check_writable(unit: &Unit) -> Result<(), Fault> {
    if unit.is_protected() { Err(sense::WRITE_PROTECTED.into()) } else { Ok(()) }
}

fn read(cdb: &Cdb, unit: &Unit, command: &mut Command) -> Result<Begin, Fault> {
    let blocks = moved_blocks(cdb, unit)?;
    let (start, len) = unit.bytes(blocks);
    let room = std::mem::take(&mut command.data_in);
    if len == 0 || room.is_empty() {
        return Ok(Begin::Good { wanted: len });
    }
    let steps = work::Read::new(start, len, u64::from(unit.block), blocks.durable, room);
    Ok(Begin::Work(Plan::of(Work::Read(steps)).moving(0, len)))
}

/// The whole blocks among those that a command is about for which the initiator sends data.
fn given_blocks(unit: &Unit, len: u64, command: &mut Command) -> Buffers {
    let given = command.data_out.len().min(len);
    command.data_out.split_to(given - given % u64::from(unit.block))
}

fn write(kind: Kind, cdb: &Cdb, unit: &Unit, command: &mut Command) -> Result<Begin, Fault> {
    if kind == Kind::WriteAndVerify && cdb.byte_check() & 2 != 0 {
        return Err(Fault::cdb(1, Some(2)));
    }
    // Here bit 3 is FUA for WRITE and ORWRITE, and reserved for WRITE AND VERIFY.
    let blocks = moved_blocks(cdb, unit)?;
    check_writable(unit)?;
    let (start, wanted) = unit.bytes(blocks);
    // A residual overflow: what came is written, and the rest is not (SAM-5 5.4.2).
    let data = given_blocks(unit, wanted, command);
    let given = data.len();
    if given == 0 {
        return Ok(Begin::Good { wanted });
    }
    let durable = blocks.durable || !unit.mode.write_cached();
    let plan = match kind {
        Kind::WriteAndVerify => {
            Plan::new(work::WriteAndVerify::new(start, data)).holding(blocks, Hold::Alone)
        }
        Kind::OrWrite => {
            Plan::new(work::OrWrite::new(start, durable, data)).holding(blocks, Hold::Alone)
        }
        _ => Plan::of(Work::Write(work::Write::new(start, durable, data)))
            .holding(blocks, Hold::Shared),
    };
    Ok(Begin::Work(plan.moving(given, wanted)))
}

fn verify(cdb: &Cdb, unit: &Unit, command: &mut Command) -> Result<Begin, Fault> {
    let blocks = moved_blocks(cdb, unit)?;
    let (start, len) = unit.bytes(blocks);
    let wanted = match cdb.byte_check() {
        0 => 0,
        1 => len,
        3 => u64::from(unit.block).min(len),
        _ => return Err(Fault::cdb(1, Some(2))),
    };
    // To say that data is what the medium has, all of it must have come.
    if command.data_out.len() < wanted {
        return Err(sense::SHORT_DATA.into());
    }
    if len == 0 {
        return Ok(Begin::Good { wanted: 0 });
    }
    let mut data = command.data_out.split_to(wanted);
    let against = match cdb.byte_check() {
        0 => Against::Nothing,
        1 => Against::Data(data),
        _ => {
            let mut block = vec![0; usize::try_from(wanted).unwrap_or_default()];
            data.copy_to(&mut block);
            Against::Block(block)
        }
    };
    Ok(Begin::Work(Plan::new(work::Verify::new(start, len, against)).moving(wanted, wanted)))
}

fn unmap(cdb: &Cdb, unit: &Unit, command: &mut Command) -> Result<Begin, Fault> {
    if cdb.byte(1) & 0x01 != 0 {
        // ANCHOR: ANC_SUP is 0.
        return Err(Fault::cdb(1, Some(0)));
    }
    check_writable(unit)?;
    let wanted = list_length(cdb);
    let ranges = work::unmap_list(unit, &parameters(command, wanted)?)?;
    let start = ranges.iter().map(|range| range.0).min();
    let end = ranges.iter().map(|range| range.0 + range.1).max();
    let (Some(start), Some(end)) = (start, end) else { return Ok(Begin::Good { wanted }) };
    let steps = work::Unmap::new(unit, &ranges, !unit.mode.write_cached());
    let mut plan = Plan::new(steps).moving(wanted, wanted);
    plan.hold = Some((start, end, Hold::Shared));
    Ok(Begin::Work(plan))
}

/// WRITE SAME(10) and (16) (SBC-3 5.47, 5.48).
fn write_same(cdb: &Cdb, unit: &Unit, command: &mut Command) -> Result<Begin, Fault> {
    let mut blocks = cdb.unprotected_blocks()?;
    let flags = cdb.byte(1);
    let no_data = cdb.length() == Some(16) && flags & 0x01 != 0;
    if flags & 0x10 != 0 {
        return Err(Fault::cdb(1, Some(4)));
    }
    if flags & 0x06 != 0 {
        // PBDATA, LBDATA: obsolete.
        return Err(Fault::cdb(1, Some(if flags & 0x04 != 0 { 2 } else { 1 })));
    }
    if blocks.count == 0 && blocks.lba < unit.blocks {
        // WSNZ is 0: all up to the end.
        blocks.count = unit.blocks - blocks.lba;
    }
    if blocks.count == 0 {
        return Err(sense::LBA_OUT_OF_RANGE.into());
    }
    unit.check_range(blocks.lba, blocks.count)?;
    check_writable(unit)?;
    let size = u64::from(unit.block);
    let wanted = if no_data { 0 } else { size };
    if !no_data && command.data_out.len() != size {
        return Err(sense::SHORT_DATA.into());
    }
    let mut block = vec![0; usize::try_from(size).unwrap_or_default()];
    // Unmapped blocks must read as the block that came, so others than zeroes are written (SBC-3
    // 4.7.3.4.4). WRITE SAME(10) is the exception: with UNMAP, initiators (iscsi-test-cu is one)
    // rely on targets, such as Linux's, that unmap whatever block came.
    let ignores_data = no_data || cdb.length() == Some(10) && flags & 0x08 != 0;
    if !ignores_data {
        command.data_out.copy_to(&mut block);
    }
    let (range, durable) = ((blocks.lba, blocks.count), !unit.mode.write_cached());
    let steps = work::WriteSame::new(unit, range, &block, flags & 0x08 != 0, durable)?;
    Ok(Begin::Work(Plan::new(steps).holding(blocks, Hold::Shared).moving(wanted, wanted)))
}

fn compare_and_write(cdb: &Cdb, unit: &Unit, command: &mut Command) -> Result<Begin, Fault> {
    let count = u64::from(cdb.byte(13));
    let blocks = Blocks { count, count_at: 13, ..cdb.unprotected_blocks()? };
    if cdb.byte(13) > unit.compare_max() {
        return Err(Fault::cdb(13, None));
    }
    unit.check_range(blocks.lba, blocks.count)?;
    check_writable(unit)?;
    let (start, len) = unit.bytes(blocks);
    if len == 0 && command.data_out.len() >= 2 * u64::from(unit.block) {
        // An initiator that sends blocks for none has cut 256 down to a byte.
        return Err(Fault::cdb(13, None));
    }
    if len == 0 {
        return Ok(Begin::Good { wanted: 0 });
    }
    if command.data_out.len() != 2 * len {
        return Err(sense::SHORT_DATA.into());
    }
    let durable = blocks.durable || !unit.mode.write_cached();
    let data = std::mem::take(&mut command.data_out);
    let steps = work::CompareAndWrite::new(start, len, durable, data);
    Ok(Begin::Work(Plan::new(steps).holding(blocks, Hold::Alone).moving(2 * len, 2 * len)))
}
