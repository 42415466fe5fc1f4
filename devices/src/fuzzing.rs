//! What fuzzers call.

pub use crate::virtio::fs::fuse::fuzzing::{fuse, fuse_seeds};
pub use crate::virtio::vhost_user::backend::fuzzing::{vhost_user, vhost_user_seeds};
