//! virtio-pmem (virtio 1.3, 5.19).
#![forbid(unsafe_code)]

use super::queue::{Descriptor, NEXT, WRITE};
use super::transport::{PATIENCE, Platform, Transport};
use super::{DeviceError, Kind};
use crate::machine::clock;
use crate::machine::memory::Dma;

const CONFIG_START: u64 = 0;
const CONFIG_SIZE: u64 = 8;
const QUEUE: u16 = 0;
/// Type of a flush request.
const FLUSH: u32 = 0;
/// No answer that a device gives: 0 is success, -1 failure.
const NO_ANSWER: u32 = 0x5A5A_5A5A;
const ANSWER: u64 = 8;

/// The memory of device `index` (they count from 0 in the order of the bus), mapped. It stays
/// so when the device is reset.
pub fn memory(index: u64, platform: &mut Platform) -> Result<Dma, DeviceError> {
    let transport = Transport::find(Kind::Pmem, index, platform)?;
    transport.negotiate(0)?;
    let config = transport.device.ok_or(DeviceError::Unreachable("place in memory"))?;
    let word = |at| u64::from(config.read32(at)) | u64::from(config.read32(at + 4)) << 32;
    let (start, size) = (word(CONFIG_START), word(CONFIG_SIZE));
    let Platform { pool, tables, .. } = platform;
    tables.map_memory(start, size, pool).ok_or(DeviceError::Unreachable("memory"))
}

/// Asks device `index` to make durable what was written.
pub fn flush(index: u64, platform: &mut Platform) -> Result<(), DeviceError> {
    let transport = Transport::find(Kind::Pmem, index, platform)?;
    let mark = platform.pool.mark();
    let features = transport.negotiate(0)?;
    let mut queue = transport.queue(QUEUE, 4, features, &mut platform.pool)?;
    let request = platform.pool.take(64, 64).ok_or(DeviceError::Memory)?;
    request.write32(0, FLUSH);
    request.write32(ANSWER, NO_ANSWER);
    let address = request.address();
    queue.describe(0, Descriptor { address, len: 4, flags: NEXT, next: 1 });
    queue.describe(1, Descriptor { address: address + ANSWER, len: 4, flags: WRITE, next: 0 });
    transport.start();
    queue.push(0);
    queue.kick();
    let start = clock::now();
    loop {
        match queue.pop() {
            Some((0, _)) => break,
            Some((id, _)) => return Err(DeviceError::Used { id }),
            None if clock::now().wrapping_sub(start) > PATIENCE => {
                return Err(transport.silence("flush"));
            }
            None => core::hint::spin_loop(),
        }
    }
    let answer = request.read32(ANSWER);
    // Only a device that was reset has let go of the memory.
    transport.reset()?;
    platform.pool.release(mark);
    if answer == 0 { Ok(()) } else { Err(DeviceError::Flush(answer)) }
}
