//! The cohort virtual machine monitor.

pub mod bench;
pub mod kernel;
pub mod lab;
pub mod machine;
pub mod mem;
pub mod outcome;
pub mod shared_disk;
pub mod signals;
pub mod spec;
pub mod units;
