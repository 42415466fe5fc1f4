//! Requests to disks: slots that are described once and used again and again, and ranges cut
//! into requests of which many are under way. What kind of disk it is, [`Requests`] knows.
#![forbid(unsafe_code)]

use super::DeviceError;
use super::queue::{Descriptor, NEXT, Queue, WRITE};
use super::transport::{PATIENCE, Transport};
use crate::machine::clock;
use crate::machine::memory::{Dma, Pool};

/// Queues of one disk that are used at most.
pub const QUEUES_MAX: u16 = 8;
/// Descriptors of one queue that are used at most.
const QUEUE_SIZE_MAX: u16 = 256;
/// Descriptors of one request: header, data and what the device answers.
const CHAIN: u16 = 3;

/// One part of a request.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Guest-physical address.
    pub address: u64,
    /// Length in bytes; a part of none is left out.
    pub len: u64,
    /// The device writes it.
    pub device_writes: bool,
}

/// The request queues of a device. Each request has a slot: its descriptors, and `SLOT` bytes
/// for its header and its answer.
#[derive(Clone, Copy, Debug)]
pub struct Queues<const SLOT: u64>([Option<(Queue, Dma)>; QUEUES_MAX as usize]);

impl<const SLOT: u64> Queues<SLOT> {
    /// Sets up `count` queues, but no more than [`QUEUES_MAX`], from queue `first` of the device
    /// on.
    pub fn new(
        transport: &Transport,
        first: u16,
        count: u16,
        features: u64,
        pool: &mut Pool,
    ) -> Result<Queues<SLOT>, DeviceError> {
        let mut queues = [None; QUEUES_MAX as usize];
        for (number, place) in (0..count).zip(&mut queues) {
            let queue = transport.queue(first + number, QUEUE_SIZE_MAX, features, pool)?;
            let slots = u64::from(queue.size() / CHAIN) * SLOT;
            let slots = pool.take(slots, 64).ok_or(DeviceError::Memory)?;
            *place = Some((queue, slots));
        }
        Ok(Queues(queues))
    }

    /// How many requests that many queues of that depth hold, if the disk has them.
    pub fn check_depth(&self, queues: u16, depth: u16) -> Result<u32, DeviceError> {
        let used = self.0.get(..usize::from(queues)).unwrap_or_default();
        if used.is_empty() || used.iter().any(Option::is_none) {
            return Err(DeviceError::Lacks("so many queues"));
        }
        if used.iter().flatten().any(|(queue, _)| queue.size() / CHAIN < depth) || depth == 0 {
            return Err(DeviceError::Lacks("queue of this depth (3 descriptors a request)"));
        }
        Ok(u32::from(queues) * u32::from(depth))
    }

    /// Describes the request in `slot` of `queue`. `parts` fills the slot's memory and says what
    /// the request consists of.
    pub fn describe(
        &mut self,
        queue: u16,
        slot: u16,
        parts: impl FnOnce(Dma) -> [Part; CHAIN as usize],
    ) {
        let Some((queue, slots)) = self.queue(queue) else { return };
        let parts = parts(slots.part(u64::from(slot) * SLOT, SLOT));
        let present = || parts.iter().filter(|part| part.len > 0);
        let head = slot * CHAIN;
        for (part, index) in present().zip(head..) {
            let last = usize::from(index - head) + 1 == present().count();
            let flags = if last { 0 } else { NEXT } | if part.device_writes { WRITE } else { 0 };
            let next = if last { 0 } else { index + 1 };
            let (address, len) = (part.address, u32::try_from(part.len).unwrap_or(u32::MAX));
            queue.describe(index, Descriptor { address, len, flags, next });
        }
    }

    /// Hands the request in `slot` over, after `set` wrote to the slot's memory what changes from
    /// one use to the next. A device that sleeps hears of it with [`Queues::kick`].
    #[inline]
    pub fn submit(&mut self, queue: u16, slot: u16, set: impl FnOnce(Dma)) {
        let Some((queue, slots)) = self.queue(queue) else { return };
        set(slots.part(u64::from(slot) * SLOT, SLOT));
        queue.push(slot * CHAIN);
    }

    /// Notifies the device of what was submitted to `queue`, if it wants that.
    #[inline]
    pub fn kick(&mut self, queue: u16) {
        if let Some((queue, _)) = self.queue(queue) {
            queue.kick();
        }
    }

    /// The next completed request of `queue`: its slot, and that one's memory.
    #[inline]
    pub fn pop(&mut self, queue: u16) -> Result<Option<(u16, Dma)>, DeviceError> {
        let Some((queue, slots)) = self.queue(queue) else { return Ok(None) };
        let Some((id, _)) = queue.pop() else { return Ok(None) };
        match u16::try_from(id) {
            Ok(head) if head.is_multiple_of(CHAIN) && head / CHAIN < queue.size() / CHAIN => {
                let slot = head / CHAIN;
                Ok(Some((slot, slots.part(u64::from(slot) * SLOT, SLOT))))
            }
            _ => Err(DeviceError::Used { id }),
        }
    }

    #[inline]
    fn queue(&mut self, index: u16) -> Option<(&mut Queue, Dma)> {
        let (queue, slots) = self.0.get_mut(usize::from(index))?.as_mut()?;
        Some((queue, *slots))
    }
}

/// A range of a disk, cut into requests of which many are under way at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer<O> {
    /// What to do with each part.
    pub operation: O,
    /// First sector.
    pub sector: u64,
    /// Number of sectors.
    pub sectors: u64,
    /// Requests under way in each queue.
    pub depth: u16,
    /// Queues to use.
    pub queues: u16,
}

/// Fills the buffer of a part: its data, first sector and number of sectors.
pub type Fill<'f> = &'f mut dyn FnMut(Dma, u64, u64);
/// Looks at a part that is done: its data, first sector and number of sectors.
pub type Check<'f> = &'f mut dyn FnMut(Dma, u64, u64) -> Result<(), DeviceError>;

/// A disk that takes requests. Sectors have 512 bytes whatever the disk's own blocks are.
pub trait Requests {
    /// What a request can ask for.
    type Operation: Copy;
    /// Read sectors.
    const READ: Self::Operation;
    /// Write sectors.
    const WRITE: Self::Operation;

    /// How to reach the device.
    fn transport(&self) -> &Transport;

    /// Size in sectors.
    fn capacity(&self) -> u64;

    /// Requests start at multiples of this number of sectors, and have multiples of it.
    fn granule(&self) -> u64 {
        1
    }

    /// Sees that a range consists of whole granules.
    fn check_granule(&self, sector: u64, sectors: u64) -> Result<(), DeviceError> {
        let whole = |n: u64| n.is_multiple_of(self.granule());
        if whole(sector) && whole(sectors) {
            Ok(())
        } else {
            Err(DeviceError::Lacks("logical blocks as small as this range's parts"))
        }
    }

    /// The operation's name in messages.
    fn name(operation: Self::Operation) -> &'static str;

    /// How many sectors one request may have.
    fn limit(&self, operation: Self::Operation) -> Result<u64, DeviceError>;

    /// How large the buffer of a request for `sectors` sectors is, in bytes.
    fn buffer(&self, operation: Self::Operation, sectors: u64) -> u64;

    /// Writes to `data`, for operations that do not move sectors, what the device reads there
    /// about `count` sectors from `sector` on. Gives the part that the request takes; `None` for
    /// those that do move sectors.
    fn parameters(
        &self,
        operation: Self::Operation,
        data: Dma,
        sector: u64,
        count: u64,
    ) -> Option<Dma>;

    /// How many requests that many queues of that depth hold, if the disk has them.
    fn check_depth(&self, queues: u16, depth: u16) -> Result<u32, DeviceError>;

    /// Describes the request in `slot` of `queue`: what, and the data's place.
    fn prepare(&mut self, queue: u16, slot: u16, operation: Self::Operation, data: Dma);

    /// Hands the request in `slot` over, for `sector`. A device that sleeps hears of it with
    /// [`Requests::kick`].
    fn submit(&mut self, queue: u16, slot: u16, sector: u64);

    /// Notifies the device of what was submitted to `queue`, if it wants that.
    fn kick(&mut self, queue: u16);

    /// The next completed request of `queue`: its slot and first sector. One that failed is an
    /// error, which names `operation`; [`DeviceError::is_answer`] tells it from a device that
    /// lost its way. Requests that have to be sent again are; [`Requests::kick`] must follow.
    fn poll(
        &mut self,
        queue: u16,
        operation: Self::Operation,
    ) -> Result<Option<(u16, u64)>, DeviceError>;

    /// Does `transfer` in parts as large as the device takes. `before` fills a part's buffer,
    /// `after` looks at it; both get its first sector and its number of sectors. After the first
    /// error nothing more is sent; what is under way is waited for, so that the disk can go on
    /// being used.
    ///
    /// One copy of the code for each kind of disk, hence `dyn`: a part is large.
    #[inline(never)]
    fn transfer(
        &mut self,
        transfer: Transfer<Self::Operation>,
        pool: &mut Pool,
        before: Fill<'_>,
        after: Check<'_>,
    ) -> Result<(), DeviceError>
    where
        Self: Sized,
    {
        let Transfer { operation, mut sector, sectors, depth, queues } = transfer;
        let end = sector.saturating_add(sectors);
        self.check_granule(sector, sectors)?;
        let limit = self.limit(operation)?;
        let buffer = self.buffer(operation, limit.min(sectors));
        let all = u64::from(self.check_depth(queues, depth)?);
        let mark = pool.mark();
        let buffers = pool.take(buffer * all, 4096).ok_or(DeviceError::Memory)?;
        let part = |queue: u16, slot: u16| {
            buffers.part((u64::from(queue) * u64::from(depth) + u64::from(slot)) * buffer, buffer)
        };
        let mut next = |disk: &mut Self, queue, slot| {
            if sector >= end {
                return 0;
            }
            let count = limit.min(end - sector);
            let data = part(queue, slot);
            let data = disk.parameters(operation, data, sector, count).unwrap_or_else(|| {
                before(data, sector, count);
                data.part(0, disk.buffer(operation, count))
            });
            disk.prepare(queue, slot, operation, data);
            disk.submit(queue, slot, sector);
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
        let mut done = Ok(());
        let mut last = clock::now();
        while under_way > 0 {
            let before = under_way;
            for queue in 0..queues {
                loop {
                    let (slot, answer) = match self.poll(queue, operation) {
                        Ok(None) => break,
                        Ok(Some((slot, sector))) => {
                            let count = limit.min(end - sector.min(end));
                            (slot, after(part(queue, slot), sector, count))
                        }
                        Err(error) if error.is_answer() => (0, Err(error)),
                        Err(error) => return Err(error),
                    };
                    last = clock::now();
                    under_way -= 1;
                    done = done.and(answer);
                    if done.is_ok() {
                        under_way += next(self, queue, slot);
                    }
                }
                self.kick(queue);
            }
            if under_way == before {
                core::hint::spin_loop();
                if clock::now().wrapping_sub(last) > PATIENCE {
                    return Err(self.transport().silence(Self::name(operation)));
                }
            }
        }
        pool.release(mark);
        done
    }
}
