//! virtio-blk (virtio 1.2, 5.2).
#![forbid(unsafe_code)]

use super::requests::{Part, Queues, Requests};
use super::transport::{Platform, Transport};
use super::{DeviceError, Kind};
use crate::machine::memory::Dma;
use crate::pattern::SECTOR;

const F_FLUSH: u64 = 1 << 9;
const F_MQ: u64 = 1 << 12;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

const CONFIG_CAPACITY: u64 = 0;
const CONFIG_NUM_QUEUES: u64 = 34;
const CONFIG_MAX_DISCARD: u64 = 36;
const CONFIG_MAX_WRITE_ZEROES: u64 = 48;

/// A slot's memory: the request's header, then the status byte.
const SLOT: u64 = 32;
const HEADER_LEN: u64 = 16;
const SLOT_SECTOR: u64 = 8;
const SLOT_STATUS: u64 = 16;
const STATUS_OK: u8 = 0;
/// No status that a device gives.
const STATUS_NONE: u8 = 0xFF;
/// Length of the identifier that [`Operation::Identify`] reads.
pub const ID_LEN: usize = 20;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Read sectors.
    Read,
    /// Write sectors.
    Write,
    /// Make everything written durable.
    Flush,
    /// Read the serial string.
    Identify,
    /// Forget sectors.
    Discard,
    /// Make sectors zero.
    WriteZeroes,
}

impl Operation {
    fn number(self) -> u32 {
        match self {
            Operation::Read => 0,
            Operation::Write => 1,
            Operation::Flush => 4,
            Operation::Identify => 8,
            Operation::Discard => 11,
            Operation::WriteZeroes => 13,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Flush => "flush",
            Operation::Identify => "identify",
            Operation::Discard => "discard",
            Operation::WriteZeroes => "write zeroes",
        }
    }
}

/// A disk that is ready for requests.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    transport: Transport,
    features: u64,
    capacity: u64,
    queues: Queues<SLOT>,
}

impl Block {
    /// Starts disk `index` (they count from 0 in the order of the bus), all its queues up to
    /// [`QUEUES_MAX`](super::requests::QUEUES_MAX).
    pub fn open(index: u64, platform: &mut Platform) -> Result<Block, DeviceError> {
        let transport = Transport::find(Kind::Block, index, platform)?;
        let features = transport.negotiate(F_FLUSH | F_MQ | F_DISCARD | F_WRITE_ZEROES)?;
        let config = transport.device.ok_or(DeviceError::Unreachable("disk configuration"))?;
        let low = u64::from(config.read32(CONFIG_CAPACITY));
        let capacity = low | u64::from(config.read32(CONFIG_CAPACITY + 4)) << 32;
        let count = if features & F_MQ != 0 { config.read16(CONFIG_NUM_QUEUES) } else { 1 };
        let queues = Queues::new(&transport, 0, count, features, &mut platform.pool)?;
        transport.start();
        Ok(Block { transport, features, capacity, queues })
    }
}

impl Requests for Block {
    type Operation = Operation;
    const READ: Operation = Operation::Read;
    const WRITE: Operation = Operation::Write;

    fn transport(&self) -> &Transport {
        &self.transport
    }

    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn name(operation: Operation) -> &'static str {
        operation.name()
    }

    fn limit(&self, operation: Operation) -> Result<u64, DeviceError> {
        let feature = |bit, what| {
            if self.features & bit != 0 { Ok(()) } else { Err(DeviceError::Lacks(what)) }
        };
        let at = match operation {
            Operation::Discard => {
                feature(F_DISCARD, "discard (VIRTIO_BLK_F_DISCARD)")?;
                CONFIG_MAX_DISCARD
            }
            Operation::WriteZeroes => {
                feature(F_WRITE_ZEROES, "write zeroes (VIRTIO_BLK_F_WRITE_ZEROES)")?;
                CONFIG_MAX_WRITE_ZEROES
            }
            Operation::Flush => {
                feature(F_FLUSH, "flush (VIRTIO_BLK_F_FLUSH)")?;
                return Ok(1);
            }
            _ => return Ok(128),
        };
        let limit = self.transport.device.map_or(0, |config| u64::from(config.read32(at)));
        if limit == 0 { Err(DeviceError::Lacks("limit above zero")) } else { Ok(limit) }
    }

    fn buffer(&self, operation: Operation, sectors: u64) -> u64 {
        match operation {
            Operation::Read | Operation::Write => sectors * SECTOR,
            _ => 64,
        }
    }

    fn parameters(&self, operation: Operation, data: Dma, sector: u64, count: u64) -> Option<Dma> {
        match operation {
            Operation::Read | Operation::Write => None,
            Operation::Discard | Operation::WriteZeroes => {
                data.write64(0, sector);
                data.write64(8, count);
                Some(data.part(0, 16))
            }
            Operation::Flush => Some(data.part(0, 0)),
            Operation::Identify => Some(data.part(0, ID_LEN as u64)),
        }
    }

    fn check_depth(&self, queues: u16, depth: u16) -> Result<u32, DeviceError> {
        self.queues.check_depth(queues, depth)
    }

    fn prepare(&mut self, queue: u16, slot: u16, operation: Operation, data: Dma) {
        self.queues.describe(queue, slot, |header| {
            header.write32(0, operation.number());
            header.write32(4, 0);
            let device_writes = matches!(operation, Operation::Read | Operation::Identify);
            let address = header.address();
            [
                Part { address, len: HEADER_LEN, device_writes: false },
                Part { address: data.address(), len: data.len(), device_writes },
                Part { address: address + SLOT_STATUS, len: 1, device_writes: true },
            ]
        });
    }

    #[inline]
    fn submit(&mut self, queue: u16, slot: u16, sector: u64) {
        self.queues.submit(queue, slot, |header| {
            header.write64(SLOT_SECTOR, sector);
            header.write8(SLOT_STATUS, STATUS_NONE);
        });
    }

    #[inline]
    fn kick(&mut self, queue: u16) {
        self.queues.kick(queue);
    }

    #[inline]
    fn poll(
        &mut self,
        queue: u16,
        operation: Operation,
    ) -> Result<Option<(u16, u64)>, DeviceError> {
        let Some((slot, header)) = self.queues.pop(queue)? else { return Ok(None) };
        let sector = header.read64(SLOT_SECTOR);
        match header.read8(SLOT_STATUS) {
            STATUS_OK => Ok(Some((slot, sector))),
            status => Err(DeviceError::Request { operation: operation.name(), sector, status }),
        }
    }
}
