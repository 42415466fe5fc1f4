//! The devices of a cohort machine, from bus to backend. They know the hypervisor only through
//! [`platform::Platform`].
//!
//! A guest's access reaches a device through a [`bus::Bus`]: one for I/O ports, one for memory.
//! On them sit the small platform devices ([`serial`], [`pvpanic`], [`reset`]) and PCI:
//! [`pci::ConfigPorts`] and [`pci::Ecam`] lead to configuration space, and every function puts
//! its register window (BAR) on the memory bus by itself, wherever the guest programs it to.
//! Functions are virtio devices ([`virtio`]) behind the modern PCI transport ([`virtio::pci`]).
//!
//! Nothing a guest does makes this crate panic, allocate without bound or loop without bound:
//! what it may not do is ignored, answered as the specification says, or ends in
//! `DEVICE_NEEDS_RESET`.

pub mod bus;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod input;
mod limited;
pub mod pci;
pub mod platform;
pub mod power;
pub mod pvpanic;
pub mod reset;
pub mod serial;
mod sync;
pub mod virtio;
