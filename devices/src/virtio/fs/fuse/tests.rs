//! A client that speaks FUSE to the server, and what it finds.

mod bounds;
mod client;
mod escapes;
mod files;
mod hostile;
mod locking;
mod mapping;
mod model;
mod mounts;
