//! What guests hold of the host's memory, by where it comes from, and what they share.
//!
//! ```text
//! registry   which guests run, and what each was given          (entries in a run-time folder)
//! smaps      /proc/PID/smaps ─► mappings with their sizes
//! origin     mapping + what the guest was given ─► guest memory, kernel, pmem, share, program, …
//! account    parts of one guest; sharing: whom it shares them with, and what that saves
//! frames     the same by page frame numbers, where the host permits
//! series     a lab's samples over time ─► memory.csv, memory.json, memory.svg (plot)
//! ```
//!
//! Every figure is the host kernel's own (`Documentation/filesystems/proc.rst`), in KiB. Guests are
//! other processes: they can vanish at any moment, and what they map has names of any kind.

pub mod account;
pub mod error;
pub mod frames;
pub mod origin;
pub mod plot;
pub mod process;
pub mod registry;
pub mod series;
pub mod sharing;
pub mod smaps;

pub use account::{GuestAccount, OriginUse, Part};
pub use error::MemError;
pub use origin::{Given, Origin};
pub use process::Process;
pub use registry::Guest;
pub use sharing::Account;
pub use smaps::Sizes;
