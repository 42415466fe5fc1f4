//! The cohort virtual machine monitor.

pub mod bench;
pub mod kernel;
pub mod machine;
pub mod outcome;
pub mod spec;
