//! The driver's side of a split virtqueue.
//!
//! Made for throughput: descriptors of a request stay chained, [`Queue::push`] makes one request
//! visible at once, so that a device that is awake need not wait for the rest of a batch,
//! [`Queue::kick`] notifies the device for a whole batch if it asks for that, and [`Queue::pop`]
//! looks at the used ring; interrupts are off.
#![forbid(unsafe_code)]

use core::sync::atomic::{Ordering, fence};

use super::layout::{self, Layout};
use crate::machine::memory::Dma;
use crate::machine::physical::Registers;

/// Descriptor flag: the chain goes on.
pub const NEXT: u16 = 1;
/// Descriptor flag: the device writes.
pub const WRITE: u16 = 2;
/// Descriptor flag: a table of descriptors.
pub const INDIRECT: u16 = 4;
/// Available ring flag: no interrupts, please (without event index).
const NO_INTERRUPT: u16 = 1;
/// Used ring flag: no notifications, please (without event index).
const NO_NOTIFY: u16 = 1;

/// One descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest-physical address.
    pub address: u64,
    /// Length in bytes.
    pub len: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`].
    pub flags: u16,
    /// Index of the next descriptor of the chain.
    pub next: u16,
}

/// A queue that the device knows.
#[derive(Clone, Copy, Debug)]
pub struct Queue {
    index: u16,
    layout: Layout,
    memory: Dma,
    doorbell: (Registers, u64),
    event_index: bool,
    /// Running index of the next available entry.
    next: u16,
    /// What the device was last told of that.
    kicked: u16,
    /// Running index of the next used entry.
    seen: u16,
    /// The device's index when last looked at: a line of memory that both sides fight for.
    used: u16,
}

impl Queue {
    /// A queue in `memory`, which is all zero, with notifications at `doorbell`.
    pub fn new(
        index: u16,
        layout: Layout,
        memory: Dma,
        doorbell: (Registers, u64),
        event_index: bool,
    ) -> Queue {
        let queue = Queue {
            index,
            layout,
            memory,
            doorbell,
            event_index,
            next: 0,
            kicked: 0,
            seen: 0,
            used: 0,
        };
        memory.write16(layout.available, NO_INTERRUPT);
        queue.set_used_event();
        queue
    }

    /// Number of descriptors.
    pub fn size(&self) -> u16 {
        self.layout.size
    }

    /// Writes descriptor `index`.
    pub fn describe(&self, index: u16, descriptor: Descriptor) {
        write_descriptor(self.memory, self.layout.descriptor(index), descriptor);
    }

    /// Makes the chain that starts with descriptor `head` available. A device that sleeps hears of
    /// it with the next [`Queue::kick`].
    #[inline]
    pub fn push(&mut self, head: u16) {
        self.memory.write16(self.layout.available_entry(self.next), head);
        self.next = self.next.wrapping_add(1);
        // Ring entries and descriptors become visible before the index: x86 keeps the order of
        // stores, volatile accesses keep that of the program.
        fence(Ordering::Release);
        self.memory.write16(self.layout.available_index(), self.next);
    }

    /// Notifies the device of what was pushed, if it wants that.
    #[inline]
    pub fn kick(&mut self) {
        if self.next == self.kicked {
            return;
        }
        // The device may have gone to sleep between its last look at the index and ours at its
        // wishes: the index must be out before those are read.
        fence(Ordering::SeqCst);
        let wanted = if self.event_index {
            let event = self.memory.read16(self.layout.available_event());
            layout::passed(event, self.next, self.kicked)
        } else {
            self.memory.read16(self.layout.used) & NO_NOTIFY == 0
        };
        self.kicked = self.next;
        if wanted {
            self.notify();
        }
    }

    /// Notifies the device, wanted or not.
    pub fn notify(&self) {
        let (registers, offset) = self.doorbell;
        registers.write16(offset, self.index);
    }

    /// The next request that the device completed: the head of its chain, and how much the
    /// device wrote.
    #[inline]
    pub fn pop(&mut self) -> Option<(u32, u32)> {
        if self.used == self.seen {
            self.used = self.memory.read16(self.layout.used_index());
            if self.used == self.seen {
                return None;
            }
            fence(Ordering::Acquire);
        }
        let entry = self.layout.used_entry(self.seen);
        let completed = (self.memory.read32(entry), self.memory.read32(entry + 4));
        self.seen = self.seen.wrapping_add(1);
        if self.seen & 0xFFF == 0 {
            self.set_used_event();
        }
        Some(completed)
    }

    /// An event just behind what was seen never comes: interrupts stay off for as long as the
    /// used index takes to come round again. [`Queue::pop`] renews it in time.
    fn set_used_event(&self) {
        self.memory.write16(self.layout.used_event(), self.seen.wrapping_sub(1));
    }
}

/// Writes a descriptor into a table in `memory`.
pub fn write_descriptor(memory: Dma, offset: u64, descriptor: Descriptor) {
    let Descriptor { address, len, flags, next } = descriptor;
    memory.write64(offset, address);
    let rest = u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48;
    memory.write64(offset + 8, rest);
}
