//! Files whose pages guests share: what is mapped where, and whether it still is what it was.
//!
//! ```text
//! File ─► SharedRegion (opened once, identity kept) ─► Window (guest-physical range, by mmap)
//!            ▲      └─► Watch: what happens to the file meanwhile
//!    seal, private_copy: the same bytes in other pages
//! ```

#[cfg(test)]
mod alone;
mod copy;
mod domain;
mod error;
mod huge;
mod identity;
mod pieces;
mod record;
mod region;
mod watch;
mod window;

pub use copy::{from_sealed, private_copy, sealed_copy};
pub use domain::{Claim, Domain};
pub use error::ShareError;
pub use huge::Gathering;
pub use identity::FileIdentity;
pub use record::{Access, MappingRecord, RecordError, verify};
pub use region::{Change, Changed, SharedRegion};
pub use watch::Watch;
pub use window::{MAPPINGS_MAX, Mapped, Window, WindowRange};
