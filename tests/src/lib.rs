//! What cohort's integration tests share: the binary under test, the traces it may leave, the
//! processes it starts, images and archives for its guests, and second opinions on its disks.
//!
//! The tests themselves are in `tests/`, one file per topic, each test named after the guarantee
//! that it checks. They run the real binary.

pub mod cohort;
pub mod cpio;
pub mod disks;
pub mod iscsi;
pub mod linux;
pub mod node;
pub mod oracles;
pub mod processes;
pub mod qemu;
pub mod relay;
pub mod shared;
pub mod tgt;
pub mod tree;

pub use cohort::{Cohort, Finished, Running, kvm_is_there};
