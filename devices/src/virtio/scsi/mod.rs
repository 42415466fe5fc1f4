//! SCSI host device (virtio 1.3, 5.6) on a [`storage::scsi::Initiator`]: one target, number 0, with
//! the logical units that the initiator port sees.
//!
//! ```text
//!  request queue ──► Chain ──► request::parse (once) ──► CommandQueue::submit ──► … a target
//!        ▲                                                        │
//!        └── push_used, response header ◄── commands::finish ◄────┘
//!
//!  control queue ──► Chain ──► control::parse ──► CommandQueue::manage
//!        ▲                                                │
//!        └── push_used ◄── Fence: aborted commands are in the used rings ◄──┘
//! ```
//!
//! The control queue and every request queue have their own thread and their own
//! [`CommandQueue`](storage::scsi::CommandQueue). There are no events to tell of (neither hot
//! plugging nor changes are offered), so that what the driver puts in the event queue stays there.

mod commands;
mod config;
mod control;
mod device;
mod fence;
mod lun;
mod request;
mod space;
#[cfg(test)]
mod tests;

pub use device::Scsi;
