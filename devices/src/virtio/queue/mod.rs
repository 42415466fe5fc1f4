//! Split virtqueues, device side (virtio 1.3, 2.7).
//!
//! The rings are read through pointers that are looked up and checked once, when the queue
//! starts; every field is read once and the value kept, so a driver that rewrites its rings
//! meanwhile only confuses itself. Everything that a ring or a chain can have wrong is a
//! [`RingError`], after which the queue is not used any more: what a driver meant by a broken
//! ring cannot be told. (The virtio-queue crate cuts such chains short and knows no
//! `VIRTQ_AVAIL_F_NO_INTERRUPT`; it serves as the oracle in the tests.)

mod area;
mod chain;
mod inflight;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use memshare::GuestMemory;
use vm_memory::GuestAddress;

use area::Area;
pub use chain::{Chain, Segment, pieces};
pub use inflight::Inflight;

/// Most buffers that a queue can have.
pub const MAX_SIZE: u16 = 32768;

const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;
const FLAGS: usize = 0;
const INDEX: usize = 2;
const RING: usize = 4;
const DESCRIPTOR_LEN: usize = 16;
const USED_LEN: usize = 8;

/// Where a driver put a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueLayout {
    /// Number of buffers, a power of two.
    pub size: u16,
    /// Address of the descriptor table.
    pub descriptors: u64,
    /// Address of the available ring (driver area).
    pub available: u64,
    /// Address of the used ring (device area).
    pub used: u64,
}

/// Where a device left a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueState {
    /// The queue's number.
    pub index: u16,
    /// Where the driver put it.
    pub layout: QueueLayout,
    /// Index of the next available ring entry that the device would read.
    pub next_available: u16,
    /// Index of the next used ring entry that the device would write.
    pub next_used: u16,
}

/// What is wrong with a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The size is not a power of two, or too large.
    #[error("queue size {0} is not valid")]
    Size(u16),
    /// A part of the queue is misaligned or not in guest memory.
    #[error("the {part} at {address:#x} is misaligned or not in guest memory")]
    Placement {
        /// Which part.
        part: &'static str,
        /// Where it was put.
        address: u64,
    },
    /// More buffers were made available than the queue has.
    #[error("available index {index} is more than the queue's size ahead of used index {used}")]
    Index {
        /// The driver's index.
        index: u16,
        /// The device's.
        used: u16,
    },
    /// A descriptor's number is beyond the table.
    #[error("descriptor {0} is beyond the end of its table")]
    Descriptor(u16),
    /// A chain goes in circles or is longer than a device takes.
    #[error("the chain of descriptor {0} is a loop or too long")]
    Length(u16),
    /// A device-readable descriptor follows a device-writable one.
    #[error("the chain of descriptor {0} has a readable part after a writable one")]
    Order(u16),
    /// An indirect descriptor breaks the rules for them.
    #[error("the chain of descriptor {0} has an indirect table that is not valid")]
    Indirect(u16),
    /// A buffer is not in guest memory.
    #[error("the chain of descriptor {0} has a buffer outside of guest memory")]
    Address(u16),
    /// A chain lacks a part that every request to this device has.
    #[error("the chain of descriptor {0} is too short for a request")]
    Short(u16),
    /// The record of requests in flight is not one of this queue.
    #[error("the record of requests in flight has version {version} and {entries} entries")]
    Inflight {
        /// The version that it says it has.
        version: u16,
        /// The buffers that it says it is for.
        entries: u16,
    },
}

/// The device's side of one split virtqueue.
pub struct Queue {
    memory: Arc<GuestMemory>,
    layout: QueueLayout,
    descriptors: Area,
    available: Area,
    used: Area,
    event_idx: bool,
    next_available: u16,
    next_used: u16,
    /// What of `next_used` the driver can see.
    published: u16,
    /// `published` when an interrupt was last decided on.
    decided: u16,
    /// What a successor of this process is left, if anyone keeps it.
    inflight: Option<Box<Inflight>>,
}

impl Queue {
    /// A fresh queue at `layout` in `memory`, whose driver and device agreed on
    /// `VIRTIO_F_EVENT_IDX` or not.
    pub fn new(
        layout: QueueLayout,
        memory: Arc<GuestMemory>,
        event_idx: bool,
    ) -> Result<Queue, RingError> {
        Queue::resume(layout, memory, event_idx, 0)
    }

    /// A queue that was left when `next` was the next available entry to read, and every request
    /// before it was answered. Otherwise as [`Queue::new`].
    pub fn resume(
        layout: QueueLayout,
        memory: Arc<GuestMemory>,
        event_idx: bool,
        next: u16,
    ) -> Result<Queue, RingError> {
        if !layout.size.is_power_of_two() || layout.size > MAX_SIZE {
            return Err(RingError::Size(layout.size));
        }
        let size = usize::from(layout.size);
        let area = |part, address, len, align| {
            Area::new(&memory, GuestAddress(address), len, align)
                .ok_or(RingError::Placement { part, address })
        };
        Ok(Queue {
            descriptors: area("descriptor table", layout.descriptors, DESCRIPTOR_LEN * size, 16)?,
            available: area("available ring", layout.available, RING + 2 * size + 2, 2)?,
            used: area("used ring", layout.used, RING + USED_LEN * size + 2, 4)?,
            memory,
            layout,
            event_idx,
            next_available: next,
            next_used: next,
            published: next,
            decided: next,
            inflight: None,
        })
    }

    /// Keeps a record of the requests in flight in `inflight` from now on. If it was kept before,
    /// the queue goes on where that left off, whatever it was resumed at: requests that were
    /// taken and not answered are taken again first, in their order.
    ///
    /// # Errors
    /// [`RingError::Inflight`] when the record is not one of a queue like this.
    pub fn track(mut self, mut inflight: Inflight) -> Result<Queue, RingError> {
        let used = self.used.load(INDEX, Ordering::Acquire);
        let taken = inflight.recover(used, self.layout.size)?;
        self.next_used = used;
        self.published = used;
        self.decided = used;
        self.next_available = used.wrapping_add(taken);
        self.inflight = Some(Box::new(inflight));
        Ok(self)
    }

    /// Guest memory, as it was when the queue started.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Number of buffers.
    pub fn size(&self) -> u16 {
        self.layout.size
    }

    /// Where the queue stands; `index` is its number.
    pub fn state(&self, index: u16) -> QueueState {
        QueueState {
            index,
            layout: self.layout,
            next_available: self.next_available,
            next_used: self.next_used,
        }
    }

    /// Takes the next available chain into `chain`; `false` when there is none. The chain's
    /// buffers are not checked for being in guest memory: accesses to them are.
    pub fn pop(&mut self, chain: &mut Chain) -> Result<bool, RingError> {
        if let Some(inflight) = &mut self.inflight
            && let Some(head) = inflight.again()
        {
            chain.walk(head, &self.descriptors, self.layout.size, &self.memory)?;
            inflight.taken_again();
            return Ok(true);
        }
        let index = self.available.load(INDEX, Ordering::Acquire);
        if index == self.next_available {
            return Ok(false);
        }
        // Includes chains taken but not used yet: more than `size` cannot be outstanding.
        if index.wrapping_sub(self.next_used) > self.layout.size {
            return Err(RingError::Index { index, used: self.next_used });
        }
        let slot = usize::from(self.next_available & (self.layout.size - 1));
        let head = self.available.load(RING + 2 * slot, Ordering::Relaxed);
        chain.walk(head, &self.descriptors, self.layout.size, &self.memory)?;
        if let Some(inflight) = &mut self.inflight {
            inflight.taken(head);
        }
        self.next_available = self.next_available.wrapping_add(1);
        Ok(true)
    }

    /// Whether there is a chain to take, or an error to find.
    pub fn has_available(&self) -> bool {
        self.available.load(INDEX, Ordering::Relaxed) != self.next_available
            || self.inflight.as_ref().is_some_and(|inflight| inflight.again().is_some())
    }

    /// Returns the chain that began with `head`, of whose device-writable part `written` bytes
    /// were written. The driver sees it after [`Queue::publish`].
    pub fn push_used(&mut self, head: u16, written: u32) {
        let slot = usize::from(self.next_used & (self.layout.size - 1));
        self.used.store_used(RING + USED_LEN * slot, u32::from(head), written);
        self.next_used = self.next_used.wrapping_add(1);
        if let Some(inflight) = &mut self.inflight {
            inflight.used(head);
        }
    }

    /// Shows the driver what was used.
    pub fn publish(&mut self) {
        if self.published != self.next_used {
            self.used.store(INDEX, self.next_used, Ordering::Release);
            self.published = self.next_used;
            if let Some(inflight) = &mut self.inflight {
                inflight.published(self.next_used);
            }
        }
    }

    /// Whether the driver wants a notification for what was published since the last call.
    pub fn needs_notification(&mut self) -> bool {
        let (old, new) = (self.decided, self.published);
        if old == new {
            return false;
        }
        self.decided = new;
        // The index must be visible before the driver's wish is read: a driver writes its wish
        // and reads the index afterwards.
        fence(Ordering::SeqCst);
        if self.event_idx {
            let size = usize::from(self.layout.size);
            let event = self.available.load(RING + 2 * size, Ordering::Relaxed);
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.available.load(FLAGS, Ordering::Relaxed) & NO_INTERRUPT == 0
        }
    }

    /// Asks the driver not to notify while the device looks at the ring anyway.
    pub fn suppress_notifications(&self) {
        // With event indices the one of the last arming is simply left behind: the driver
        // notifies when it steps over it, which it has done or does once more at most.
        if !self.event_idx {
            self.used.store(FLAGS, NO_NOTIFY, Ordering::Relaxed);
        }
    }

    /// Asks the driver to notify of the next chain. Returns whether there is one already, of
    /// which it may not have notified.
    pub fn request_notifications(&self) -> bool {
        if self.event_idx {
            let size = usize::from(self.layout.size);
            self.used.store(RING + USED_LEN * size, self.next_available, Ordering::Relaxed);
        } else {
            self.used.store(FLAGS, 0, Ordering::Relaxed);
        }
        // The wish must be visible before the index is read again.
        fence(Ordering::SeqCst);
        self.has_available()
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("layout", &self.layout)
            .field("next_available", &self.next_available)
            .field("next_used", &self.next_used)
            .finish_non_exhaustive()
    }
}
