//! Guest memory: what a guest sees as RAM, and which of its pages are really pages of files that
//! the host already holds in its page cache.
//!
//! [`GuestRam`] is one memfd, mapped in one region below 4 GiB and, when it is large, a second
//! above. [`GuestRam::place`] puts part of a file into it: where alignment permits, by mapping
//! the file's pages copy-on-write over RAM. Nothing is read then; pages that the guest does not
//! change are shared by every guest that was given the same file, and cost their memory once.
//!
//! This crate knows neither hypervisor nor devices.

mod ram;

pub use ram::{
    GuestMemory, GuestRam, MappingRecord, MemoryHandle, PAGE_SIZE, Placed, Placement, RamError,
    RamRegion,
};
