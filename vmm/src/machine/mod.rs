//! One guest's machine: memory, processors, interrupts, devices.

pub mod layout;
