//! One guest's machine: memory, processors, interrupts, devices.
//!
//! [`run()`] is all that the rest of cohort needs: it builds the machine that a
//! [`VmSpec`](crate::spec::VmSpec) describes, runs it, and says how the guest ended.
//!
//! | file | what it does |
//! | --- | --- |
//! | `run` | from description to outcome: the order of everything |
//! | `build` | puts the machine together |
//! | `board`, `disk`, `pmem`, `share` | the devices and where they are |
//! | `kvm`, `memory`, `irq` | the virtual machine, its memory slots, its interrupts |
//! | `domain` | with whom pages of files are shared |
//! | `windows` | memory of devices as part of guest memory |
//! | `cpuid`, `features`, `regs` | what processors are and how they start |
//! | `vcpu`, `kick`, `crash` | running them, stopping them, explaining their failures |
//! | `acpi`, `reset_vector` | what the guest's kernel finds in place of a firmware |
//! | `events`, `console`, `ending` | the calling thread: signals, time-out, console, the end |
//! | `lost_pages` | when a file that is part of guest memory is shortened |
//! | `usage`, `startup_pages` | what it costs the host, and making it less |
//!
//! One thread runs each virtual CPU; the thread that called [`run()`] waits for the end. Devices
//! start threads of their own when the guest's driver starts the device.

mod acpi;
mod board;
mod build;
mod console;
mod cpuid;
mod crash;
mod disk;
mod domain;
mod ending;
mod error;
mod events;
pub(crate) mod features;
mod irq;
mod kick;
mod kvm;
pub mod layout;
mod lost_pages;
mod memory;
mod pmem;
mod regs;
mod reset_vector;
mod run;
mod share;
mod startup_pages;
pub(crate) mod usage;
mod vcpu;
mod windows;

#[cfg(test)]
mod tests;

use error::MachineError;
pub use kvm::{NEEDED, is_kvm_pvm, permission_mend};
pub use run::{Console, Control, run};
