//! What fuzzers call.

pub use crate::virtio::vhost_user::backend::fuzzing::{vhost_user, vhost_user_seeds};
