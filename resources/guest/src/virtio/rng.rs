//! virtio-rng (virtio 1.2, 5.4).
#![forbid(unsafe_code)]

use super::queue::{Descriptor, WRITE};
use super::transport::{PATIENCE, Platform, Transport};
use super::{DeviceError, Kind};
use crate::machine::clock;

/// Bytes asked for at once.
const CHUNK: u64 = 4096;
const QUEUE: u16 = 0;

/// Reads `len` random bytes and gives them to `take`, piece by piece.
pub fn read(
    len: u64,
    platform: &mut Platform,
    mut take: impl FnMut(u8),
) -> Result<(), DeviceError> {
    let transport = Transport::find(Kind::Rng, 0, platform)?;
    let mark = platform.pool.mark();
    let features = transport.negotiate(0)?;
    let mut queue = transport.queue(QUEUE, 4, features, &mut platform.pool)?;
    let buffer = platform.pool.take(CHUNK, CHUNK).ok_or(DeviceError::Memory)?;
    transport.start();
    let mut left = len;
    while left > 0 {
        let wanted = u32::try_from(left.min(CHUNK)).unwrap_or(u32::MAX);
        let address = buffer.address();
        queue.describe(0, Descriptor { address, len: wanted, flags: WRITE, next: 0 });
        queue.push(0);
        queue.kick();
        let start = clock::now();
        let written = loop {
            match queue.pop() {
                Some((0, written)) if (1..=wanted).contains(&written) => break written,
                Some((id, _)) => return Err(DeviceError::Used { id }),
                None if clock::now().wrapping_sub(start) > PATIENCE => {
                    return Err(transport.silence("random bytes"));
                }
                None => core::hint::spin_loop(),
            }
        };
        (0..u64::from(written)).for_each(|at| take(buffer.read8(at)));
        left -= u64::from(written);
    }
    // Only a device that was reset has let go of the memory.
    transport.reset()?;
    platform.pool.release(mark);
    Ok(())
}
