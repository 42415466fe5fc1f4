//! What a front end has said about one queue.

use std::sync::Arc;

use memshare::GuestMemory;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::memory::Regions;
use super::refusal::Refusal;
use crate::virtio::device::StartedQueue;
use crate::virtio::queue::{Inflight, Queue, QueueLayout};

/// One queue.
pub(super) struct Ring {
    /// Number of buffers; 0 before it is known.
    pub(super) size: u16,
    pub(super) addresses: Option<Addresses>,
    /// The available ring entry to go on with.
    pub(super) base: u16,
    /// Signalled by the driver. The queue is started while there is one.
    pub(super) kick: Option<EventFd>,
    pub(super) enabled: bool,
    /// It is not in memory at the moment: a front end that moves a region takes it away first.
    pub(super) stalled: bool,
    /// The device works on it.
    pub(super) running: bool,
}

/// Where the parts of a queue are in the front end's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
}

impl Ring {
    /// A queue of which nothing is known.
    pub(super) fn new() -> Ring {
        Ring {
            size: 0,
            addresses: None,
            base: 0,
            kick: None,
            enabled: false,
            stalled: false,
            running: false,
        }
    }

    /// The queue as a device takes it, which goes on where it was left.
    pub(super) fn start(
        &self,
        index: u16,
        regions: &Regions,
        memory: &Arc<GuestMemory>,
        event_idx: bool,
        inflight: Option<Inflight>,
    ) -> Result<StartedQueue, Refusal> {
        let number = usize::from(index);
        let addresses = self.addresses.ok_or(Refusal::NoAddresses(number))?;
        let layout = QueueLayout {
            size: self.size,
            descriptors: regions.translate(addresses.descriptors)?,
            available: regions.translate(addresses.available)?,
            used: regions.translate(addresses.used)?,
        };
        let queue = Queue::resume(layout, Arc::clone(memory), event_idx, self.base)
            .and_then(|queue| match inflight {
                Some(inflight) => queue.track(inflight),
                None => Ok(queue),
            })
            .map_err(|source| Refusal::Queue { index: number, source })?;
        let doorbell = match &self.kick {
            Some(kick) => kick.try_clone(),
            None => EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC),
        };
        let doorbell =
            doorbell.map_err(|source| Refusal::Host { what: "keep a doorbell", source })?;
        Ok(StartedQueue { index, queue, doorbell })
    }
}
