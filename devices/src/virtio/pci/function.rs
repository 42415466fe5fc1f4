//! The PCI function of a virtio device: configuration space and the register window.

use std::fmt;
use std::sync::{Arc, Mutex, Weak};

use memshare::MemoryHandle;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::GuestAddressSpace;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::common::{CommonConfig, Effect};
use super::memory::{self, MemoryBar};
use super::shared::Shared;
use super::window::{self, Part, access};
use crate::bus::BusDevice;
use crate::limited::warn_limited;
use crate::pci::bar::{Bar, Windows};
use crate::pci::config_space::{COMMAND_MEMORY, ConfigSpace, Identity};
use crate::pci::msix::{self, Msix};
use crate::pci::{PciError, PciFunction};
use crate::platform::Platform;
use crate::virtio::device::{ActivateError, Activation, StartedQueue, Transport, VirtioDevice};
use crate::virtio::queue::{MAX_SIZE, Queue, RingError};

const VENDOR: u16 = 0x1AF4;
/// Device number of type 0.
const DEVICE_BASE: u16 = 0x1040;
/// Any from here on (virtio 1.3, 4.1.2.1).
const SUBSYSTEM: u16 = 0x1100;

/// Features of rings and transport.
const TRANSPORT_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// A virtio device behind PCI.
pub struct VirtioPci {
    /// This function, as its window is put on the bus.
    this: Weak<Mutex<VirtioPci>>,
    device: Box<dyn VirtioDevice>,
    memory: MemoryHandle,
    platform: Arc<dyn Platform>,
    config: ConfigSpace,
    bar: Bar,
    /// Where the region of memory is that the device shares with its driver.
    memory_bar: Option<MemoryBar>,
    common: CommonConfig,
    shared: Arc<Shared>,
    /// Where the MSI-X and window access capabilities are.
    msix_at: usize,
    access_at: usize,
    /// Doorbells of the queues that the device works on, by queue number.
    doorbells: Vec<(u16, EventFd)>,
    /// Where the doorbells answer without us.
    attached: Option<u64>,
    /// The machine ends; the device does not start again.
    stopped: bool,
}

impl VirtioPci {
    /// Bytes of the register window.
    pub const WINDOW_LEN: u64 = window::LEN;

    /// A function for `device`, whose window is at `base` once the guest enables it. The memory
    /// that the device shares, if it does, is at `memory_base` from the start.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: MemoryHandle,
        platform: Arc<dyn Platform>,
        windows: Windows,
        base: u64,
        memory_base: u64,
    ) -> Result<Arc<Mutex<VirtioPci>>, PciError> {
        let info = device.info();
        let queues = info.queue_sizes.len();
        let too_many = PciError::Queues { queues, max: window::MAX_QUEUES };
        let Some(vectors) =
            u16::try_from(queues).ok().filter(|&n| usize::from(n) <= window::MAX_QUEUES)
        else {
            return Err(too_many);
        };
        let vectors = vectors + 1;
        for &size in &info.queue_sizes {
            if !size.is_power_of_two() || size > MAX_SIZE {
                return Err(PciError::QueueSize { size });
            }
        }
        let mut config = ConfigSpace::new(&Identity {
            id: (VENDOR, DEVICE_BASE + info.id.number()),
            revision: 1,
            class: info.id.pci_class(),
            subsystem: (VENDOR, SUBSYSTEM),
        });
        config.add_memory_bar(usize::from(window::BAR), base, window::LEN);
        let handles = platform
            .msi_vectors(vectors)
            .map_err(|source| PciError::Vectors { vectors, source })?;
        let msix = Msix::new(handles);
        let table = u32::try_from(Part::MsixTable.start()).unwrap_or(0);
        let pending = u32::try_from(Part::MsixPending.start()).unwrap_or(0);
        let (body, writable) = msix.capability(window::BAR, table, pending);
        // There is room for all of them: they are the same for every device.
        let msix_at = config.add_capability(msix::CAPABILITY, &body, &writable).unwrap_or(0);
        let access_at = window::add_capabilities(&mut config, queues).unwrap_or(0);
        let memory_bar = match device.shared_memory() {
            Some(shared) => {
                let bar = MemoryBar::new(shared.clone(), windows.clone(), memory_base)?;
                let index = usize::from(memory::BAR);
                config.add_prefetchable_bar(index, memory_base, memory::bar_len(shared));
                window::add_shared_memory(&mut config, memory::BAR, shared.id, shared.window.len());
                Some(bar)
            }
            None => None,
        };
        let offered = info.features | TRANSPORT_FEATURES & device.ring_features();
        let common = CommonConfig::new(offered, &info.queue_sizes);
        Ok(Arc::new_cyclic(|this| {
            Mutex::new(VirtioPci {
                this: Weak::clone(this),
                memory,
                platform,
                config,
                bar: Bar::new(windows, window::LEN),
                memory_bar,
                common,
                shared: Arc::new(Shared::new(msix, queues)),
                msix_at,
                access_at,
                doorbells: Vec::new(),
                attached: None,
                stopped: false,
                device,
            })
        }))
    }

    /// Addresses that the memory of `device` takes, if it shares any with its driver.
    pub(crate) fn memory_len(device: &dyn VirtioDevice) -> Option<u64> {
        device.shared_memory().map(memory::bar_len)
    }

    /// Brings window, doorbells and interrupts in line with configuration space.
    fn apply_config(&mut self) {
        let control = u16::from_le_bytes(self.config.get(self.msix_at + 2));
        self.shared.msix.set_control(control);
        if let Some(this) = self.this.upgrade() {
            let decoding = self.config.command() & COMMAND_MEMORY != 0;
            let base = decoding.then(|| self.config.memory_bar(usize::from(window::BAR)));
            if self.bar.would_move(base) {
                // Before another function can be where this one was: it would miss notifications.
                self.detach_doorbells();
            }
            let this: Arc<Mutex<dyn BusDevice>> = this;
            self.bar.place(base, &this);
        }
        if let Some(bar) = &mut self.memory_bar {
            let decoding = self.config.command() & COMMAND_MEMORY != 0;
            bar.follow(self.config.memory_bar(usize::from(memory::BAR)), decoding);
        }
        self.attach_doorbells();
    }

    /// Attaches the doorbells where the window is now.
    fn attach_doorbells(&mut self) {
        let at = self.bar.at();
        if self.attached == at {
            return;
        }
        self.detach_doorbells();
        let Some(base) = at else { return };
        for (queue, doorbell) in &self.doorbells {
            let address = notify_address(base, *queue);
            if let Err(error) = self.platform.attach_doorbell(address, doorbell) {
                // Slower, but not wrong: the write reaches `write_window`.
                warn_limited!(%error, queue, "cannot attach a doorbell");
            }
        }
        self.attached = Some(base);
    }

    fn detach_doorbells(&mut self) {
        let Some(base) = self.attached.take() else { return };
        for (queue, doorbell) in &self.doorbells {
            if let Err(error) =
                self.platform.detach_doorbell(notify_address(base, *queue), doorbell)
            {
                warn_limited!(%error, queue, "cannot detach a doorbell");
            }
        }
    }

    /// The driver is ready.
    fn start_device(&mut self) {
        if self.stopped {
            return;
        }
        let started = self.start_queues().and_then(|(queues, doorbells)| {
            let with = Activation {
                memory: self.memory.clone(),
                features: self.common.features(),
                queues,
                transport: Arc::clone(&self.shared) as Arc<dyn Transport>,
            };
            self.device.start(with)?;
            Ok(doorbells)
        });
        match started {
            Ok(doorbells) => {
                self.doorbells = doorbells;
                self.attached = None;
                self.attach_doorbells();
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                warn_limited!(%error, cause, id = ?self.device.info().id, "cannot start a device");
                self.shared.needs_reset();
            }
        }
    }

    #[expect(clippy::type_complexity, reason = "one half of it is for the device, one for us")]
    fn start_queues(&self) -> Result<(Vec<StartedQueue>, Vec<(u16, EventFd)>), StartError> {
        let memory = self.memory.memory().into_inner();
        let event_idx = self.common.features() & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let mut queues = Vec::new();
        let mut doorbells = Vec::new();
        for (index, layout) in self.common.enabled_queues() {
            let queue = Queue::new(layout, Arc::clone(&memory), event_idx)
                .map_err(|source| StartError::Queue { index, source })?;
            let host = |source| {
                StartError::Device(ActivateError::Host { what: "create a doorbell", source })
            };
            let doorbell = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(host)?;
            doorbells.push((index, doorbell.try_clone().map_err(host)?));
            queues.push(StartedQueue { index, queue, doorbell });
        }
        Ok((queues, doorbells))
    }

    fn stop_device(&mut self) {
        self.detach_doorbells();
        self.doorbells.clear();
        self.device.stop();
    }

    /// Reads the register window.
    fn read_window(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Some((part, at)) = Part::at(offset) else { return };
        match part {
            Part::Common => self.common.read(at, data, &self.shared),
            Part::Isr => {
                if let (0, Some(first)) = (at, data.first_mut()) {
                    *first = self.shared.take_isr();
                }
            }
            Part::Device => {
                self.device.read_config(usize::try_from(at).unwrap_or(usize::MAX), data)
            }
            Part::Notify => {}
            Part::MsixTable => self.shared.msix.read_table(at, data),
            Part::MsixPending => self.shared.msix.read_pending(at, data),
        }
    }

    /// Writes the register window.
    fn write_window(&mut self, offset: u64, data: &[u8]) {
        let Some((part, at)) = Part::at(offset) else { return };
        match part {
            Part::Common => match self.common.write(at, data, &self.shared) {
                Effect::Nothing => {}
                Effect::Start => self.start_device(),
                Effect::Reset => {
                    self.stop_device();
                    self.common.reset();
                    self.shared.reset();
                }
            },
            Part::Device => {
                self.device.write_config(usize::try_from(at).unwrap_or(usize::MAX), data);
            }
            Part::Notify => {
                let queue = at / window::NOTIFY_STRIDE;
                let doorbell = self.doorbells.iter().find(|(index, _)| u64::from(*index) == queue);
                if let Some((_, doorbell)) = doorbell {
                    // Full only when the device has not looked for 2^64 - 1 notifications.
                    let _ = doorbell.write(1);
                }
            }
            Part::MsixTable => self.shared.msix.write_table(at, data),
            Part::Isr | Part::MsixPending => {}
        }
    }

    /// What the window access capability points to, if that is a valid access.
    fn accessed_window(&self) -> Option<(u64, usize)> {
        let at = self.access_at;
        let [bar] = self.config.get(at + access::BAR);
        let offset = u32::from_le_bytes(self.config.get(at + access::OFFSET));
        let len = u32::from_le_bytes(self.config.get(at + access::LENGTH));
        let valid = bar == window::BAR && matches!(len, 1 | 2 | 4) && offset.is_multiple_of(len);
        valid.then_some((offset.into(), usize::try_from(len).ok()?))
    }
}

impl PciFunction for VirtioPci {
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        let data_at = self.access_at + access::DATA;
        if (data_at..data_at + 4).contains(&offset)
            && let Some((window_offset, len)) = self.accessed_window()
        {
            let mut value = [0; 4];
            if let Some(value) = value.get_mut(..len) {
                self.read_window(window_offset, value);
            }
            self.config.write(data_at, &value);
        }
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
        let data_at = self.access_at + access::DATA;
        if (data_at..data_at + 4).contains(&offset)
            && let Some((window_offset, len)) = self.accessed_window()
        {
            let value: [u8; 4] = self.config.get(data_at);
            if let Some(value) = value.get(..len) {
                self.write_window(window_offset, value);
            }
        }
        self.apply_config();
    }

    fn stop(&mut self) {
        self.stopped = true;
        self.stop_device();
    }
}

impl BusDevice for VirtioPci {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.read_window(offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.write_window(offset, data);
    }
}

impl fmt::Debug for VirtioPci {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioPci")
            .field("device", self.device.info())
            .field("bar", &self.bar)
            .field("common", &self.common)
            .finish_non_exhaustive()
    }
}

fn notify_address(base: u64, queue: u16) -> u64 {
    base + Part::Notify.start() + window::NOTIFY_STRIDE * u64::from(queue)
}

/// Why a device did not start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("queue {index} is not valid")]
    Queue { index: u16, source: RingError },
    #[error(transparent)]
    Device(#[from] ActivateError),
}
