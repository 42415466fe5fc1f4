//! Disks of guests. **A layer only answers where bytes are; one engine moves them.**
//!
//! ```text
//!  device ──► DiskQueue::submit ──► DiskState::check      in range? aligned? writable?   disk.rs
//!                 │
//!                 ├──► Chain::resolve_read / _write / _erase                             chain.rs
//!                 │        ├──► Layer: extents (where bytes are), steps (what to do)     formats/
//!                 │        └──► Frozen: where transparent bytes are, in one map          chain/frozen.rs
//!                 │
//!                 ├──► BackingFile::read_cached / write_cached                           file.rs
//!                 │        └──► bytes in the page cache move at once, in this thread
//!                 │
//!                 ├──► Engine::start (Transfer: file, offset, memory)                    engine/
//!                 │        └──► io_uring: one io_uring_enter for a batch, by poll
//!                 │             positional: preadv2, pwritev2 at once
//!  device ──► DiskQueue::poll ──► recovery::next          short? refused? failed?        queue/recovery.rs
//!                 │
//!                 └──► Chain::finish ──► the answer, exactly once
//! ```
//!
//! A [`Disk`] is opened once and shared; each thread has its own [`DiskQueue`]. A [`DiskRequest`]
//! is checked when it is submitted and trusted from there on. Its memory ([`Buffers`]) is pinned
//! until the kernel is through with it, whatever becomes of queue and device.
//!
//! What each part is for, one guest write followed through it: `docs/io-path.md`.
//!
//! What is done to disks while no guest uses them (create, check, copy, merge, …) is in [`tools`].
//!
//! What several initiators do to a disk at once is in [`scsi`] (what is asked), [`reservation`] (who
//! may) and [`iscsi`] (how it comes here).
//!
//! This crate knows neither KVM nor virtio. `unsafe` is found in `engine/`, which talks to the
//! kernel, and in `buffers.rs`, which holds addresses in guest memory; formats forbid it.

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod iscsi;
pub mod layer;
pub mod reservation;
pub mod scsi;
pub mod tools;

mod buffers;
mod chain;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod crash;
mod disk;
mod engine;
mod error;
mod file;
mod format;
mod formats;
mod identity;
mod image;
mod limits;
mod link;
mod lock;
mod medium;
mod numbered;
mod queue;
mod quoted;
mod request;
#[cfg(test)]
mod testkit;
mod transfer;
mod units;

pub use buffers::{AlignedBuffer, Buffers, Owner};
pub use chain::ChainError;
pub use disk::{Disk, DiskOptions, EngineChoice};
pub use error::{DiskError, IoError};
pub use format::{Format, UnknownFormat};
pub use formats::{FormatError, NewLayer};
pub use identity::{DeviceCounts, DeviceState, Digest, Fingerprint, Identity, LoopWindow, Untold};
pub use limits::Limits;
pub use link::{LinkError, Overridden, ParentLink};
pub use lock::Holder;
pub use medium::{Medium, RequestQueue};
pub use queue::{Answer, DiskQueue};
pub use request::{DiskRequest, Operation};
pub use units::{Bytes, DiskRange, FileOffset, SECTOR};
