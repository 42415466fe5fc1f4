//! A virtio-scsi device: its queues, the logical units of its target 0, and commands one at a
//! time (virtio 1.3, 5.6).
#![forbid(unsafe_code)]

use super::cdb::{self, CDB_LEN, Cdb, Direction};
use super::failure::{self, Failure, Sense};
use super::pages;
use super::unit::{Known, Unit};
use crate::machine::clock;
use crate::machine::memory::{Dma, Pool};
use crate::virtio::queue::{Descriptor, NEXT, Queue, WRITE};
use crate::virtio::requests::{Part, Queues};
use crate::virtio::transport::{PATIENCE, Platform, Transport};
use crate::virtio::{DeviceError, Kind};

/// Logical units of one device that are used at most.
const UNITS_MAX: usize = 32;

/// Bytes of INQUIRY's data that every device has.
const INQUIRY_LEN: u8 = 36;

const CONTROL_QUEUE: u16 = 0;
const EVENT_QUEUE: u16 = 1;
/// The first request queue.
pub(crate) const REQUEST_QUEUE: u16 = 2;
/// Descriptors of the queues that carry few requests.
const SMALL_QUEUE: u16 = 16;

const CONFIG_NUM_QUEUES: u64 = 0;
const CONFIG_MAX_SECTORS: u64 = 8;

/// A slot's memory: the request's header, what the driver keeps about the request, and the
/// answer. The header starts where it does so that the logical block address, which changes with
/// every use, is one aligned word; the standard puts it at an odd place.
pub(super) const SLOT: u64 = 192;
const SLOT_HEADER: u64 = 3;
pub(super) const SLOT_LBA: u64 = SLOT_HEADER + CDB + 2;
/// Retries, 64 bits: attentions in the lowest 16, answers that were lost in the next 16, busy
/// units in the upper 32.
pub(super) const SLOT_RETRIES: u64 = 56;
pub(super) const SLOT_RESIDUAL: u64 = SLOT_ANSWER + 4;
/// Status and response of the answer, 16 bits.
pub(super) const SLOT_STATUS: u64 = SLOT_ANSWER + 10;
const SLOT_ANSWER: u64 = 64;
const SLOT_SENSE: u64 = SLOT_ANSWER + 12;

/// Offset of the command descriptor block in a request's header.
pub(crate) const CDB: u64 = 19;
/// Length of a request's header: LUN 8, identifier 8, attributes 3, command 32 (virtio 1.3,
/// 5.6.6.1).
pub(crate) const HEADER_LEN: u64 = CDB + CDB_ROOM as u64;
/// Room for a command descriptor block that devices start with.
const CDB_ROOM: usize = 32;
/// Length of an answer: sense length 4, residual 4, qualifier 2, status, response, sense data.
pub(crate) const ANSWER_LEN: u64 = 12 + SENSE_LEN as u64;
/// Length of sense data that devices start with.
const SENSE_LEN: usize = 96;

/// Status and response of a request that succeeded.
pub(super) const GOOD: u16 = 0;
/// No status that a device gives.
pub(super) const STATUS_NONE: u16 = 0xFFFF;

/// How often a command is sent again after an attention: what a disk driver of Linux does.
const ATTENTIONS_MAX: u64 = 5;
/// How often a command is sent again whose answer was lost, the same.
const LOST_MAX: u64 = 5;
const ONE_ATTENTION: u64 = 1;
const ONE_LOST: u64 = 1 << 16;
const ONE_BUSY: u64 = 1 << 32;
/// How often a command is sent again to a unit that is busy. Others of its commands end
/// meanwhile; some seconds at least.
const BUSY_MAX: u64 = 1 << 20;

/// What comes of a unit attention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attention {
    /// The command is sent again.
    #[default]
    Retry,
    /// The command fails.
    Report,
}

/// A virtio-scsi device that is ready for requests.
#[derive(Clone, Copy, Debug)]
pub struct Adapter {
    /// How to reach it.
    pub transport: Transport,
    /// What comes of unit attentions.
    pub attention: Attention,
    pub(super) requests: Queues<SLOT>,
    /// Sectors that a request may have.
    pub(super) max_sectors: u32,
    control: Queue,
    control_memory: Dma,
    units: [Option<Known>; UNITS_MAX],
}

impl Adapter {
    /// Starts device `index` (they count from 0 in the order of the bus), all its request queues
    /// up to [`QUEUES_MAX`](crate::virtio::requests::QUEUES_MAX), and finds its logical units.
    pub fn open(index: u64, platform: &mut Platform) -> Result<Adapter, DeviceError> {
        let transport = Transport::find(Kind::Scsi, index, platform)?;
        let features = transport.negotiate(0)?;
        let config = transport.device.ok_or(DeviceError::Unreachable("SCSI configuration"))?;
        let count = u16::try_from(config.read32(CONFIG_NUM_QUEUES)).unwrap_or(u16::MAX);
        let pool = &mut platform.pool;
        let control = transport.queue(CONTROL_QUEUE, SMALL_QUEUE, features, pool)?;
        // A device may count on it; no buffers are in it, because nothing waits for events.
        transport.queue(EVENT_QUEUE, SMALL_QUEUE, features, pool)?;
        let requests = Queues::new(&transport, REQUEST_QUEUE, count, features, pool)?;
        let control_memory = pool.take_zeroed(64, 64).ok_or(DeviceError::Memory)?;
        transport.start();
        let mut adapter = Adapter {
            transport,
            attention: Attention::Retry,
            requests,
            max_sectors: config.read32(CONFIG_MAX_SECTORS),
            control,
            control_memory,
            units: [None; UNITS_MAX],
        };
        adapter.find_units(pool)?;
        Ok(adapter)
    }

    fn find_units(&mut self, pool: &mut Pool) -> Result<(), DeviceError> {
        let mut list = [0; 8 + 8 * UNITS_MAX];
        let command = Cdb::report_luns(u32::try_from(list.len()).unwrap_or(u32::MAX));
        let data = self.read(0, &command, &mut list, pool)?;
        let mut found = 0;
        // Targets list them in any order.
        let mut last = None;
        while let Some(lun) = pages::luns(data).filter(|lun| last < Some(*lun)).min() {
            last = Some(lun);
            // LUN 0 is there even if no disk is; and what is there may be no disk.
            let mut inquired = [0; INQUIRY_LEN as usize];
            let inquired = self.read(lun, &Cdb::inquiry(INQUIRY_LEN), &mut inquired, pool)?;
            if pages::is_disk(inquired)
                && let Some(place) = self.units.get_mut(found)
            {
                *place = Some(Known { lun, capacity: None });
                found += 1;
            }
        }
        Ok(())
    }

    /// How many logical units it has.
    pub fn units(&self) -> u64 {
        self.units.iter().flatten().count() as u64
    }

    /// Logical unit `index`, counted from 0 in the order of their numbers.
    pub fn unit(&mut self, index: u64, pool: &mut Pool) -> Result<Unit<'_>, DeviceError> {
        let missing = DeviceError::MissingUnit { index, units: self.units() };
        let index = usize::try_from(index).map_err(|_| missing)?;
        let known = self.units.get(index).copied().flatten().ok_or(missing)?;
        let unit = Unit::open(self, known, pool)?;
        let capacity = Some(unit.capacity());
        if let Some(place) = unit.adapter.units.get_mut(index) {
            *place = Some(Known { capacity, ..known });
        }
        Ok(unit)
    }

    /// Sends a command without data, or with `data` in guest memory, and waits for it. Gives the
    /// number of bytes that were transferred.
    #[inline(never)]
    pub(super) fn execute(&mut self, lun: u16, cdb: &Cdb, data: Dma) -> Result<u64, DeviceError> {
        const QUEUE: u16 = 0;
        self.describe(QUEUE, 0, lun, cdb, data);
        self.requests.submit(QUEUE, 0, reset_slot);
        self.requests.kick(QUEUE);
        let start = clock::now();
        loop {
            if let Some((slot, answer)) = self.requests.pop(QUEUE)? {
                if answer.read16(SLOT_STATUS) == GOOD {
                    return Ok(data.len().saturating_sub(answer.read32(SLOT_RESIDUAL).into()));
                }
                self.failed(QUEUE, slot, answer, cdb.name, cdb.lba)?;
                self.requests.kick(QUEUE);
            }
            core::hint::spin_loop();
            if clock::now().wrapping_sub(start) > PATIENCE {
                return Err(self.transport.silence(cdb.name));
            }
        }
    }

    /// Sends a command that reads, and gives what came.
    #[inline(never)]
    pub(super) fn read<'d>(
        &mut self,
        lun: u16,
        cdb: &Cdb,
        data: &'d mut [u8],
        pool: &mut Pool,
    ) -> Result<&'d [u8], DeviceError> {
        let mark = pool.mark();
        let buffer = pool.take_zeroed(data.len() as u64, 64).ok_or(DeviceError::Memory)?;
        let buffer = buffer.part(0, data.len() as u64);
        let done = self.execute(lun, cdb, buffer);
        (0..).zip(data.iter_mut()).for_each(|(at, byte)| *byte = buffer.read8(at));
        if !done.is_err_and(|error| !error.is_answer()) {
            pool.release(mark);
        }
        let len = usize::try_from(done?).unwrap_or(usize::MAX);
        Ok(data.get(..len).unwrap_or(data))
    }

    /// Describes a command in a slot.
    #[inline(never)]
    pub(super) fn describe(&mut self, queue: u16, slot: u16, lun: u16, cdb: &Cdb, data: Dma) {
        self.requests.describe(queue, slot, |memory| {
            let tag = (u64::from(queue) << 16 | u64::from(slot)).to_le_bytes();
            let header = lun_bytes(lun).into_iter().chain(tag).chain([0; 3]).chain(cdb.bytes);
            let rest = [0; CDB_ROOM - CDB_LEN];
            (SLOT_HEADER..).zip(header.chain(rest)).for_each(|(at, byte)| memory.write8(at, byte));
            let address = memory.address();
            let data = |direction, device_writes| {
                let len = if cdb.direction == direction { data.len() } else { 0 };
                Part { address: data.address(), len, device_writes }
            };
            let answer =
                Part { address: address + SLOT_ANSWER, len: ANSWER_LEN, device_writes: true };
            let header =
                Part { address: address + SLOT_HEADER, len: HEADER_LEN, device_writes: false };
            // What the device reads comes before what it writes.
            if cdb.direction == Direction::Out {
                [header, data(Direction::Out, false), answer]
            } else {
                [header, answer, data(Direction::In, true)]
            }
        });
    }

    /// A request did not succeed. It is sent again if that helps; [`Queues::kick`] must follow.
    #[cold]
    #[inline(never)]
    pub(super) fn failed(
        &mut self,
        queue: u16,
        slot: u16,
        answer: Dma,
        command: &'static str,
        lba: Option<u64>,
    ) -> Result<(), DeviceError> {
        let [status, response] = answer.read16(SLOT_STATUS).to_le_bytes();
        let mut sense = [0; SENSE_LEN];
        (SLOT_SENSE..).zip(&mut sense).for_each(|(at, byte)| *byte = answer.read8(at));
        let len = usize::try_from(answer.read32(SLOT_ANSWER)).unwrap_or(usize::MAX);
        let sense = Sense::read(sense.get(..len).unwrap_or(&sense));
        let residual = answer.read32(SLOT_RESIDUAL);
        let failure = Failure { command, lba, response, status, sense, residual };
        if failure.is_attention() {
            // It may tell of another size.
            self.units.iter_mut().flatten().for_each(|unit| unit.capacity = None);
        }
        let retries = answer.read64(SLOT_RETRIES);
        let (attentions, lost) = (retries & 0xFFFF, retries >> 16 & 0xFFFF);
        let busy = retries / ONE_BUSY;
        let more = if failure.is_attention() && self.attention == Attention::Retry {
            (attentions < ATTENTIONS_MAX).then_some(ONE_ATTENTION)
        } else if failure.is_lost() && cdb::may_be_done_twice(answer.read8(SLOT_HEADER + CDB)) {
            (lost < LOST_MAX).then_some(ONE_LOST)
        } else if failure.is_busy() {
            (busy < BUSY_MAX).then_some(ONE_BUSY)
        } else {
            None
        };
        let more = more.ok_or(DeviceError::Scsi(failure))?;
        self.requests.submit(queue, slot, |memory| {
            reset_slot(memory);
            memory.write64(SLOT_RETRIES, retries + more);
        });
        Ok(())
    }

    /// Resets a logical unit (LOGICAL UNIT RESET): its commands end, and all initiators are told.
    pub(super) fn reset_unit(&mut self, lun: u16) -> Result<(), DeviceError> {
        const TASK_MANAGEMENT: u32 = 0;
        const LOGICAL_UNIT_RESET: u32 = 5;
        const LEN: u32 = 24;
        const RESPONSE: u64 = 32;
        const COMPLETE: u8 = 0;
        const SUCCEEDED: u8 = 10;
        let memory = self.control_memory;
        memory.write32(0, TASK_MANAGEMENT);
        memory.write32(4, LOGICAL_UNIT_RESET);
        memory.write64(8, u64::from_le_bytes(lun_bytes(lun)));
        memory.write8(RESPONSE, 0xFF);
        let address = memory.address();
        self.control.describe(0, Descriptor { address, len: LEN, flags: NEXT, next: 1 });
        let address = address + RESPONSE;
        self.control.describe(1, Descriptor { address, len: 1, flags: WRITE, next: 0 });
        self.control.push(0);
        self.control.kick();
        let start = clock::now();
        while self.control.pop().is_none() {
            core::hint::spin_loop();
            if clock::now().wrapping_sub(start) > PATIENCE {
                return Err(self.transport.silence("LOGICAL UNIT RESET"));
            }
        }
        match memory.read8(RESPONSE) {
            COMPLETE | SUCCEEDED => Ok(()),
            response => Err(DeviceError::Scsi(Failure {
                command: "LOGICAL UNIT RESET",
                lba: None,
                response,
                status: 0,
                sense: None,
                residual: 0,
            })),
        }
    }
}

/// A logical unit of target 0 as virtio-scsi addresses it (virtio 1.3, 5.6.6.1).
pub(crate) fn lun_bytes(lun: u16) -> [u8; 8] {
    let [high, low] = (lun & 0x3FFF | 0x4000).to_be_bytes();
    [1, 0, high, low, 0, 0, 0, 0]
}

/// Makes a slot ready to be sent: no answer yet, no retries.
#[inline]
pub(super) fn reset_slot(memory: Dma) {
    memory.write64(SLOT_RETRIES, 0);
    memory.write16(SLOT_STATUS, STATUS_NONE);
}

const _: () = assert!(
    SLOT_LBA.is_multiple_of(8)
        && SLOT_HEADER + HEADER_LEN <= SLOT_RETRIES
        && SLOT_RETRIES + 8 <= SLOT_ANSWER
        && SLOT_ANSWER + ANSWER_LEN <= SLOT
        && failure::RESPONSE_OK == 0
);
