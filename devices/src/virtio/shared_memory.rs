//! Memory that a device shares with its driver (virtio 1.3, 2.10).

use std::fmt;
use std::io;
use std::sync::Arc;

use memshare::Window;

/// The region of shared memory of a device.
#[derive(Clone)]
pub struct SharedMemory {
    /// Its number, which says what it is for.
    pub id: u8,
    /// Its bytes. Their number is a multiple of 2 MiB, which a guest's pages for devices start at.
    pub window: Arc<Window>,
    /// Whether virtual CPUs may write to it. What they write otherwise is lost.
    pub writable: bool,
    /// Who puts it into guest memory.
    pub placer: Arc<dyn WindowPlacer>,
}

/// The hypervisor and guest memory, as far as windows need them.
pub trait WindowPlacer: Send + Sync {
    /// Makes `memory` part of guest memory at the guest-physical address `at`, for virtual CPUs and
    /// for devices that start later, and of no other address; with `None`, of none.
    ///
    /// # Errors
    /// What is there already, or what the hypervisor answers; then it is at no address.
    fn place(&self, memory: &SharedMemory, at: Option<u64>) -> io::Result<()>;

    /// Is told of an access of a virtual CPU to `memory`, `offset` bytes from its start, that the
    /// hypervisor did not carry out: a write to memory that is not writable, or an access to what a
    /// file has lost.
    fn missed(&self, memory: &SharedMemory, offset: u64, write: bool);
}

impl fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedMemory")
            .field("id", &self.id)
            .field("window", &self.window)
            .field("writable", &self.writable)
            .finish_non_exhaustive()
    }
}
