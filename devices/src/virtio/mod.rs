//! Virtio devices (Virtual I/O Device specification 1.3): what a device is ([`VirtioDevice`]),
//! its [`queue`]s, the [`pci`] transport that shows it to a guest, and [`vhost_user`] for guests
//! of other processes.

pub mod blk;
pub mod console;
pub mod device;
#[cfg(test)]
pub(crate) mod driver;
pub mod fs;
mod parts;
pub mod pci;
pub mod pmem;
mod polling;
pub mod queue;
pub mod rng;
pub mod scsi;
mod serve;
pub mod shared_memory;
mod tokens;
pub mod vhost_user;
mod worker;

pub use device::{
    ActivateError, Activation, DeviceInfo, DeviceType, StartedQueue, Transport, VirtioDevice,
};
pub use queue::QueueState;
pub use shared_memory::{SharedMemory, WindowPlacer};
