//! What a block device needs of that which it shows to a guest.

use std::os::fd::BorrowedFd;

use crate::disk::Disk;
use crate::error::{DiskError, IoError};
use crate::limits::Limits;
use crate::queue::{Answer, DiskQueue};
use crate::request::DiskRequest;
use crate::units::Bytes;

/// Something with blocks: a [`Disk`] of one's own, or a share in one
/// ([`SharedMedium`](crate::scsi::SharedMedium)). Nothing of what it says changes.
pub trait Medium: Send + Sync {
    /// A thread's way to it.
    type Queue: RequestQueue + 'static;

    /// Its size, a multiple of its block size.
    fn size(&self) -> Bytes;
    /// The unit, in bytes, in which ranges of requests must be counted.
    fn logical_block_size(&self) -> u32;
    /// Bounds on requests without data.
    fn limits(&self) -> Limits;
    /// Whether changes are refused.
    fn read_only(&self) -> bool;
    /// A way to it for one thread, for up to `depth` requests at a time.
    ///
    /// # Errors
    /// The host lacks what a queue needs.
    fn queue(&self, depth: u16) -> Result<Self::Queue, DiskError>;
}

/// A thread's way to a [`Medium`], which works as [`DiskQueue`] does.
pub trait RequestQueue: Send {
    /// As [`DiskQueue::submit`].
    fn submit(&mut self, token: u64, request: DiskRequest) -> Option<Result<(), IoError>>;
    /// As [`DiskQueue::poll`].
    fn poll(&mut self, done: &mut Vec<Answer>);
    /// As [`DiskQueue::ready_fd`].
    fn ready_fd(&self) -> Option<BorrowedFd<'_>>;
    /// As [`DiskQueue::in_flight`].
    fn in_flight(&self) -> usize;
    /// As [`DiskQueue::drain`].
    fn drain(&mut self, done: &mut Vec<Answer>);
}

impl Medium for Disk {
    type Queue = DiskQueue;

    fn size(&self) -> Bytes {
        Disk::size(self)
    }
    fn logical_block_size(&self) -> u32 {
        Disk::logical_block_size(self)
    }
    fn limits(&self) -> Limits {
        Disk::limits(self)
    }
    fn read_only(&self) -> bool {
        Disk::read_only(self)
    }
    fn queue(&self, depth: u16) -> Result<DiskQueue, DiskError> {
        Disk::queue(self, depth)
    }
}

impl RequestQueue for DiskQueue {
    #[inline]
    fn submit(&mut self, token: u64, request: DiskRequest) -> Option<Result<(), IoError>> {
        DiskQueue::submit(self, token, request)
    }
    #[inline]
    fn poll(&mut self, done: &mut Vec<Answer>) {
        DiskQueue::poll(self, done);
    }
    fn ready_fd(&self) -> Option<BorrowedFd<'_>> {
        DiskQueue::ready_fd(self)
    }
    #[inline]
    fn in_flight(&self) -> usize {
        DiskQueue::in_flight(self)
    }
    fn drain(&mut self, done: &mut Vec<Answer>) {
        DiskQueue::drain(self, done);
    }
}
