//! What a back end is handed when the device starts, and again when another one takes its place.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use memshare::GuestMemory;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::{
    VhostUserHeaderFlag, VhostUserInflight, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::FrontEndError;
use super::session::Session;
use crate::virtio::device::{ActivateError, StartedQueue};
use crate::virtio::queue::{QueueLayout, QueueState};

/// How long a back end may take to answer the requests it has, once it takes no more.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
const DRAIN_PAUSE: Duration = Duration::from_millis(1);
/// Where both rings keep their index (virtio 1.3, 2.7.6 and 2.7.8).
const INDEX: u64 = 2;

/// The queues of a started device.
pub(super) struct Rings {
    memory: Arc<GuestMemory>,
    /// The same for the back end. The descriptors are those of `memory`.
    regions: Vec<VhostUserMemoryRegionInfo>,
    /// What driver and device agreed on.
    pub(super) features: u64,
    /// Queues that the device has, whether or not the driver uses them.
    pub(super) device_queues: u16,
    rings: Vec<Ring>,
    /// Where the back end records what it has taken and not answered. It outlives back ends.
    inflight: Option<(VhostUserInflight, File)>,
}

/// One queue.
pub(super) struct Ring {
    pub(super) index: u16,
    layout: QueueLayout,
    doorbell: EventFd,
    /// Signalled by the back end when the driver is to be interrupted.
    pub(super) call: Arc<EventFd>,
}

impl Rings {
    pub(super) fn new(
        memory: Arc<GuestMemory>,
        features: u64,
        device_queues: u16,
        queues: Vec<StartedQueue>,
    ) -> Result<Rings, ActivateError> {
        // Windows beside RAM are memory of this process alone.
        let shared = memory.iter().filter(|region| region.file_offset().is_some());
        let regions = shared.map(VhostUserMemoryRegionInfo::from_guest_region);
        let regions = regions
            .collect::<Result<_, _>>()
            .map_err(|_| ActivateError::Disk(Box::new(FrontEndError::Memory)))?;
        let ring = |queue: StartedQueue| {
            let call = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(|source| {
                ActivateError::Host { what: "create an event for a queue", source }
            })?;
            let layout = queue.state().layout;
            let call = Arc::new(call);
            Ok(Ring { index: queue.index, layout, doorbell: queue.doorbell, call })
        };
        let rings = queues.into_iter().map(ring).collect::<Result<_, _>>()?;
        Ok(Rings { memory, regions, features, device_queues, rings, inflight: None })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Ring> {
        self.rings.iter()
    }

    /// Whether a back end keeps a record that its successor goes on with.
    pub(super) fn recorded(&self) -> bool {
        self.inflight.is_some()
    }

    /// Hands a back end all that it needs before it may work.
    pub(super) fn hand_over(&mut self, session: &Session) -> Result<(), FrontEndError> {
        let negotiated = session.features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        session.ask("to take features and memory", |back_end| {
            back_end.set_features(self.features | negotiated)?;
            // Some back ends acknowledge nothing before they know that protocol features count.
            if session.protocol.contains(VhostUserProtocolFeatures::REPLY_ACK) {
                back_end.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
            }
            back_end.set_mem_table(&self.regions).map(drop)
        })?;
        if session.records_inflight() {
            self.hand_over_record(session)?;
        }
        session.ask("to take the queues", |back_end| {
            for ring in &self.rings {
                let index = usize::from(ring.index);
                back_end.set_vring_num(index, ring.layout.size)?;
                back_end.set_vring_base(index, self.used_index(ring))?;
                back_end.set_vring_addr(index, &self.places(ring))?;
                back_end.set_vring_call(index, &ring.call)?;
            }
            Ok(())
        })
    }

    fn hand_over_record(&mut self, session: &Session) -> Result<(), FrontEndError> {
        let record = match self.inflight.take() {
            Some(record) => record,
            None => {
                let size = self.rings.iter().map(|ring| ring.layout.size).max().unwrap_or(1);
                let wanted = VhostUserInflight::new(0, 0, self.device_queues, size);
                let (answer, file) = session.ask("for a record of requests", |back_end| {
                    back_end.get_inflight_fd(&wanted)
                })?;
                // The sizes are ours to say, whatever the answer repeats.
                let place = (answer.mmap_size, answer.mmap_offset);
                (VhostUserInflight { mmap_size: place.0, mmap_offset: place.1, ..wanted }, file)
            }
        };
        let (described, file) = self.inflight.insert(record);
        session.ask("to take the record of requests", |back_end| {
            back_end.set_inflight_fd(described, file.as_raw_fd())
        })
    }

    /// Lets a back end begin. Buffers that are in the queues already are taken.
    pub(super) fn begin(&self, session: &Session) -> Result<(), FrontEndError> {
        let negotiated = session.features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        session.ask("to begin", |back_end| {
            for ring in &self.rings {
                back_end.set_vring_kick(ring.index.into(), &ring.doorbell)?;
                // Queues of a back end that knows no protocol features are always enabled.
                if negotiated != 0 {
                    back_end.set_vring_enable(ring.index.into(), true)?;
                }
            }
            Ok(())
        })?;
        for ring in &self.rings {
            // Full only when the back end has not looked for 2^64 - 1 notifications.
            let _ = ring.doorbell.write(1);
        }
        Ok(())
    }

    /// Has a back end take no more, and waits until it has answered what it took.
    pub(super) fn end(&self, session: &Session) -> Result<Drained, FrontEndError> {
        let deadline = Instant::now() + DRAIN_LIMIT;
        let mut drained = Drained::Yes;
        for ring in &self.rings {
            let base = session
                .ask("to stop a queue", |back_end| back_end.get_vring_base(ring.index.into()))?;
            // Only 16 bits of it are an index.
            let taken = u16::try_from(base & 0xFFFF).unwrap_or(0);
            while self.used_index(ring) != taken {
                if Instant::now() >= deadline || session.is_gone() {
                    drained = Drained::No;
                    break;
                }
                thread::sleep(DRAIN_PAUSE);
            }
        }
        Ok(drained)
    }

    /// Whether the driver waits for the answer to a request that a back end may have taken. Queue
    /// `events` has none: its buffers always wait, for whichever back end takes them.
    pub(super) fn outstanding(&self, events: Option<u16>) -> bool {
        self.rings
            .iter()
            .filter(|ring| Some(ring.index) != events)
            .any(|ring| self.index(ring.layout.available) != self.index(ring.layout.used))
    }

    /// Where the queues stand, by what the driver can see of them.
    pub(super) fn states(&self) -> Vec<QueueState> {
        let state = |ring: &Ring| {
            let used = self.used_index(ring);
            QueueState {
                index: ring.index,
                layout: ring.layout,
                next_available: used,
                next_used: used,
            }
        };
        self.rings.iter().map(state).collect()
    }

    fn used_index(&self, ring: &Ring) -> u16 {
        self.index(ring.layout.used)
    }

    /// The index of the ring at `at`, which was checked to be in guest memory.
    fn index(&self, at: u64) -> u16 {
        let at = GuestAddress(at.saturating_add(INDEX));
        self.memory.load(at, Ordering::Acquire).unwrap_or(0)
    }

    /// The parts of a queue, by addresses in this process.
    fn places(&self, ring: &Ring) -> VringConfigData {
        VringConfigData {
            queue_max_size: ring.layout.size,
            queue_size: ring.layout.size,
            flags: 0,
            desc_table_addr: self.here(ring.layout.descriptors),
            used_ring_addr: self.here(ring.layout.used),
            avail_ring_addr: self.here(ring.layout.available),
            log_addr: None,
        }
    }

    /// The address in this process of guest memory at `at`, which the queue was checked to be in.
    fn here(&self, at: u64) -> u64 {
        let within = |region: &VhostUserMemoryRegionInfo| {
            let offset = at.checked_sub(region.guest_phys_addr)?;
            (offset < region.memory_size).then(|| region.userspace_addr.wrapping_add(offset))
        };
        self.regions.iter().find_map(within).unwrap_or(0)
    }
}

/// Whether a back end has answered all that it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drained {
    Yes,
    No,
}
