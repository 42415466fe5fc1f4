//! What a device's threads and its virtual CPUs both use of the transport: interrupts, and the
//! parts of the status that a device changes by itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use crate::pci::msix::Msix;
use crate::sync::lock;
use crate::virtio::device::Transport;

/// "No vector" (virtio 1.3, 4.1.5.1.2).
pub(super) const NO_VECTOR: u16 = 0xFFFF;

const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// Interrupt state of a function, shared with its device's threads.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) msix: Msix,
    isr: AtomicU8,
    config_vector: AtomicU16,
    queue_vectors: Box<[AtomicU16]>,
    /// Events that are used buffer notifications, by queue. Held while a queue's vector changes.
    direct: Mutex<BTreeMap<u16, Arc<EventFd>>>,
    needs_reset: AtomicBool,
    generation: AtomicU8,
}

impl Shared {
    pub(super) fn new(msix: Msix, queues: usize) -> Shared {
        Shared {
            msix,
            isr: AtomicU8::new(0),
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            direct: Mutex::default(),
            needs_reset: AtomicBool::new(false),
            generation: AtomicU8::new(0),
        }
    }

    /// Back to how it was when the machine started. The configuration generation goes on.
    pub(super) fn reset(&self) {
        self.isr.store(0, Ordering::Relaxed);
        self.needs_reset.store(false, Ordering::Relaxed);
        self.config_vector.store(NO_VECTOR, Ordering::Relaxed);
        let mut direct = lock(&self.direct);
        for (queue, event) in std::mem::take(&mut *direct) {
            self.msix.detach(self.queue_vector(queue), &event);
        }
        for vector in &self.queue_vectors {
            vector.store(NO_VECTOR, Ordering::Relaxed);
        }
        drop(direct);
        self.msix.clear_pending();
    }

    /// Reads the ISR status, which clears it.
    pub(super) fn take_isr(&self) -> u8 {
        self.isr.swap(0, Ordering::Relaxed)
    }

    pub(super) fn is_broken(&self) -> bool {
        self.needs_reset.load(Ordering::Relaxed)
    }

    pub(super) fn generation(&self) -> u8 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn config_vector(&self) -> u16 {
        self.config_vector.load(Ordering::Relaxed)
    }

    pub(super) fn set_config_vector(&self, vector: u16) {
        self.config_vector.store(self.existing(vector), Ordering::Relaxed);
    }

    /// The vector of a queue; none for a queue that does not exist.
    pub(super) fn queue_vector(&self, queue: u16) -> u16 {
        let vector = self.queue_vectors.get(usize::from(queue));
        vector.map_or(NO_VECTOR, |vector| vector.load(Ordering::Relaxed))
    }

    pub(super) fn set_queue_vector(&self, queue: u16, vector: u16) {
        if let Some(to) = self.queue_vectors.get(usize::from(queue)) {
            let direct = lock(&self.direct);
            let new = self.existing(vector);
            let old = to.swap(new, Ordering::Relaxed);
            if let Some(event) = direct.get(&queue).filter(|_| old != new) {
                self.msix.detach(old, event);
                self.msix.attach(new, event);
            }
        }
    }

    /// A driver reads back "no vector" when it asked for one that does not exist.
    fn existing(&self, vector: u16) -> u16 {
        if usize::from(vector) < self.msix.len() { vector } else { NO_VECTOR }
    }

    fn interrupt(&self, vector: u16) {
        if vector != NO_VECTOR {
            self.msix.signal(vector);
        }
    }
}

impl Transport for Shared {
    fn notify_used(&self, queue: u16) {
        if !self.msix.enabled() {
            self.isr.fetch_or(ISR_QUEUE, Ordering::Relaxed);
        }
        self.interrupt(self.queue_vector(queue));
    }

    fn connect_used(&self, queue: u16, event: &Arc<EventFd>) {
        let mut direct = lock(&self.direct);
        if let Some(before) = direct.insert(queue, Arc::clone(event)) {
            self.msix.detach(self.queue_vector(queue), &before);
        }
        self.msix.attach(self.queue_vector(queue), event);
    }

    fn disconnect_used(&self, queue: u16) {
        let mut direct = lock(&self.direct);
        if let Some(event) = direct.remove(&queue) {
            self.msix.detach(self.queue_vector(queue), &event);
        }
    }

    fn notify_config(&self) {
        self.generation.fetch_add(1, Ordering::Release);
        self.isr.fetch_or(ISR_CONFIG, Ordering::Relaxed);
        self.interrupt(self.config_vector());
    }

    fn needs_reset(&self) {
        self.needs_reset.store(true, Ordering::Relaxed);
        self.isr.fetch_or(ISR_CONFIG, Ordering::Relaxed);
        self.interrupt(self.config_vector());
    }
}
