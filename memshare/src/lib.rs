//! Guest memory: what a guest sees as RAM, and which of its pages are really pages of files that
//! the host already holds in its page cache.
//!
//! [`GuestRam`] is one memfd, mapped in one region below 4 GiB and, when it is large, a second
//! above. [`GuestRam::place`] puts part of a file into it: where alignment permits, by mapping
//! the file's pages copy-on-write over RAM. Nothing is read then; pages that the guest does not
//! change are shared by every guest that was given the same file, and cost their memory once.
//!
//! [`Window`] is a range of guest memory beside RAM that is filled from files: the device that
//! offers it decides which, and [`SharedRegion`] is such a file. [`Window::record`] and
//! [`GuestRam::record`] tell at any time what is mapped where.
//!
//! This crate knows neither hypervisor nor devices.

mod ram;
mod share;

pub use ram::{
    GuestMemory, GuestRam, MemoryHandle, PAGE_SIZE, Placed, Placement, RamError, RamRegion,
};
pub use share::{
    Access, Change, Changed, Claim, Domain, FileIdentity, Gathering, MAPPINGS_MAX, Mapped,
    MappingRecord, RecordError, ShareError, SharedRegion, Watch, Window, WindowRange, from_sealed,
    private_copy, sealed_copy, verify,
};
