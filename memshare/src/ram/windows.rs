//! Windows beside RAM, for devices to reach.
#![expect(unsafe_code, reason = "a region of guest memory over a window's address space")]

use std::sync::{Arc, MutexGuard, PoisonError};

use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{GuestAddress, GuestAddressSpace, GuestRegionMmap};

use super::{GuestRam, RamError};
use crate::share::{MappingRecord, Window};

/// A window, and where it begins in guest memory.
#[derive(Debug)]
pub(super) struct Placed {
    start: GuestAddress,
    window: Arc<Window>,
}

impl GuestRam {
    /// Makes a window part of guest memory from `start` on, so that devices reach it: those that
    /// start after this. The window's address space stays for as long as this process lives,
    /// since nobody knows how long devices use it.
    ///
    /// # Errors
    /// [`RamError::WindowOverlap`] with RAM or another window, or the end of the address space.
    pub fn add_window(&self, start: GuestAddress, window: &Arc<Window>) -> Result<(), RamError> {
        let overlap = || RamError::WindowOverlap { start, len: window.len() };
        let bytes = usize::try_from(window.len()).map_err(|_| overlap())?;
        // SAFETY: the window's own address space, which is mapped readable and writable for good:
        // `keep_for_good` below.
        let mapping = unsafe {
            MmapRegionBuilder::<()>::new(bytes)
                .with_raw_mmap_pointer(window.host())
                .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_NORESERVE)
                .build()
        };
        let mapping = mapping.map_err(|source| RamError::Map { len: bytes, source })?;
        let region = GuestRegionMmap::new(mapping, start).ok_or_else(overlap)?;
        let mut windows = self.windows();
        let memory = self.memory.memory().insert_region(Arc::new(region)).map_err(|_| overlap())?;
        if let Ok(guard) = self.memory.lock() {
            guard.replace(memory);
        }
        window.keep_for_good();
        windows.push(Placed { start, window: Arc::clone(window) });
        Ok(())
    }

    /// Takes the window that begins at `start` out of guest memory again, if there is one. Devices
    /// that are at work may still reach its address space.
    pub fn remove_window(&self, start: GuestAddress) -> Option<Arc<Window>> {
        let mut windows = self.windows();
        let at = windows.iter().position(|placed| placed.start == start)?;
        let placed = windows.swap_remove(at);
        let (memory, _) = self.memory.memory().remove_region(start, placed.window.len()).ok()?;
        if let Ok(guard) = self.memory.lock() {
            guard.replace(memory);
        }
        Some(placed.window)
    }

    pub(super) fn windows_record(&self) -> Vec<MappingRecord> {
        let windows = self.windows();
        windows.iter().flat_map(|placed| placed.window.record(placed.start.0)).collect()
    }

    fn windows(&self) -> MutexGuard<'_, Vec<Placed>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for GuestRam {
    /// The windows' address space stays, but what is mapped there does not.
    fn drop(&mut self) {
        for placed in self.windows().drain(..) {
            placed.window.clear();
        }
    }
}
