//! One part of a queue, in memory that the driver writes to at any time.

#![expect(unsafe_code, reason = "rings are shared with the guest and reached through pointers")]

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

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
        #[cfg(test)]
        if !fuse::burn() {
            return;
        }
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
        #[cfg(test)]
        if !fuse::burn() {
            return;
        }
        for (offset, value) in [(offset, id), (offset + 4, len)] {
            if let Some(word) = self.at::<AtomicU32>(offset) {
                // SAFETY: as in `load`.
                unsafe { word.as_ref() }.store(value.to_le(), Ordering::Relaxed);
            }
        }
    }

    /// The byte at `offset`.
    pub(super) fn load_byte(&self, offset: usize) -> u8 {
        // SAFETY: as in `load`.
        let byte = self.at::<AtomicU8>(offset).map(|byte| unsafe { byte.as_ref() });
        byte.map_or(0, |byte| byte.load(Ordering::Relaxed))
    }

    /// Sets the byte at `offset`, after all stores before.
    pub(super) fn store_byte(&self, offset: usize, value: u8) {
        #[cfg(test)]
        if !fuse::burn() {
            return;
        }
        if let Some(byte) = self.at::<AtomicU8>(offset) {
            // SAFETY: as in `load`.
            unsafe { byte.as_ref() }.store(value, Ordering::Release);
        }
    }

    /// The 64-bit field at `offset`.
    pub(super) fn load_word(&self, offset: usize) -> u64 {
        // SAFETY: as in `load`.
        let word = self.at::<AtomicU64>(offset).map(|word| unsafe { word.as_ref() });
        word.map_or(0, |word| u64::from_le(word.load(Ordering::Relaxed)))
    }

    /// Sets the 64-bit field at `offset`, after all stores before.
    pub(super) fn store_word(&self, offset: usize, value: u64) {
        #[cfg(test)]
        if !fuse::burn() {
            return;
        }
        if let Some(word) = self.at::<AtomicU64>(offset) {
            // SAFETY: as in `load`.
            unsafe { word.as_ref() }.store(value.to_le(), Ordering::Release);
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

/// Ends the effect of a thread's stores after a number of them, as a killed process would.
#[cfg(test)]
pub(super) mod fuse {
    use std::cell::Cell;

    thread_local! {
        static STORES_LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// Lets this thread store so many times more; `None`: as often as it likes.
    pub(in crate::virtio::queue) fn set(stores: Option<u64>) {
        STORES_LEFT.set(stores);
    }

    /// Whether the fuse has blown.
    pub(in crate::virtio::queue) fn blown() -> bool {
        STORES_LEFT.get() == Some(0)
    }

    /// Whether the next store happens.
    pub(super) fn burn() -> bool {
        match STORES_LEFT.get() {
            None => true,
            Some(left) => {
                STORES_LEFT.set(Some(left.saturating_sub(1)));
                left > 0
            }
        }
    }
}
