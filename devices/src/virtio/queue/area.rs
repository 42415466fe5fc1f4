//! One part of a queue, in memory that the driver writes to at any time.

#![expect(unsafe_code, reason = "rings are shared with the guest and reached through pointers")]

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use memshare::GuestMemory;
use vm_memory::{GuestAddress, GuestMemoryBackend};

/// `len` bytes of guest memory, valid for as long as this value lives. All accesses are atomic,
/// since the guest makes its own meanwhile. Accesses that are misaligned or out of bounds, which
/// the queue never makes, read 0 or do nothing.
pub(super) struct Area {
    start: NonNull<u8>,
    len: usize,
    /// Keeps the bytes mapped.
    _memory: Arc<GuestMemory>,
}

// SAFETY: the pointer is valid in every thread while `_memory` lives, and accesses are atomic.
unsafe impl Send for Area {}

impl Area {
    /// The `len` bytes at `address`; `None` unless it is a multiple of `align` and all of them
    /// are in one region of `memory`.
    pub(super) fn new(
        memory: &Arc<GuestMemory>,
        address: GuestAddress,
        len: usize,
        align: u64,
    ) -> Option<Area> {
        let slice = memory.get_slice(address, len).ok()?;
        let start = NonNull::new(slice.ptr_guard_mut().as_ptr())?;
        let aligned = address.0.is_multiple_of(align)
            && (start.as_ptr() as usize as u64).is_multiple_of(align);
        (aligned && slice.len() == len).then(|| Area { start, len, _memory: Arc::clone(memory) })
    }

    /// The 16-bit field at `offset`.
    pub(super) fn load(&self, offset: usize, order: Ordering) -> u16 {
        // SAFETY: an `AtomicU16` may be anything, and `at` has checked bounds and alignment.
        let field = self.at::<AtomicU16>(offset).map(|field| unsafe { field.as_ref() });
        field.map_or(0, |field| u16::from_le(field.load(order)))
    }

    /// Sets the 16-bit field at `offset`.
    pub(super) fn store(&self, offset: usize, value: u16, order: Ordering) {
        if let Some(field) = self.at::<AtomicU16>(offset) {
            // SAFETY: as in `load`.
            unsafe { field.as_ref() }.store(value.to_le(), order);
        }
    }

    /// The two 64-bit words of the descriptor at `offset`.
    pub(super) fn descriptor(&self, offset: usize) -> [u64; 2] {
        [offset, offset + 8].map(|offset| {
            // SAFETY: as in `load`.
            let word = self.at::<AtomicU64>(offset).map(|word| unsafe { word.as_ref() });
            word.map_or(0, |word| u64::from_le(word.load(Ordering::Relaxed)))
        })
    }

    /// Sets the used ring element at `offset`.
    pub(super) fn store_used(&self, offset: usize, id: u32, len: u32) {
        for (offset, value) in [(offset, id), (offset + 4, len)] {
            if let Some(word) = self.at::<AtomicU32>(offset) {
                // SAFETY: as in `load`.
                unsafe { word.as_ref() }.store(value.to_le(), Ordering::Relaxed);
            }
        }
    }

    /// Where the `T` at `offset` is, if it is all inside and aligned.
    fn at<T>(&self, offset: usize) -> Option<NonNull<T>> {
        let end = offset.checked_add(size_of::<T>())?;
        if end > self.len {
            return None;
        }
        // SAFETY: `offset` is within the `len` bytes from `start`.
        let field = unsafe { self.start.add(offset) }.cast::<T>();
        field.is_aligned().then_some(field)
    }
}
