//! Malformed queues of a disk: loops, memory that is not there, indirect tables.
#![forbid(unsafe_code)]

use super::{disk, react};
use crate::machine::memory::Dma;
use crate::virtio::DeviceError;
use crate::virtio::queue::{Descriptor, INDIRECT, NEXT, Queue, WRITE, write_descriptor};
use crate::virtio::transport::{Platform, Transport, common};

/// Feature bit: indirect descriptors.
const F_INDIRECT: u64 = 1 << 28;
/// Addresses that are no memory of a guest this small.
const NOWHERE: [u64; 5] = [1 << 45, 1 << 52, u64::MAX, u64::MAX - 0xFFF, 0xF000_0000];
/// Queue 0 of the disk under test, and how large it is made.
const QUEUE: u16 = 0;
const QUEUE_SIZE: u16 = 16;

/// A disk about to get a malformed request: its queue, and a good request's parts.
struct Victim {
    transport: Transport,
    queue: Queue,
    memory: Dma,
}

impl Victim {
    /// The disk, freshly reset and started.
    fn start(index: u64, platform: &mut Platform) -> Result<Victim, DeviceError> {
        let transport = disk(index, platform)?;
        let features = transport.negotiate(F_INDIRECT)?;
        let queue = transport.queue(QUEUE, QUEUE_SIZE, features, &mut platform.pool)?;
        let memory = platform.pool.take_zeroed(8192, 4096).ok_or(DeviceError::Memory)?;
        transport.start();
        Ok(Victim { transport, queue, memory })
    }

    /// Descriptors of a good read of one sector: header, data, status.
    fn good(&self) -> [Descriptor; 3] {
        let at = |offset, len, flags, next| Descriptor {
            address: self.memory.address() + offset,
            len,
            flags,
            next,
        };
        [at(0, 16, NEXT, 1), at(4096, 512, NEXT | WRITE, 2), at(64, 1, WRITE, 0)]
    }

    /// Puts the chain in the queue from descriptor 0 on and offers `head`; then the device is
    /// reset.
    fn offer(mut self, chain: &[Descriptor], head: u16) -> Result<(), DeviceError> {
        (0..).zip(chain).for_each(|(index, descriptor)| self.queue.describe(index, *descriptor));
        self.queue.push(head);
        self.queue.kick();
        self.queue.notify();
        react();
        self.transport.reset()
    }
}

/// Chains that come back to themselves, at every place, and heads that are no descriptors.
pub(super) fn loops(index: u64, platform: &mut Platform) -> Result<(), DeviceError> {
    let mark = platform.pool.mark();
    for (last, target) in [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)] {
        let victim = Victim::start(index, platform)?;
        let mut chain = victim.good();
        if let Some(descriptor) = chain.get_mut(last) {
            *descriptor =
                Descriptor { flags: descriptor.flags | NEXT, next: target, ..*descriptor };
        }
        victim.offer(&chain, 0)?;
        platform.pool.release(mark);
    }
    for (next, head) in [(QUEUE_SIZE, 0), (0xFFFF, 0), (1, QUEUE_SIZE), (1, 0xFFFF)] {
        let victim = Victim::start(index, platform)?;
        let [header, data, status] = victim.good();
        victim.offer(&[Descriptor { next, ..header }, data, status], head)?;
        platform.pool.release(mark);
    }
    Ok(())
}

/// Rings and buffers outside memory, lengths beyond its end, more available than there is.
pub(super) fn wild(index: u64, platform: &mut Platform) -> Result<(), DeviceError> {
    let mark = platform.pool.mark();
    for nowhere in NOWHERE {
        for part in 0..3 {
            let victim = Victim::start(index, platform)?;
            let mut chain = victim.good();
            if let Some(descriptor) = chain.get_mut(part) {
                descriptor.address = nowhere;
            }
            victim.offer(&chain, 0)?;
            platform.pool.release(mark);
        }
        for register in [common::QUEUE_DESC, common::QUEUE_DRIVER, common::QUEUE_DEVICE] {
            ring_at(index, platform, register, nowhere)?;
            platform.pool.release(mark);
        }
    }
    // The device would write over this guest if it took the data's length as it is.
    for (part, len) in [(0, 0), (0, 15), (0, u32::MAX), (1, 0), (1, 511), (2, 0)] {
        let victim = Victim::start(index, platform)?;
        let mut chain = victim.good();
        if let Some(descriptor) = chain.get_mut(part) {
            descriptor.len = len;
        }
        victim.offer(&chain, 0)?;
        platform.pool.release(mark);
    }
    // Nothing to write to, only things to write to, and a header alone.
    let victim = Victim::start(index, platform)?;
    let readable = victim.good().map(|part| Descriptor { flags: part.flags & !WRITE, ..part });
    victim.offer(&readable, 0)?;
    let victim = Victim::start(index, platform)?;
    let writable = victim.good().map(|part| Descriptor { flags: part.flags | WRITE, ..part });
    victim.offer(&writable, 0)?;
    let victim = Victim::start(index, platform)?;
    let [header, ..] = victim.good();
    victim.offer(&[Descriptor { flags: 0, ..header }], 0)?;
    // An available index that is further ahead than the queue is long.
    let mut victim = Victim::start(index, platform)?;
    (0..=QUEUE_SIZE).for_each(|_| victim.queue.push(0));
    let chain = victim.good();
    victim.offer(&chain, 0)?;
    platform.pool.release(mark);
    Ok(())
}

/// Starts the disk with one part of its queue outside memory, and notifies it.
fn ring_at(
    index: u64,
    platform: &mut Platform,
    register: u64,
    address: u64,
) -> Result<(), DeviceError> {
    let transport = disk(index, platform)?;
    transport.negotiate(0)?;
    let ring = platform.pool.take_zeroed(4096, 4096).ok_or(DeviceError::Memory)?;
    let common = transport.common;
    common.write16(common::QUEUE_SELECT, QUEUE);
    common.write16(common::QUEUE_SIZE, QUEUE_SIZE);
    let parts =
        [(common::QUEUE_DESC, 0), (common::QUEUE_DRIVER, 1024), (common::QUEUE_DEVICE, 2048)];
    for (part, offset) in parts {
        let address = if part == register { address } else { ring.address() + offset };
        common.write64_halves(part, address);
    }
    common.write16(common::QUEUE_ENABLE, 1);
    transport.start();
    // One entry available, in the ring that is in memory.
    ring.write16(1024 + 2, 1);
    transport.notify.write16(0, QUEUE);
    react();
    transport.reset()
}

/// Tables of odd lengths, outside memory, inside tables, with loops and with ends missing.
pub(super) fn indirect(index: u64, platform: &mut Platform) -> Result<(), DeviceError> {
    let mark = platform.pool.mark();
    for case in 0..9 {
        let victim = Victim::start(index, platform)?;
        let table = victim.memory.part(1024, 1024);
        let mut inside = victim.good();
        let mut outside =
            Descriptor { address: table.address(), len: 48, flags: INDIRECT, next: 0 };
        let [header, data, status] = &mut inside;
        match case {
            0 => outside.len = 0,
            1 => outside.len = 47,
            2 => outside.len = !15,
            3 => outside.address = 1 << 45,
            4 => outside.flags |= NEXT,
            5 => header.flags |= INDIRECT,
            6 => status.flags |= NEXT,
            7 => data.next = 3,
            _ => outside.flags |= WRITE,
        }
        (0..).zip(inside).for_each(|(at, part)| write_descriptor(table, at * 16, part));
        victim.offer(&[outside], 0)?;
        platform.pool.release(mark);
    }
    Ok(())
}
