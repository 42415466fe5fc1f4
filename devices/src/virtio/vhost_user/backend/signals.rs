//! How a device tells a front end's driver something: by eventfds, which may change at any time.

use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use super::fds;
use crate::limited::warn_limited;
use crate::sync::lock;
use crate::virtio::device::Transport;

/// The eventfds of all queues.
pub(super) struct Signals {
    queues: Box<[Queue]>,
}

#[derive(Default)]
struct Queue {
    call: Slot,
    error: Slot,
}

/// An eventfd that is signalled by some threads and replaced by another.
#[derive(Default)]
struct Slot(Mutex<Option<Arc<EventFd>>>);

impl Slot {
    fn set(&self, event: Option<EventFd>) {
        *lock(&self.0) = event.map(Arc::new);
    }

    fn signal(&self) {
        // The lock is not held for the write, which is the peer's to make slow.
        let event = lock(&self.0).clone();
        if let Some(event) = event {
            // Full only if nobody has looked for 2^64 - 1 signals, or wants none.
            let _ = event.write(1);
        }
    }
}

impl Signals {
    pub(super) fn new(queues: usize) -> Signals {
        Signals { queues: (0..queues).map(|_| Queue::default()).collect() }
    }

    /// Sets what used buffer notifications of `queue` go to.
    pub(super) fn set_call(&self, queue: usize, event: Option<EventFd>) {
        if let Some(queue) = self.queues.get(queue) {
            queue.call.set(event);
            // What the one before was told may not have been heard.
            queue.call.signal();
        }
    }

    /// Sets what is signalled when `queue` is broken.
    pub(super) fn set_error(&self, queue: usize, event: Option<EventFd>) {
        if let Some(queue) = self.queues.get(queue) {
            queue.error.set(event);
        }
    }
}

impl Signals {
    /// Frees threads that wait to signal an eventfd, which can only be if the front end made it
    /// blocking again and filled it.
    pub(super) fn free_waiting(&self) {
        let slots = self.queues.iter().flat_map(|queue| [&queue.call, &queue.error]);
        for event in slots.filter_map(|slot| lock(&slot.0).clone()) {
            fds::drain_if_blocking(&event);
        }
    }
}

impl Transport for Signals {
    fn notify_used(&self, queue: u16) {
        if let Some(queue) = self.queues.get(usize::from(queue)) {
            queue.call.signal();
        }
    }

    /// The front end asked for no channel on which it could be told.
    fn notify_config(&self) {}

    fn needs_reset(&self) {
        warn_limited!("a device behind vhost-user needs a reset by its driver");
        for queue in &self.queues {
            queue.error.signal();
        }
    }
}
