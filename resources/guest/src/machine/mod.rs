//! The machine from CPL 3: everything that touches ports, physical memory and descriptor tables.

pub mod clock;
pub mod memory;
pub mod paging;
pub mod physical;
pub mod ports;
pub mod power;
pub mod ring0;
pub mod serial;
pub mod sleep;
pub mod traps;
