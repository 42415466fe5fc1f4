//! A logical unit: a disk.
#![forbid(unsafe_code)]

use super::adapter::{Adapter, GOOD, SLOT_LBA, SLOT_RESIDUAL, SLOT_STATUS, reset_slot};
use super::cdb::{Cdb, Direction};
use super::pages::Capacity;
use crate::machine::memory::{Dma, Pool};
use crate::pattern::SECTOR;
use crate::virtio::DeviceError;
use crate::virtio::requests::Requests;
use crate::virtio::transport::Transport;

/// Sectors that a request has at most, as those to virtio-blk.
const SECTORS_MAX: u64 = 128;
/// How large a logical block may be.
const BLOCK_MAX: u32 = 64 << 10;
/// Bytes of READ CAPACITY(16)'s data.
const CAPACITY_LEN: u8 = 32;

/// What a request that moves sectors does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// READ(16).
    Read,
    /// WRITE(16).
    Write,
}

impl Operation {
    fn cdb(self, lba: u64, blocks: u32) -> Cdb {
        match self {
            Operation::Read => Cdb::read(lba, blocks),
            Operation::Write => Cdb::write(lba, blocks),
        }
    }
}

/// What is known about a logical unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// Its number.
    pub(super) lun: u16,
    /// Its size, once it was asked for.
    pub(super) capacity: Option<Capacity>,
}

/// A logical unit of a device.
#[derive(Debug)]
pub struct Unit<'a> {
    /// The device.
    pub adapter: &'a mut Adapter,
    lun: u16,
    capacity: Capacity,
    /// A block has 2^`shift` sectors.
    shift: u32,
}

impl<'a> Unit<'a> {
    pub(super) fn open(
        adapter: &'a mut Adapter,
        known: Known,
        pool: &mut Pool,
    ) -> Result<Unit<'a>, DeviceError> {
        let Known { lun, capacity } = known;
        let capacity = match capacity {
            Some(capacity) => capacity,
            None => {
                let mut data = [0; CAPACITY_LEN as usize];
                let data = adapter.read(lun, &Cdb::read_capacity(CAPACITY_LEN), &mut data, pool)?;
                Capacity::read(data).ok_or(DeviceError::Lacks("capacity that can be told"))?
            }
        };
        let block = u64::from(capacity.block);
        if !block.is_power_of_two() || block < SECTOR || capacity.block > BLOCK_MAX {
            return Err(DeviceError::Lacks("logical block of 512 bytes to 64 KiB"));
        }
        Ok(Unit { adapter, lun, capacity, shift: (block / SECTOR).ilog2() })
    }

    /// The logical unit number.
    pub fn lun(&self) -> u16 {
        self.lun
    }

    /// Its size in blocks, and theirs.
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// The logical block that starts with `sector`.
    pub fn block(&self, sector: u64) -> Result<u64, DeviceError> {
        self.check_granule(sector, 0)?;
        Ok(sector >> self.shift)
    }

    /// Sends a command and waits for it: `data` in guest memory moves as the command says.
    pub fn execute(&mut self, cdb: &Cdb, data: Dma) -> Result<u64, DeviceError> {
        self.adapter.execute(self.lun, cdb, data)
    }

    /// Sends a command that reads, and gives what came.
    pub fn read<'d>(
        &mut self,
        cdb: &Cdb,
        data: &'d mut [u8],
        pool: &mut Pool,
    ) -> Result<&'d [u8], DeviceError> {
        self.adapter.read(self.lun, cdb, data, pool)
    }

    /// Sends a command with `data`, which may be none.
    pub fn write(&mut self, cdb: &Cdb, data: &[u8], pool: &mut Pool) -> Result<(), DeviceError> {
        let mark = pool.mark();
        let buffer = pool.take(data.len() as u64, 64).ok_or(DeviceError::Memory)?;
        (0..).zip(data).for_each(|(at, byte)| buffer.write8(at, *byte));
        let done = self.execute(cdb, buffer);
        if !done.is_err_and(|error| !error.is_answer()) {
            pool.release(mark);
        }
        done.map(|_| ())
    }

    /// Resets it: LOGICAL UNIT RESET.
    pub fn reset(&mut self) -> Result<(), DeviceError> {
        self.adapter.reset_unit(self.lun)
    }
}

impl Requests for Unit<'_> {
    type Operation = Operation;
    const READ: Operation = Operation::Read;
    const WRITE: Operation = Operation::Write;

    fn transport(&self) -> &Transport {
        &self.adapter.transport
    }

    fn capacity(&self) -> u64 {
        self.capacity.blocks.saturating_mul(1 << self.shift)
    }

    fn granule(&self) -> u64 {
        1 << self.shift
    }

    fn name(operation: Operation) -> &'static str {
        operation.cdb(0, 0).name
    }

    fn limit(&self, _: Operation) -> Result<u64, DeviceError> {
        let limit = match self.adapter.max_sectors {
            0 => SECTORS_MAX,
            limit => SECTORS_MAX.min(limit.into()),
        };
        // Whole blocks, and one at least.
        Ok((limit >> self.shift << self.shift).max(self.granule()))
    }

    fn buffer(&self, _: Operation, sectors: u64) -> u64 {
        sectors * SECTOR
    }

    fn parameters(&self, _: Operation, _: Dma, _: u64, _: u64) -> Option<Dma> {
        None
    }

    fn check_depth(&self, queues: u16, depth: u16) -> Result<u32, DeviceError> {
        self.adapter.requests.check_depth(queues, depth)
    }

    fn prepare(&mut self, queue: u16, slot: u16, operation: Operation, data: Dma) {
        let blocks = u32::try_from((data.len() / SECTOR) >> self.shift).unwrap_or(u32::MAX);
        let cdb = operation.cdb(0, blocks);
        debug_assert!(cdb.direction != Direction::None, "requests that move sectors have data");
        self.adapter.describe(queue, slot, self.lun, &cdb, data);
    }

    #[inline]
    fn submit(&mut self, queue: u16, slot: u16, sector: u64) {
        let lba = sector >> self.shift;
        self.adapter.requests.submit(queue, slot, |memory| {
            memory.write64(SLOT_LBA, lba.to_be());
            reset_slot(memory);
        });
    }

    #[inline]
    fn kick(&mut self, queue: u16) {
        self.adapter.requests.kick(queue);
    }

    #[inline]
    fn poll(
        &mut self,
        queue: u16,
        operation: Operation,
    ) -> Result<Option<(u16, u64)>, DeviceError> {
        while let Some((slot, answer)) = self.adapter.requests.pop(queue)? {
            let lba = u64::from_be(answer.read64(SLOT_LBA));
            if answer.read16(SLOT_STATUS) == GOOD && answer.read32(SLOT_RESIDUAL) == 0 {
                return Ok(Some((slot, lba << self.shift)));
            }
            self.adapter.failed(queue, slot, answer, Self::name(operation), Some(lba))?;
        }
        Ok(None)
    }
}
