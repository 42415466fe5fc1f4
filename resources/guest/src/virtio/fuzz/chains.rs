//! Malformed queues of a disk: loops, memory that is not there, indirect tables.
#![forbid(unsafe_code)]

use super::{Target, react};
use crate::machine::memory::Dma;
use crate::script::Bus;
use crate::virtio::DeviceError;
use crate::virtio::queue::{Descriptor, INDIRECT, NEXT, Queue, WRITE, write_descriptor};
use crate::virtio::scsi::adapter::{ANSWER_LEN, CDB, HEADER_LEN, REQUEST_QUEUE, lun_bytes};
use crate::virtio::scsi::cdb::Cdb;
use crate::virtio::transport::{Platform, common};

/// Feature bit: indirect descriptors.
const F_INDIRECT: u64 = 1 << 28;
/// Addresses that are no memory of a guest this small.
const NOWHERE: [u64; 5] = [1 << 45, 1 << 52, u64::MAX, u64::MAX - 0xFFF, 0xF000_0000];
/// How large queues of the disk under test are made.
const QUEUE_SIZE: u16 = 16;
/// Where the answer and the data are in a victim's memory; the header is at its start.
const ANSWER: u64 = 64;
const DATA: u64 = 4096;
/// Room for a logical block.
const DATA_LEN: u32 = 4096;

/// A disk about to get a malformed request: its queue, and a good request's parts.
pub(super) struct Victim {
    target: Target,
    pub(super) queue: Queue,
    pub(super) memory: Dma,
}

/// The first queue that takes requests.
pub(super) fn request_queue(target: Target) -> u16 {
    match target.on {
        Bus::Blk => 0,
        Bus::Scsi => REQUEST_QUEUE,
    }
}

impl Victim {
    /// The disk, freshly reset and started, with a good read of its first sectors in memory.
    #[inline(never)]
    pub(super) fn start(target: Target, platform: &mut Platform) -> Result<Victim, DeviceError> {
        let victim = Victim::start_queue(target, request_queue(target), platform)?;
        if target.on == Bus::Scsi {
            (0..).zip(lun_bytes(target.lun)).for_each(|(at, byte)| victim.memory.write8(at, byte));
            let read = (CDB..).zip(Cdb::read(0, 1).bytes);
            read.for_each(|(at, byte)| victim.memory.write8(at, byte));
        }
        Ok(victim)
    }

    /// The disk, freshly reset and started, with queue `index` alone.
    pub(super) fn start_queue(
        target: Target,
        index: u16,
        platform: &mut Platform,
    ) -> Result<Victim, DeviceError> {
        let transport = target.transport;
        let features = transport.negotiate(F_INDIRECT)?;
        let queue = transport.queue(index, QUEUE_SIZE, features, &mut platform.pool)?;
        let memory = platform.pool.take_zeroed(DATA + u64::from(DATA_LEN), 4096);
        let memory = memory.ok_or(DeviceError::Memory)?;
        transport.start();
        Ok(Victim { target, queue, memory })
    }

    /// Descriptors of the good read: header, then data and answer in the device's order.
    pub(super) fn good(&self) -> [Descriptor; 3] {
        let at = |offset, len: u64, flags, next| Descriptor {
            address: self.memory.address() + offset,
            len: u32::try_from(len).unwrap_or(0),
            flags,
            next,
        };
        match self.target.on {
            Bus::Blk => {
                [at(0, 16, NEXT, 1), at(DATA, 512, NEXT | WRITE, 2), at(ANSWER, 1, WRITE, 0)]
            }
            Bus::Scsi => [
                at(0, HEADER_LEN, NEXT, 1),
                at(ANSWER, ANSWER_LEN, NEXT | WRITE, 2),
                at(DATA, DATA_LEN.into(), WRITE, 0),
            ],
        }
    }

    /// Puts the chain in the queue from descriptor 0 on and offers `head`; then the device is
    /// reset.
    #[inline(never)]
    fn offer(mut self, chain: &[Descriptor], head: u16) -> Result<(), DeviceError> {
        (0..).zip(chain).for_each(|(index, descriptor)| self.queue.describe(index, *descriptor));
        self.queue.push(head);
        self.queue.kick();
        self.queue.notify();
        react();
        self.target.transport.reset()
    }
}

/// Chains that come back to themselves, at every place, and heads that are no descriptors.
pub(super) fn loops(target: Target, platform: &mut Platform) -> Result<(), DeviceError> {
    let mark = platform.pool.mark();
    for (last, next) in [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)] {
        let victim = Victim::start(target, platform)?;
        let mut chain = victim.good();
        if let Some(descriptor) = chain.get_mut(last) {
            *descriptor = Descriptor { flags: descriptor.flags | NEXT, next, ..*descriptor };
        }
        victim.offer(&chain, 0)?;
        platform.pool.release(mark);
    }
    for (next, head) in [(QUEUE_SIZE, 0), (0xFFFF, 0), (1, QUEUE_SIZE), (1, 0xFFFF)] {
        let victim = Victim::start(target, platform)?;
        let [header, middle, last] = victim.good();
        victim.offer(&[Descriptor { next, ..header }, middle, last], head)?;
        platform.pool.release(mark);
    }
    Ok(())
}

/// Rings and buffers outside memory, lengths beyond its end, more available than there is.
pub(super) fn wild(target: Target, platform: &mut Platform) -> Result<(), DeviceError> {
    let mark = platform.pool.mark();
    for nowhere in NOWHERE {
        for part in 0..3 {
            let victim = Victim::start(target, platform)?;
            let mut chain = victim.good();
            if let Some(descriptor) = chain.get_mut(part) {
                descriptor.address = nowhere;
            }
            victim.offer(&chain, 0)?;
            platform.pool.release(mark);
        }
        for register in [common::QUEUE_DESC, common::QUEUE_DRIVER, common::QUEUE_DEVICE] {
            ring_at(target, platform, register, nowhere)?;
            platform.pool.release(mark);
        }
    }
    // The device would write over this guest if it took the data's length as it is.
    let lengths: [fn(u32) -> u32; 3] = [|_| 0, |len| len.saturating_sub(1), |_| u32::MAX];
    for (part, change) in (0..3).flat_map(|part| lengths.map(|change| (part, change))) {
        let victim = Victim::start(target, platform)?;
        let mut chain = victim.good();
        match chain.get_mut(part) {
            Some(part) if change(part.len) < part.len || part.flags & WRITE == 0 => {
                part.len = change(part.len);
            }
            _ => continue,
        }
        victim.offer(&chain, 0)?;
        platform.pool.release(mark);
    }
    // Nothing to write to, only things to write to, and a header alone.
    let victim = Victim::start(target, platform)?;
    let readable = victim.good().map(|part| Descriptor { flags: part.flags & !WRITE, ..part });
    victim.offer(&readable, 0)?;
    let victim = Victim::start(target, platform)?;
    let writable = victim.good().map(|part| Descriptor { flags: part.flags | WRITE, ..part });
    victim.offer(&writable, 0)?;
    let victim = Victim::start(target, platform)?;
    let [header, ..] = victim.good();
    victim.offer(&[Descriptor { flags: 0, ..header }], 0)?;
    // An available index that is further ahead than the queue is long.
    let mut victim = Victim::start(target, platform)?;
    (0..=QUEUE_SIZE).for_each(|_| victim.queue.push(0));
    let chain = victim.good();
    victim.offer(&chain, 0)?;
    platform.pool.release(mark);
    Ok(())
}

/// Starts the disk with one part of its queue outside memory, and notifies it.
fn ring_at(
    target: Target,
    platform: &mut Platform,
    register: u64,
    address: u64,
) -> Result<(), DeviceError> {
    let (transport, queue) = (target.transport, request_queue(target));
    transport.negotiate(0)?;
    let ring = platform.pool.take_zeroed(4096, 4096).ok_or(DeviceError::Memory)?;
    let common = transport.common;
    let (doorbell, offset) = transport.doorbell(queue);
    common.write16(common::QUEUE_SIZE, QUEUE_SIZE);
    let parts =
        [(common::QUEUE_DESC, 0), (common::QUEUE_DRIVER, 1024), (common::QUEUE_DEVICE, 2048)];
    for (part, place) in parts {
        let address = if part == register { address } else { ring.address() + place };
        common.write64_halves(part, address);
    }
    common.write16(common::QUEUE_ENABLE, 1);
    transport.start();
    // One entry available, in the ring that is in memory.
    ring.write16(1024 + 2, 1);
    doorbell.write16(offset, queue);
    react();
    transport.reset()
}

/// Tables of odd lengths, outside memory, inside tables, with loops and with ends missing.
pub(super) fn indirect(target: Target, platform: &mut Platform) -> Result<(), DeviceError> {
    let mark = platform.pool.mark();
    for case in 0..9 {
        let victim = Victim::start(target, platform)?;
        let table = victim.memory.part(1024, 1024);
        let mut inside = victim.good();
        let mut outside =
            Descriptor { address: table.address(), len: 48, flags: INDIRECT, next: 0 };
        let [header, middle, last] = &mut inside;
        match case {
            0 => outside.len = 0,
            1 => outside.len = 47,
            2 => outside.len = !15,
            3 => outside.address = 1 << 45,
            4 => outside.flags |= NEXT,
            5 => header.flags |= INDIRECT,
            6 => last.flags |= NEXT,
            7 => middle.next = 3,
            _ => outside.flags |= WRITE,
        }
        (0..).zip(inside).for_each(|(at, part)| write_descriptor(table, at * 16, part));
        victim.offer(&[outside], 0)?;
        platform.pool.release(mark);
    }
    Ok(())
}
