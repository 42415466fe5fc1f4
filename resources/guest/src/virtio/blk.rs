//! virtio-blk (virtio 1.2, 5.2).
#![forbid(unsafe_code)]

use super::queue::{Descriptor, NEXT, Queue, WRITE};
use super::transport::{PATIENCE, Platform, Transport};
use super::{DeviceError, Kind};
use crate::machine::clock;
use crate::machine::memory::{Dma, Pool};
use crate::pattern::SECTOR;

/// Queues of one disk that are used at most.
pub const QUEUES_MAX: u16 = 8;
/// Descriptors of one queue that are used at most.
const QUEUE_SIZE_MAX: u16 = 256;
/// Descriptors of one request: header, data, status.
const CHAIN: u16 = 3;

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

/// A range of a disk, cut into requests of which many are under way at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// What to do with each part.
    pub operation: Operation,
    /// First sector.
    pub sector: u64,
    /// Number of sectors.
    pub sectors: u64,
    /// Requests under way in each queue.
    pub depth: u16,
    /// Queues to use.
    pub queues: u16,
}

/// A disk that is ready for requests.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// How to reach it.
    pub transport: Transport,
    features: u64,
    capacity: u64,
    queues: [Option<(Queue, Dma)>; QUEUES_MAX as usize],
}

impl Block {
    /// Starts disk `index` (they count from 0 in the order of the bus), all its queues up to
    /// [`QUEUES_MAX`].
    pub fn open(index: u64, platform: &mut Platform) -> Result<Block, DeviceError> {
        let transport = Transport::find(Kind::Block, index, platform)?;
        let features = transport.negotiate(F_FLUSH | F_MQ | F_DISCARD | F_WRITE_ZEROES)?;
        let config = transport.device.ok_or(DeviceError::Unreachable("disk configuration"))?;
        let low = u64::from(config.read32(CONFIG_CAPACITY));
        let capacity = low | u64::from(config.read32(CONFIG_CAPACITY + 4)) << 32;
        let count = if features & F_MQ != 0 { config.read16(CONFIG_NUM_QUEUES) } else { 1 };
        let mut queues = [None; QUEUES_MAX as usize];
        for (number, place) in (0..count).zip(&mut queues) {
            let queue = transport.queue(number, QUEUE_SIZE_MAX, features, &mut platform.pool)?;
            let slots = u64::from(queue.size() / CHAIN) * SLOT;
            let slots = platform.pool.take(slots, SLOT).ok_or(DeviceError::Memory)?;
            *place = Some((queue, slots));
        }
        transport.start();
        Ok(Block { transport, features, capacity, queues })
    }

    /// Size in sectors.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// How many sectors one request of this kind may have.
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

    /// Does `transfer` in parts as large as the device takes. `before` fills a part's buffer,
    /// `after` looks at it; both get its first sector and its number of sectors.
    pub fn transfer(
        &mut self,
        transfer: Transfer,
        pool: &mut Pool,
        mut before: impl FnMut(Dma, u64, u64),
        mut after: impl FnMut(Dma, u64, u64) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let Transfer { operation, mut sector, sectors, depth, queues } = transfer;
        let end = sector.saturating_add(sectors);
        let limit = self.limit(operation)?;
        let buffer = match operation {
            Operation::Read | Operation::Write => limit.min(sectors) * SECTOR,
            _ => 64,
        };
        let mark = pool.mark();
        let all = u64::from(self.check_depth(queues, depth)?);
        let buffers = pool.take(buffer * all, 4096).ok_or(DeviceError::Memory)?;
        let part = |queue: u16, slot: u16| {
            buffers.part((u64::from(queue) * u64::from(depth) + u64::from(slot)) * buffer, buffer)
        };
        let mut next = |block: &mut Block, queue, slot| {
            if sector >= end {
                return 0;
            }
            let count = limit.min(end - sector);
            let data = part(queue, slot);
            let data = match operation {
                Operation::Read | Operation::Write => {
                    before(data, sector, count);
                    data.part(0, count * SECTOR)
                }
                Operation::Discard | Operation::WriteZeroes => {
                    data.write64(0, sector);
                    data.write64(8, count);
                    data.part(0, 16)
                }
                Operation::Flush => data.part(0, 0),
                Operation::Identify => data.part(0, ID_LEN as u64),
            };
            block.prepare(queue, slot, operation, data);
            block.submit(queue, slot, sector);
            sector += count;
            1
        };
        let mut under_way = 0u64;
        for slot in 0..depth {
            for queue in 0..queues {
                under_way += next(self, queue, slot);
            }
        }
        (0..queues).for_each(|queue| self.kick(queue));
        let mut last = clock::now();
        while under_way > 0 {
            let before = under_way;
            for queue in 0..queues {
                while let Some((slot, sector)) = self.poll(queue, operation)? {
                    last = clock::now();
                    after(part(queue, slot), sector, limit.min(end - sector.min(end)))?;
                    under_way -= 1;
                    under_way += next(self, queue, slot);
                }
                self.kick(queue);
            }
            if under_way == before {
                core::hint::spin_loop();
                if clock::now().wrapping_sub(last) > PATIENCE {
                    return Err(self.transport.silence(operation.name()));
                }
            }
        }
        pool.release(mark);
        Ok(())
    }

    /// How many requests that many queues of that depth hold, if the disk has them.
    pub fn check_depth(&self, queues: u16, depth: u16) -> Result<u32, DeviceError> {
        let used = self.queues.get(..usize::from(queues)).unwrap_or_default();
        if used.is_empty() || used.iter().any(Option::is_none) {
            return Err(DeviceError::Lacks("so many queues"));
        }
        if used.iter().flatten().any(|(queue, _)| queue.size() / CHAIN < depth) || depth == 0 {
            return Err(DeviceError::Lacks("queue of this depth (3 descriptors a request)"));
        }
        Ok(u32::from(queues) * u32::from(depth))
    }

    /// Describes the request in `slot` of `queue`: what, and the data's place.
    pub fn prepare(&mut self, queue: u16, slot: u16, operation: Operation, data: Dma) {
        let Some((queue, slots)) = self.queue(queue) else { return };
        let header = slots.part(u64::from(slot) * SLOT, SLOT);
        header.write32(0, operation.number());
        header.write32(4, 0);
        let head = slot * CHAIN;
        let device_writes = matches!(operation, Operation::Read | Operation::Identify);
        let (data_index, status_index) = (head + 1, head + 2);
        let first = if data.len() == 0 { status_index } else { data_index };
        let address = header.address();
        queue.describe(head, Descriptor { address, len: 16, flags: NEXT, next: first });
        let flags = NEXT | if device_writes { WRITE } else { 0 };
        let (address, len) = (data.address(), u32::try_from(data.len()).unwrap_or(u32::MAX));
        queue.describe(data_index, Descriptor { address, len, flags, next: status_index });
        let address = header.address() + SLOT_STATUS;
        queue.describe(status_index, Descriptor { address, len: 1, flags: WRITE, next: 0 });
    }

    /// Hands the request in `slot` over, for `sector`. A device that sleeps hears of it with
    /// [`Block::kick`].
    #[inline]
    pub fn submit(&mut self, queue: u16, slot: u16, sector: u64) {
        let Some((queue, slots)) = self.queue(queue) else { return };
        let header = u64::from(slot) * SLOT;
        slots.write64(header + SLOT_SECTOR, sector);
        slots.write8(header + SLOT_STATUS, STATUS_NONE);
        queue.push(slot * CHAIN);
    }

    /// Notifies the device of what was submitted to `queue`, if it wants that.
    #[inline]
    pub fn kick(&mut self, queue: u16) {
        if let Some((queue, _)) = self.queue(queue) {
            queue.kick();
        }
    }

    /// The next completed request of `queue`: its slot and first sector. One that failed is an
    /// error, which names `operation`.
    #[inline]
    pub fn poll(
        &mut self,
        queue: u16,
        operation: Operation,
    ) -> Result<Option<(u16, u64)>, DeviceError> {
        let Some((queue, slots)) = self.queue(queue) else { return Ok(None) };
        let Some((id, _)) = queue.pop() else { return Ok(None) };
        let slot = match u16::try_from(id) {
            Ok(head) if head.is_multiple_of(CHAIN) && head / CHAIN < queue.size() / CHAIN => {
                head / CHAIN
            }
            _ => return Err(DeviceError::Used { id }),
        };
        let header = u64::from(slot) * SLOT;
        let sector = slots.read64(header + SLOT_SECTOR);
        match slots.read8(header + SLOT_STATUS) {
            STATUS_OK => Ok(Some((slot, sector))),
            status => Err(DeviceError::Request { operation: operation.name(), sector, status }),
        }
    }

    #[inline]
    fn queue(&mut self, index: u16) -> Option<(&mut Queue, Dma)> {
        let (queue, slots) = self.queues.get_mut(usize::from(index))?.as_mut()?;
        Some((queue, *slots))
    }
}
