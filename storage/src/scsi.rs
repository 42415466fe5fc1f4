//! A SCSI target that knows no transport: logical units on [`Disk`](crate::Disk)s, shared by all
//! initiators that come, with reservations (SAM-5, SPC-4, SBC-3).
//!
//! ```text
//!  transport ──► ScsiQueue::submit ──► Cdb, opcodes      is there such a command?      cdb.rs, opcodes.rs
//!                    │
//!                    ├──► Access::take_attention         a unit attention first?       nexus.rs
//!                    ├──► Access::enter, allows          counted, then: reserved?      nexus.rs
//!                    │
//!                    ├──► replies                        INQUIRY, MODE SENSE, …        inquiry.rs, mode.rs, …
//!                    └──► Work: steps on the disk        READ, COMPARE AND WRITE, …    work.rs
//!                             ├──► Ranges                atomic against other writers  ranges.rs
//!                             └──► DiskQueue             one request at a time
//!  transport ──► ScsiQueue::poll ──► Response, exactly once
//! ```
//!
//! What comes from this process comes through a [`LocalInitiator`] (SCSI commands) or a
//! [`SharedMedium`] (requests of a block device).
//!
//! **No command waits in the thread that submits it.** What must wait for others (overlapping
//! writes, the tasks of a preempted initiator) is put aside, and whoever ends what it waits for
//! wakes its queue.

#![forbid(unsafe_code)]

mod begin;
mod capacity;
mod cdb;
mod command;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod initiator;
mod inquiry;
mod log;
mod manage;
mod medium;
mod mode;
mod nexus;
mod opcodes;
mod queue;
mod ranges;
mod reserve;
mod sense;
mod status;
mod target;
mod task;
#[cfg(test)]
mod tests;
mod unit;
mod wake;
mod work;

pub use command::{Command, Response, Status};
pub use initiator::{CommandQueue, Initiator, LocalInitiator, ServiceResponse};
pub(crate) use log::Limit;
pub use manage::{Managed, Outcome, TaskManagement};
pub use medium::{SharedMedium, SharedQueue};
pub use nexus::Nexus;
pub use queue::ScsiQueue;
pub(crate) use queue::absent;
pub use sense::Sense;
pub use status::{NexusStatus, RegistrationStatus, TargetStatus, UnitStatus};
pub use target::{Target, TargetError, UnitOptions};
pub(crate) use unit::{address as unit_address, number as unit_number};
pub(crate) use wake::{Waker, lock};
