//! The built-in guest: a small kernel that runs a script from its command line.
//!
//! The same files are two things. With `main.rs` on top they are the kernel image that
//! `resources/build.rs` makes. As an ordinary library they let the host parse the same scripts
//! and compute the same patterns as the guest, and they are tested and linted there.
#![no_std]

pub mod boot;
pub mod machine;
pub mod pattern;
pub mod pci;
pub mod run;
pub mod script;
pub mod status;
pub mod units;
pub mod virtio;
