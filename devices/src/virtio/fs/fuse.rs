//! FUSE (protocol 7.38) as a virtio file system speaks it, and the [`Server`] behind it, which
//! passes a folder of the host through. Knows nothing of virtio: a [`Request`] is two lists of
//! memory, a [`Reply`] is told how much of the second was filled.
//!
//! What a guest sends is never trusted. Names are single components, resolved with `openat2`
//! beneath folders that are held open, without following links; files are opened only through the
//! descriptor that a lookup pinned, and only when they are regular. What a guest can hold is
//! bounded by [`Limits`].

mod attributes;
mod creating;
mod credentials;
mod directories;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod handles;
mod init;
mod inodes;
mod locks;
mod mapping;
mod messages;
mod names;
mod options;
mod reading;
mod removing;
mod request;
mod server;
mod sys;
mod waiting;
mod writing;
mod xattr;

#[cfg(test)]
mod tests;

pub use mapping::DaxWindow;
pub use options::{Caching, FsOptions, IdRange, Ids, Limits, Mounts, Xattrs};
pub use request::{Reply, Request};
pub use server::{Server, ServerError};
