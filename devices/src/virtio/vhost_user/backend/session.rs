//! A device as one front end has set it up so far.
//!
//! A device starts and stops as a whole, a vhost-user front end its queues one by one. So each
//! change to what runs stops the device, which answers all that it took, and starts it with the
//! queues that run afterwards, each where it was left.

use std::sync::{Arc, Mutex};

use memshare::GuestMemory;
use vhost::vhost_user::VhostUserVirtioFeatures;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::GuestAddressSpace;

use super::memory::Regions;
use super::refusal::Refusal;
use super::ring::Ring;
use super::signals::Signals;
use crate::limited::warn_limited;
use crate::sync::lock;
use crate::virtio::device::{Activation, Transport, VirtioDevice};
use crate::virtio::queue::Inflight;

/// The virtio feature bit by which protocol features are agreed on.
pub(super) const PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

/// Features of rings and transport.
const TRANSPORT_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// Most writes to the configuration that are remembered.
const CONFIG_WRITES_MAX: usize = 16;

/// Memory for the records of requests in flight.
pub(super) struct InflightRecords {
    pub(super) memory: Arc<GuestMemory>,
    pub(super) queues: u16,
    pub(super) size: u16,
}

/// A device that is served to one front end.
pub(super) struct Session {
    pub(super) device: Arc<Mutex<Box<dyn VirtioDevice>>>,
    /// What the device offers, and protocol features.
    pub(super) offered: u64,
    pub(super) features: u64,
    /// Protocol features that were agreed on.
    pub(super) protocol: u64,
    pub(super) regions: Regions,
    pub(super) rings: Vec<Ring>,
    pub(super) signals: Arc<Signals>,
    pub(super) inflight: Option<InflightRecords>,
    /// What the driver wrote to the configuration. A device that stops forgets it.
    config: Vec<(usize, Vec<u8>)>,
    /// Told when the device is reset.
    pub(super) on_reset: Box<dyn Fn() + Send>,
    /// Told how many queues run.
    pub(super) on_change: Box<dyn Fn(usize) + Send>,
    /// The last message was understood, and refused.
    pub(super) refused: bool,
    /// The front end asked for the features, without which it is not answered when it wants to
    /// know whether a message was refused.
    pub(super) introduced: bool,
}

impl Session {
    /// Serves `device`, which is stopped, and tells its driver by `signals`.
    pub(super) fn new(
        device: Arc<Mutex<Box<dyn VirtioDevice>>>,
        signals: Arc<Signals>,
        on_reset: Box<dyn Fn() + Send>,
        on_change: Box<dyn Fn(usize) + Send>,
    ) -> Session {
        let info = lock(&device).info().clone();
        let queues = info.queue_sizes.len();
        Session {
            device,
            offered: info.features | TRANSPORT_FEATURES | PROTOCOL_FEATURES,
            features: 0,
            protocol: 0,
            regions: Regions::default(),
            rings: (0..queues).map(|_| Ring::new()).collect(),
            signals,
            inflight: None,
            config: Vec::new(),
            on_reset,
            on_change,
            refused: false,
            introduced: false,
        }
    }

    /// The queue of this number.
    pub(super) fn ring(&mut self, index: u32) -> Result<(usize, &mut Ring), Refusal> {
        let none = Refusal::NoQueue(index);
        let at = usize::try_from(index).map_err(|_| Refusal::NoQueue(index))?;
        self.rings.get_mut(at).map(|ring| (at, ring)).ok_or(none)
    }

    /// Whether the front end wants the device to work on `ring`.
    fn wants(&self, ring: &Ring) -> bool {
        let started = ring.kick.is_some() && !ring.stalled;
        started && (ring.enabled || self.features & PROTOCOL_FEATURES == 0)
    }

    /// Does `change` while no queue is at work, if it matters to one that is.
    pub(super) fn change(
        &mut self,
        matters: bool,
        change: impl FnOnce(&mut Session),
    ) -> Result<(), Refusal> {
        let matters = matters && self.rings.iter().any(|ring| ring.running);
        if matters {
            self.halt();
        }
        change(self);
        self.apply()
    }

    /// Replaces memory. Queues that are not in it rest until they are again.
    pub(super) fn change_memory(&mut self, regions: Regions) -> Result<(), Refusal> {
        self.halt();
        self.regions = regions;
        for ring in &mut self.rings {
            ring.stalled = false;
        }
        self.apply_as(true)
    }

    /// Brings what runs in line with what the front end wants.
    pub(super) fn apply(&mut self) -> Result<(), Refusal> {
        self.apply_as(false)
    }

    fn apply_as(&mut self, memory_moves: bool) -> Result<(), Refusal> {
        if self.rings.iter().all(|ring| ring.running == self.wants(ring)) {
            return Ok(());
        }
        self.halt();
        if self.rings.iter().all(|ring| ring.kick.is_none()) {
            // The driver is through with the device; it does not just change something.
            lock(&self.device).stop();
        }
        let result = self.run(memory_moves);
        (self.on_change)(self.rings.iter().filter(|ring| ring.running).count());
        result
    }

    /// Has the device rest, if it runs.
    pub(super) fn halt(&mut self) {
        if !self.rings.iter().any(|ring| ring.running) {
            return;
        }
        for state in lock(&self.device).pause() {
            if let Some(ring) = self.rings.get_mut(usize::from(state.index)) {
                ring.base = state.next_available;
            }
        }
        for ring in &mut self.rings {
            ring.running = false;
        }
    }

    /// Starts the device with the queues that are to run. One that cannot is as if it had not
    /// been started; the first such fault is returned.
    fn run(&mut self, memory_moves: bool) -> Result<(), Refusal> {
        let mut fault = None;
        let mut queues = Vec::new();
        let event_idx = self.features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let memory = self.regions.memory().cloned();
        for (at, index) in (0..self.rings.len()).zip(0u16..) {
            let Some(ring) = self.rings.get(at).filter(|ring| self.wants(ring)) else { continue };
            let started = memory.as_ref().ok_or(Refusal::NoRegion).and_then(|memory| {
                let memory = memory.memory().into_inner();
                ring.start(index, &self.regions, &memory, event_idx, self.record(index)?)
            });
            match started {
                Ok(queue) => queues.push(queue),
                Err(error) if memory_moves && error.is_of_memory() => {
                    if let Some(ring) = self.rings.get_mut(at) {
                        ring.stalled = true;
                    }
                }
                Err(error) => {
                    fault.get_or_insert(error);
                    if let Some(ring) = self.rings.get_mut(at) {
                        ring.kick = None;
                    }
                }
            }
        }
        if let Some(memory) = memory.filter(|_| !queues.is_empty())
            && let Err(error) = self.start_device(memory, queues)
        {
            fault.get_or_insert(error);
        }
        fault.map_or(Ok(()), Err)
    }

    /// The record of requests in flight of one queue, if the front end keeps it.
    fn record(&self, index: u16) -> Result<Option<Inflight>, Refusal> {
        let Some(records) = self.inflight.as_ref().filter(|records| index < records.queues) else {
            return Ok(None);
        };
        let (queues, size) = (records.queues, records.size);
        let record = Inflight::new(&records.memory, index, size);
        record.map(Some).ok_or(Refusal::Inflight { queues, size, len: 0 })
    }

    fn start_device(
        &mut self,
        memory: memshare::MemoryHandle,
        queues: Vec<crate::virtio::device::StartedQueue>,
    ) -> Result<(), Refusal> {
        let running: Vec<u16> = queues.iter().map(|queue| queue.index).collect();
        let with = Activation {
            memory,
            features: self.features & !PROTOCOL_FEATURES,
            queues,
            transport: Arc::clone(&self.signals) as Arc<dyn Transport>,
        };
        let mut device = lock(&self.device);
        for (offset, data) in &self.config {
            device.write_config(*offset, data);
        }
        let started = device.start(with);
        drop(device);
        for index in &running {
            let Some(ring) = self.rings.get_mut(usize::from(*index)) else { continue };
            match &started {
                Ok(()) => {
                    ring.running = true;
                    // A predecessor may have died between an answer and its notification.
                    self.signals.notify_used(*index);
                }
                Err(_) => ring.kick = None,
            }
        }
        started.map_err(|error| {
            self.signals.needs_reset();
            Refusal::Start(error)
        })
    }

    /// Takes the driver's write to the configuration.
    pub(super) fn write_config(&mut self, offset: usize, data: &[u8]) -> Result<(), Refusal> {
        let same = |(at, old): &&mut (usize, Vec<u8>)| *at == offset && old.len() == data.len();
        if let Some((_, old)) = self.config.iter_mut().find(same) {
            old.copy_from_slice(data);
        } else if self.config.len() < CONFIG_WRITES_MAX {
            self.config.push((offset, data.to_vec()));
        } else {
            return Err(Refusal::Config(CONFIG_WRITES_MAX));
        }
        lock(&self.device).write_config(offset, data);
        Ok(())
    }

    /// Ends work on all queues, as if they had not been enabled.
    pub(super) fn disable_all(&mut self) -> Result<(), Refusal> {
        for ring in &mut self.rings {
            ring.enabled = false;
            if self.features & PROTOCOL_FEATURES == 0 {
                ring.kick = None;
            }
        }
        self.apply()
    }

    /// Back to a device that nobody has used. Memory and the eventfds of the connection stay.
    pub(super) fn reset(&mut self) {
        self.halt();
        lock(&self.device).stop();
        self.rings.fill_with(Ring::new);
        self.features &= PROTOCOL_FEATURES;
        self.config.clear();
        self.inflight = None;
        (self.on_change)(0);
        (self.on_reset)();
    }

    /// Notes that a message is refused, and why.
    pub(super) fn refuse(&mut self, refusal: Refusal) -> vhost::vhost_user::Error {
        self.refused = true;
        let cause = std::error::Error::source(&refusal).map(ToString::to_string);
        warn_limited!(%refusal, cause, "a message of a vhost-user front end is refused");
        refusal.into()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.halt();
        lock(&self.device).stop();
    }
}
