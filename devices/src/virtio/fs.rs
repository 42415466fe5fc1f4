//! The file system device (virtio 1.3, 5.11): a folder of the host as a guest's file system.

pub mod fuse;
