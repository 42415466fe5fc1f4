//! virtio-console (virtio 1.2, 5.3): output on its first port.
#![forbid(unsafe_code)]

use core::fmt::{self, Write};

use super::queue::Descriptor;
use super::transport::{PATIENCE, Platform, Transport};
use super::{DeviceError, Kind};
use crate::machine::clock;
use crate::machine::memory::Dma;

/// Transmit queue of port 0.
const TRANSMIT: u16 = 1;
/// Longest line: what a command line holds.
const LINE_MAX: u64 = crate::boot::COMMAND_LINE_MAX as u64 + 1;

/// Prints a line.
pub fn print(line: fmt::Arguments<'_>, platform: &mut Platform) -> Result<(), DeviceError> {
    let transport = Transport::find(Kind::Console, 0, platform)?;
    let mark = platform.pool.mark();
    let features = transport.negotiate(0)?;
    // The receive queue stays away: without buffers in it the device cannot send anyway.
    let mut queue = transport.queue(TRANSMIT, 4, features, &mut platform.pool)?;
    let buffer = platform.pool.take(LINE_MAX, 4096).ok_or(DeviceError::Memory)?;
    transport.start();
    let mut text = Buffer { memory: buffer, len: 0 };
    // A line that is too long is cut.
    let _ = writeln!(text, "{line}");
    let (address, len) = (buffer.address(), text.len);
    queue.describe(0, Descriptor { address, len, flags: 0, next: 0 });
    queue.push(0);
    queue.kick();
    let start = clock::now();
    while queue.pop().is_none() {
        core::hint::spin_loop();
        if clock::now().wrapping_sub(start) > PATIENCE {
            return Err(transport.silence("console output"));
        }
    }
    transport.reset()?;
    platform.pool.release(mark);
    Ok(())
}

/// Text on its way into memory that the device reads.
struct Buffer {
    memory: Dma,
    len: u32,
}

impl fmt::Write for Buffer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if u64::from(self.len) >= self.memory.len() {
                return Err(fmt::Error);
            }
            self.memory.write8(u64::from(self.len), byte);
            self.len += 1;
        }
        Ok(())
    }
}
