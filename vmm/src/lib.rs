//! The cohort virtual machine monitor.

pub mod kernel;
pub mod machine;
pub mod outcome;
pub mod spec;
