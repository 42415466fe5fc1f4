//! The contract between a virtio device and its transport.

use std::fmt;
use std::io;
use std::sync::Arc;

use memshare::MemoryHandle;
use vmm_sys_util::eventfd::EventFd;

use super::queue::{Queue, QueueState};
use super::shared_memory::SharedMemory;

/// What kind of device a driver sees (virtio 1.3, 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceType {
    /// Block device.
    Block,
    /// Console.
    Console,
    /// Entropy source.
    Entropy,
    /// SCSI host.
    Scsi,
    /// File system.
    FileSystem,
    /// Persistent memory.
    Pmem,
}

impl DeviceType {
    /// The number of the type.
    pub fn number(self) -> u16 {
        match self {
            DeviceType::Block => 2,
            DeviceType::Console => 3,
            DeviceType::Entropy => 4,
            DeviceType::Scsi => 8,
            DeviceType::FileSystem => 26,
            DeviceType::Pmem => 27,
        }
    }

    /// PCI base class, subclass and programming interface.
    pub fn pci_class(self) -> (u8, u8, u8) {
        match self {
            DeviceType::Block | DeviceType::FileSystem => (0x01, 0x80, 0x00),
            DeviceType::Console => (0x07, 0x80, 0x00),
            DeviceType::Entropy => (0xFF, 0x00, 0x00),
            DeviceType::Scsi => (0x01, 0x00, 0x00),
            // A memory controller of another kind.
            DeviceType::Pmem => (0x05, 0x80, 0x00),
        }
    }
}

/// What never changes about a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// What kind of device it is.
    pub id: DeviceType,
    /// Most buffers of each queue, a power of two up to 32768.
    pub queue_sizes: Vec<u16>,
    /// Features of this kind of device that are offered, as bits. The transport adds those of
    /// rings and transport.
    pub features: u64,
    /// Another process works on the queues and sees guest memory only through its memfd.
    pub external_backend: bool,
}

/// A virtio device behind a transport, which calls these functions from one thread at a time.
///
/// ```text
///            start                  stop
///   stopped ───────► started ─────────────► stopped ──► …
/// ```
pub trait VirtioDevice: Send {
    /// What never changes about the device.
    fn info(&self) -> &DeviceInfo;
    /// The features of rings and transport that whoever works on the queues knows; no others of
    /// them are offered.
    fn ring_features(&self) -> u64 {
        u64::MAX
    }
    /// The region of memory that the device shares with its driver, if it has one. It never changes.
    fn shared_memory(&self) -> Option<&SharedMemory> {
        None
    }
    /// Fills `out` with device configuration from `offset` on; beyond its end with zeroes.
    fn read_config(&self, offset: usize, out: &mut [u8]);
    /// Takes the driver's write; what a driver may not write stays as it is.
    fn write_config(&mut self, offset: usize, data: &[u8]);
    /// Begins to work on the queues that the driver enabled, be it none. They may hold buffers
    /// already, of which no doorbell tells.
    /// A device that cannot start is as if it had never been asked to.
    fn start(&mut self, with: Activation) -> Result<(), ActivateError>;
    /// Ends work: no thread of the device touches guest memory any more when this returns, and
    /// every request that was taken is answered. Returns where each queue was left; nothing when
    /// the device was not started.
    fn stop(&mut self) -> Vec<QueueState>;
    /// Ends work as [`VirtioDevice::stop`] does, unnoticed by a driver that goes on using the
    /// device: what lasts for as long as it does stays. It starts again, or is stopped.
    fn pause(&mut self) -> Vec<QueueState> {
        self.stop()
    }
}

/// What a device starts with.
pub struct Activation {
    /// Guest memory.
    pub memory: MemoryHandle,
    /// The features that driver and device agreed on.
    pub features: u64,
    /// The queues that the driver enabled, in ascending order.
    pub queues: Vec<StartedQueue>,
    /// The way back to the driver.
    pub transport: Arc<dyn Transport>,
}

/// One queue of a device that starts.
pub struct StartedQueue {
    /// Its number.
    pub index: u16,
    /// Its rings.
    pub queue: Queue,
    /// Signalled by the driver when it has made buffers available. Not blocking.
    pub doorbell: EventFd,
}

impl StartedQueue {
    /// Where the queue stands.
    pub fn state(&self) -> QueueState {
        self.queue.state(self.index)
    }
}

/// What a started device may ask of its transport, from any thread.
pub trait Transport: Send + Sync {
    /// Sends a used buffer notification for the queue of this number.
    fn notify_used(&self, queue: u16);
    /// Lets signals of `event` be used buffer notifications for the queue of this number, until
    /// [`Transport::disconnect_used`] or a reset. Signals that the hypervisor does not take by
    /// itself stay in `event`: the caller reads it when it is readable, and then calls
    /// [`Transport::notify_used`].
    fn connect_used(&self, _queue: u16, _event: &Arc<EventFd>) {}
    /// Undoes [`Transport::connect_used`].
    fn disconnect_used(&self, _queue: u16) {}
    /// Sends a configuration change notification, after the device's configuration changed.
    fn notify_config(&self);
    /// Tells the driver that the device is in a state that only a reset mends.
    fn needs_reset(&self);
}

/// Why a device cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// The host cannot provide what the device needs.
    #[error("cannot {what}")]
    Host {
        /// What the device tried.
        what: &'static str,
        /// What the host said.
        source: io::Error,
    },
    /// The disk cannot be used.
    #[error("cannot start a queue of the disk")]
    Disk(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl fmt::Debug for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Activation")
            .field("features", &format_args!("{:#x}", self.features))
            .field("queues", &self.queues.iter().map(|queue| queue.index).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for StartedQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StartedQueue").field("index", &self.index).finish_non_exhaustive()
    }
}
