//! One guest's machine: memory, processors, interrupts, devices.
//!
//! [`run`] is all that the rest of cohort needs: it builds the machine that a
//! [`VmSpec`](crate::spec::VmSpec) describes, runs it in the calling thread and one thread for
//! each virtual CPU, and says how the guest ended.

pub mod layout;
mod run;

pub use run::{Console, Control, run};
