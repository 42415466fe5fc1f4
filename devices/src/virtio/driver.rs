//! The driver's side of a split virtqueue, and what a device is started with, for tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use memshare::{GuestMemory, MemoryHandle};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::device::{Activation, StartedQueue, Transport};
use super::queue::{Queue, QueueLayout};

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// Bytes of guest memory in tests.
pub(crate) const MEMORY: u64 = MEMORY_LEN as u64;
const MEMORY_LEN: usize = 16 << 20;

pub(crate) fn memory() -> MemoryHandle {
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY_LEN)]).unwrap();
    MemoryHandle::new(memory)
}

/// One buffer: address, length, whether the device may write it.
pub(crate) type Buffer = (u64, u32, bool);

/// A driver that adds chains and takes them back.
pub(crate) struct Driver {
    memory: Arc<GuestMemory>,
    pub(crate) layout: QueueLayout,
    pub(crate) doorbell: EventFd,
    event_idx: bool,
    /// Descriptors that are not in use.
    free: Vec<u16>,
    /// Descriptors of the chain that began with this one.
    chains: Vec<Vec<u16>>,
    next_available: u16,
    next_used: u16,
}

impl Driver {
    /// A driver whose rings are in the 64 KiB from `at` on.
    pub(crate) fn new(memory: Arc<GuestMemory>, at: u64, size: u16, event_idx: bool) -> Driver {
        let layout =
            QueueLayout { size, descriptors: at, available: at + 0x4000, used: at + 0x8000 };
        memory.write_slice(&[0; 0x10000], GuestAddress(at)).unwrap();
        Driver {
            memory,
            layout,
            doorbell: EventFd::new(EFD_NONBLOCK).unwrap(),
            event_idx,
            free: (0..size).rev().collect(),
            chains: vec![Vec::new(); size.into()],
            next_available: 0,
            next_used: 0,
        }
    }

    /// The device's side.
    pub(crate) fn queue(&self) -> Queue {
        Queue::new(self.layout, self.memory.clone(), self.event_idx).unwrap()
    }

    pub(crate) fn started(&self, index: u16) -> StartedQueue {
        StartedQueue { index, queue: self.queue(), doorbell: self.doorbell.try_clone().unwrap() }
    }

    pub(crate) fn write<T: vm_memory::ByteValued>(&self, at: u64, value: T) {
        self.memory.write_obj(value, GuestAddress(at)).unwrap();
    }

    fn load(&self, at: u64) -> u16 {
        self.memory.load(GuestAddress(at), Ordering::Acquire).unwrap()
    }

    pub(crate) fn set_descriptor(
        &self,
        at: u64,
        (address, len): (u64, u32),
        flags: u16,
        next: u16,
    ) {
        self.write(at, address);
        self.write(at + 8, len);
        self.write(at + 12, flags);
        self.write(at + 14, next);
    }

    /// Makes a chain of `buffers` available; `None` when there are too few descriptors.
    pub(crate) fn add(&mut self, buffers: &[Buffer]) -> Option<u16> {
        if buffers.is_empty() || self.free.len() < buffers.len() {
            return None;
        }
        let chain = self.free.split_off(self.free.len() - buffers.len());
        for (at, (&number, &(address, len, writable))) in chain.iter().zip(buffers).enumerate() {
            let next = chain.get(at + 1);
            let flags = if writable { WRITE } else { 0 } | if next.is_some() { NEXT } else { 0 };
            let place = self.layout.descriptors + 16 * u64::from(number);
            self.set_descriptor(place, (address, len), flags, next.copied().unwrap_or(0));
        }
        let head = chain[0];
        self.chains[usize::from(head)] = chain;
        self.offer(head);
        Some(head)
    }

    /// The same through an indirect table at `table`.
    pub(crate) fn add_indirect(&mut self, table: u64, buffers: &[Buffer]) -> Option<u16> {
        let number = self.free.pop()?;
        for (at, &(address, len, writable)) in (0u16..).zip(buffers) {
            let last = usize::from(at) + 1 == buffers.len();
            let flags = if writable { WRITE } else { 0 } | if last { 0 } else { NEXT };
            self.set_descriptor(table + 16 * u64::from(at), (address, len), flags, at + 1);
        }
        let len = u32::try_from(16 * buffers.len()).unwrap();
        let place = self.layout.descriptors + 16 * u64::from(number);
        self.set_descriptor(place, (table, len), INDIRECT, 0);
        self.chains[usize::from(number)] = vec![number];
        self.offer(number);
        Some(number)
    }

    /// Puts any number into the available ring, and shows it.
    pub(crate) fn offer(&mut self, head: u16) {
        let slot = u64::from(self.next_available % self.layout.size);
        self.write(self.layout.available + 4 + 2 * slot, head);
        self.next_available = self.next_available.wrapping_add(1);
        self.set_available_index(self.next_available);
    }

    pub(crate) fn set_available_index(&self, index: u16) {
        self.memory
            .store(index, GuestAddress(self.layout.available + 2), Ordering::Release)
            .unwrap();
    }

    /// Whether the device wants to be notified of chains added since `old`.
    pub(crate) fn must_notify(&self, old: u16) -> bool {
        fence(Ordering::SeqCst);
        if self.event_idx {
            let event = self.load(self.layout.used + 4 + 8 * u64::from(self.layout.size));
            let new = self.next_available;
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.load(self.layout.used) & 1 == 0
        }
    }

    /// Rings the doorbell if the device wants to be notified of chains added since `old`.
    pub(crate) fn notify_since(&self, old: u16) -> bool {
        let must = self.must_notify(old);
        if must {
            self.doorbell.write(1).unwrap();
        }
        must
    }

    /// Index of the next available entry.
    pub(crate) fn position(&self) -> u16 {
        self.next_available
    }

    /// Asks for an interrupt when anything more is used.
    pub(crate) fn want_interrupt(&self) {
        let event = self.layout.available + 4 + 2 * u64::from(self.layout.size);
        self.write(event, self.next_used);
        fence(Ordering::SeqCst);
    }

    /// Takes a used chain back: its head and the length.
    pub(crate) fn take_used(&mut self) -> Option<(u16, u32)> {
        if self.load(self.layout.used + 2) == self.next_used {
            return None;
        }
        let slot = u64::from(self.next_used % self.layout.size);
        let at = GuestAddress(self.layout.used + 4 + 8 * slot);
        let [head, len]: [u32; 2] = self.memory.read_obj(at).unwrap();
        self.next_used = self.next_used.wrapping_add(1);
        let head = u16::try_from(head).unwrap();
        self.free.append(&mut self.chains[usize::from(head)]);
        Some((head, len))
    }

    /// Waits for a used chain.
    pub(crate) fn await_used(&mut self) -> (u16, u32) {
        for _ in 0..60_000 {
            if let Some(used) = self.take_used() {
                return used;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("the device did not answer");
    }
}

/// Counts what a device tells its driver.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) used: AtomicU64,
    pub(crate) needs_reset: AtomicU64,
}

impl Told {
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::SeqCst)
    }

    pub(crate) fn await_needs_reset(&self) {
        for _ in 0..60_000 {
            if self.needs_reset.load(Ordering::SeqCst) > 0 {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("the device did not ask for a reset");
    }
}

impl Transport for Told {
    fn notify_used(&self, _queue: u16) {
        self.used.fetch_add(1, Ordering::SeqCst);
    }
    fn notify_config(&self) {}
    fn needs_reset(&self) {
        self.needs_reset.fetch_add(1, Ordering::SeqCst);
    }
}

/// What a device with these queues, numbered from 0, is started with.
pub(crate) fn activation(
    memory: &MemoryHandle,
    features: u64,
    drivers: &[&Driver],
    told: &Arc<Told>,
) -> Activation {
    Activation {
        memory: memory.clone(),
        features,
        queues: (0..).zip(drivers).map(|(index, driver)| driver.started(index)).collect(),
        transport: told.clone(),
    }
}
