//! The file system device (virtio 1.3, 5.11): a folder of the host as a guest's file system.
//!
//! ```text
//!  queue ──► Chain ──► Requests::take ──► Pool (threads) ──► fuse::Server ──► the folder
//!    ▲                                                            │   │
//!    └── push_used ◄── Requests::return_answers ◄── Answer ◄──────┘   └──► Dax ──► memshare::Window
//! ```
//!
//! The high priority queue and every request queue have a thread of their own, which only takes
//! requests and returns them: all of them are carried out by the threads of one `pool`, so that
//! one that is slow does not keep others waiting. What does not take time, such as FORGET, is done
//! at once. The window for direct access (`dax`) is region 0 of the device's shared memory.

mod config;
mod dax;
mod device;
pub mod fuse;
mod pool;
mod requests;
#[cfg(test)]
mod tests;

pub use config::{TAG_MAX, Tag, TagError};
pub use dax::Dax;
pub use device::Fs;
