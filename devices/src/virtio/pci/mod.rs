//! The modern virtio PCI transport (virtio 1.3, 4.1): a PCI function with one register window.
//!
//! ```text
//! 0x0000  common configuration     4.1.4.3   [common]
//! 0x1000  ISR status               4.1.4.5
//! 0x2000  device configuration     4.1.4.6
//! 0x3000  notifications, 4 bytes for each queue   4.1.4.4
//! 0x4000  MSI-X table
//! 0x5000  MSI-X pending bits
//! ```
//!
//! A region of shared memory (2.10) is a second window, of memory that virtual CPUs reach without a
//! stop: `memory`.
//!
//! Configuration space names these parts in vendor capabilities, one of which (4.1.4.9) gives
//! access to the window for those who cannot reach it otherwise.

mod common;
mod function;
mod memory;
mod shared;
#[cfg(test)]
mod tests;
mod window;

pub use function::VirtioPci;
