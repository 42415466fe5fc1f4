//! Block device (virtio 1.3, 5.2) on a [`storage::Medium`].
//!
//! ```text
//!  queue ──► Chain ──► request::parse (once, facts kept) ──► RequestQueue::submit ──► … storage
//!    ▲                                                              │
//!    └── push_used, status byte ◄── worker::finish ◄── answer ◄─────┘
//! ```
//!
//! Every queue has its own thread (`worker`) and its own [`storage::RequestQueue`], from the
//! time the driver is ready to the time it resets the device. A device that nobody drives has neither.

mod config;
mod device;
mod request;
#[cfg(test)]
mod tests;
mod worker;

pub use device::Block;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) use device::{Stepped, Steps};
