//! Console input on its way into a guest.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// The host's end of a console's input: a small buffer, which the guest empties when it likes.
pub trait ConsoleInput: Send + Sync {
    /// Hands `bytes` over, as many as there is room for; the result says how many. Nothing is
    /// dropped: offer the rest again when [`ConsoleInput::room`] says so.
    fn push(&self, bytes: &[u8]) -> usize;
    /// Readable when a push that took less than it was offered is worth repeating. Only
    /// [`ConsoleInput::push`] clears it.
    fn room(&self) -> &EventFd;
}

/// How a console says that there is room again, to a pusher that waits and to nobody else.
#[derive(Debug)]
pub(crate) struct Room {
    wanted: AtomicBool,
    event: EventFd,
}

impl Room {
    pub(crate) fn new() -> io::Result<Room> {
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        Ok(Room { wanted: AtomicBool::new(false), event })
    }

    pub(crate) fn event(&self) -> &EventFd {
        &self.event
    }

    /// A push was made, under the lock of the buffer, and all of it fitted, or not.
    pub(crate) fn pushed(&self, all: bool) {
        // Not readable when nothing was signalled, which is as good.
        let _ = self.event.read();
        self.wanted.store(!all, Ordering::Relaxed);
    }

    /// Bytes were taken from the buffer, under its lock.
    pub(crate) fn taken(&self) {
        if self.wanted.swap(false, Ordering::Relaxed) {
            // Cannot fail: the counter is cleared long before it is full.
            let _ = self.event.write(1);
        }
    }
}
