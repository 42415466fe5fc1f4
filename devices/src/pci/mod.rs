//! PCI: one bus, its configuration space, and MSI-X.
//!
//! A guest finds functions through [`ConfigPorts`] or [`Ecam`], both views of one [`PciBus`].
//! A function answers configuration accesses through [`PciFunction`] and keeps its own register
//! windows where the guest programmed them ([`bar`]). Interrupts are messages only: no function
//! has an interrupt pin.

pub mod bar;
mod bus;
pub mod config_space;
mod ecam;
mod host_bridge;
pub mod msix;
mod ports;

pub use bus::{PciBus, PciError, Slot};
pub use ecam::Ecam;
pub use ports::ConfigPorts;

/// A PCI function, as configuration space sees it.
pub trait PciFunction: Send {
    /// Fills `data` (up to 4 bytes within a doubleword) with configuration space from `offset` on.
    fn read_config(&mut self, offset: usize, data: &mut [u8]);
    /// Takes a write of up to 4 bytes within a doubleword.
    fn write_config(&mut self, offset: usize, data: &[u8]);
    /// Stops the function: nothing is in flight afterwards, and nothing is started any more.
    fn stop(&mut self);
}
