//! What devices need of the hypervisor. `vmm` implements it on KVM, tests on plain memory.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

/// A message-signalled interrupt as the guest's driver programmed it (PCI 3.0, 6.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiMessage {
    /// Guest-physical address the message is written to.
    pub address: u64,
    /// The value written.
    pub data: u32,
}

/// One interrupt vector of a device.
pub trait MsiVector: Debug + Send + Sync {
    /// Sends later signals as `message`; `None` masks the vector.
    fn route(&self, message: Option<MsiMessage>) -> io::Result<()>;
    /// Raises the interrupt. Callers keep pending bits: a masked vector is never signalled.
    fn signal(&self) -> io::Result<()>;
    /// Makes the hypervisor take signals of `event`, one that waits already included, and raise
    /// the interrupt for each, until [`MsiVector::detach`]. Callers detach before they mask.
    fn attach(&self, event: &EventFd) -> io::Result<()>;
    /// Undoes [`MsiVector::attach`]: signals stay in `event` from here on, and no interrupt is on
    /// its way any more.
    fn detach(&self, event: &EventFd) -> io::Result<()>;
}

/// The hypervisor, as far as devices can see it.
pub trait Platform: Send + Sync {
    /// Reserves interrupt vectors, all masked.
    fn msi_vectors(&self, count: u16) -> io::Result<Vec<Arc<dyn MsiVector>>>;
    /// Makes a guest write of any width and value at the guest-physical `address` signal
    /// `doorbell` without a stop of the virtual CPU.
    fn attach_doorbell(&self, address: u64, doorbell: &EventFd) -> io::Result<()>;
    /// Undoes [`Platform::attach_doorbell`].
    fn detach_doorbell(&self, address: u64, doorbell: &EventFd) -> io::Result<()>;
}

#[cfg(test)]
pub(crate) mod fake;
