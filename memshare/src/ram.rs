//! [`GuestRam`]: a guest's RAM as one memfd, and files placed in it.

mod error;
mod place;
#[cfg(test)]
mod tests;
mod windows;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};

use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap, MmapRegion,
};

pub use error::RamError;
pub use place::{Placed, Placement};

/// Guest memory as devices and loaders access it.
pub type GuestMemory = GuestMemoryMmap<()>;
/// A handle on guest memory that can be cloned and kept.
pub type MemoryHandle = GuestMemoryAtomic<GuestMemory>;

/// Bytes of a page, the unit in which files are mapped into RAM.
pub const PAGE_SIZE: u64 = 4096;

/// A guest's RAM.
///
/// It is one memfd of the guest's memory size, sealed against shrinking and growing, so that a
/// process that is handed the descriptor (a vhost-user backend) can map it without fear of
/// `SIGBUS`. Nothing is touched or reserved up front: an untouched page costs nothing.
///
/// RAM lies at `[0, low_end)`; what does not fit goes on at `high_start`. The memfd has no hole:
/// the high region continues where the low one ends.
#[derive(Debug)]
pub struct GuestRam {
    memory: MemoryHandle,
    /// The regions of `memory`; they keep the mappings that `place` writes to alive.
    regions: Vec<Arc<GuestRegionMmap<()>>>,
    memfd: Arc<std::fs::File>,
    size: u64,
    placements: Mutex<Vec<place::Range>>,
    windows: Mutex<Vec<windows::Placed>>,
}

/// One contiguous range of RAM, as a hypervisor's memory slot needs it.
#[derive(Clone, Copy, Debug)]
pub struct RamRegion {
    /// First guest-physical address.
    pub start: GuestAddress,
    /// Length in bytes, a multiple of [`PAGE_SIZE`].
    pub len: u64,
    /// Where the region begins in the memfd.
    pub memfd_offset: u64,
    /// Where the region is mapped in this process, for as long as the [`GuestRam`] lives.
    pub host: *mut u8,
}

impl GuestRam {
    /// Makes RAM of `size` bytes at `[0, low_end)` and, for what does not fit, from `high_start`.
    ///
    /// All three are multiples of [`PAGE_SIZE`], and `low_end <= high_start`.
    ///
    /// # Errors
    /// [`RamError::Layout`] if they are not; [`RamError::Create`] and [`RamError::Map`] if the
    /// host refuses.
    pub fn new(size: u64, low_end: u64, high_start: u64) -> Result<GuestRam, RamError> {
        let layout = || RamError::Layout { size, low_end, high_start };
        let aligned =
            [size, low_end, high_start].iter().all(|value| value.is_multiple_of(PAGE_SIZE));
        let high_len = size.saturating_sub(low_end);
        if size == 0
            || low_end == 0
            || !aligned
            || low_end > high_start
            || high_start.checked_add(high_len).is_none()
        {
            return Err(layout());
        }

        let memfd = Arc::new(place::sealed_memfd(size)?);
        let mut regions = Vec::with_capacity(2);
        for (start, len, offset) in [(0, size.min(low_end), 0), (high_start, high_len, low_end)] {
            if len == 0 {
                continue;
            }
            let len =
                usize::try_from(len).map_err(|_| RamError::Layout { size, low_end, high_start })?;
            let backing = FileOffset::from_arc(memfd.clone(), offset);
            let mapping = MmapRegion::build(
                Some(backing),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
            )
            .map_err(|source| RamError::Map { len, source })?;
            let region = GuestRegionMmap::new(mapping, GuestAddress(start))
                .ok_or(RamError::Layout { size, low_end, high_start })?;
            regions.push(Arc::new(region));
        }
        // The regions are ordered and disjoint by construction, so this refuses nothing that the
        // check above let through.
        let memory = GuestMemory::from_arc_regions(regions.clone()).map_err(|_| layout())?;
        Ok(GuestRam {
            memory: MemoryHandle::new(memory),
            regions,
            memfd,
            size,
            placements: Mutex::default(),
            windows: Mutex::default(),
        })
    }

    /// The memory, for devices and loaders.
    pub fn memory(&self) -> &MemoryHandle {
        &self.memory
    }

    /// Bytes of RAM.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The memfd behind it. Pages placed copy-on-write are *not* in it, nor do they ever get
    /// there: see [`Placement`].
    pub fn memfd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }

    /// The contiguous ranges of RAM, in ascending order.
    pub fn regions(&self) -> impl Iterator<Item = RamRegion> + '_ {
        self.regions.iter().map(|region| RamRegion {
            start: region.start_addr(),
            len: region.len(),
            memfd_offset: region.file_offset().map_or(0, FileOffset::start),
            host: region.as_ptr(),
        })
    }
}
