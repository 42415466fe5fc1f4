//! Input of a console, from the host's thread to the device's.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::input::{ConsoleInput, Room};
use crate::sync::lock;

/// Bytes that wait for a driver at most.
const CAPACITY: usize = 4096;

/// Bytes that the guest has not received yet.
pub(super) struct InputBuffer {
    bytes: Mutex<VecDeque<u8>>,
    arrived: EventFd,
    room: Room,
}

impl InputBuffer {
    pub(super) fn new() -> io::Result<InputBuffer> {
        Ok(InputBuffer {
            bytes: Mutex::default(),
            arrived: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            room: Room::new()?,
        })
    }

    /// Signalled when bytes arrive.
    pub(super) fn arrived(&self) -> &EventFd {
        &self.arrived
    }

    /// Whether there are bytes.
    pub(super) fn is_waiting(&self) -> bool {
        !lock(&self.bytes).is_empty()
    }

    /// Takes up to `max` bytes out.
    pub(super) fn take(&self, max: u64) -> Vec<u8> {
        let mut bytes = lock(&self.bytes);
        let count = bytes.len().min(usize::try_from(max).unwrap_or(usize::MAX));
        let taken = bytes.drain(..count).collect();
        self.room.taken();
        taken
    }
}

/// The host's end of a virtio console's input.
#[derive(Clone)]
pub struct VirtioConsoleInput(Arc<InputBuffer>);

impl VirtioConsoleInput {
    pub(super) fn new(buffer: Arc<InputBuffer>) -> VirtioConsoleInput {
        VirtioConsoleInput(buffer)
    }
}

impl ConsoleInput for VirtioConsoleInput {
    fn push(&self, bytes: &[u8]) -> usize {
        let InputBuffer { bytes: waiting, arrived, room } = &*self.0;
        let mut waiting = lock(waiting);
        let taken = bytes.len().min(CAPACITY.saturating_sub(waiting.len()));
        waiting.extend(bytes.iter().take(taken));
        room.pushed(taken == bytes.len());
        if taken > 0 {
            // Full only if written 2^64 - 1 times.
            let _ = arrived.write(1);
        }
        taken
    }

    fn room(&self) -> &EventFd {
        self.0.room.event()
    }
}

impl fmt::Debug for VirtioConsoleInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VirtioConsoleInput")
    }
}
