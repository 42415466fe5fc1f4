//! What is done to disks while no guest uses them: create, look at, check, copy, merge.
//!
//! Plain functions that print nothing. What takes long tells a [`Progress`], which may also stop
//! it. A new file gets its name when it is complete and durable, so nobody
//! ever finds half of one; a file that is changed keeps its order of writes, so that a crash leaves
//! chains that open as before or say what does not fit.

#![forbid(unsafe_code)]

mod check;
mod commit;
mod compare;
mod convert;
mod create;
mod digest;
mod error;
mod info;
mod io;
mod lasting;
mod map;
mod name;
mod new_file;
mod one;
mod relink;
mod siblings;
#[cfg(test)]
mod tests;
mod text;

pub use check::{Checked, CheckedLayer, check};
pub use commit::{Commit, Committed, commit};
pub use compare::{Compared, compare};
pub use convert::{Convert, Converted, convert};
pub use create::{Create, Created, create, temporary_child};
pub use digest::digest;
pub use error::ToolError;
pub use info::{DiskInfo, LayerEntry, Linkage, info};
pub use map::{MapEntry, MapState, map};
pub use name::DiskName;
pub use relink::{Relink, Relinked, relink};
pub use siblings::{Children, children_of};

/// Takes part in long work.
pub trait Progress {
    /// `done` of `total` bytes are through.
    fn advance(&self, done: u64, total: u64);
    /// Whether to stop: the work then ends with [`ToolError::Interrupted`] and leaves nothing new.
    fn cancelled(&self) -> bool;
}

/// Nobody looks and nobody stops it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl Progress for Unwatched {
    fn advance(&self, _done: u64, _total: u64) {}

    fn cancelled(&self) -> bool {
        false
    }
}

/// Reports progress; an error when the work is to stop.
fn step(progress: &dyn Progress, done: u64, total: u64) -> Result<(), ToolError> {
    progress.advance(done, total);
    if progress.cancelled() { Err(ToolError::Interrupted) } else { Ok(()) }
}
