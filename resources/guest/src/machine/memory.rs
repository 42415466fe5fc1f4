//! Free memory of the guest, as devices see it too.
#![expect(unsafe_code, reason = "memory that devices change is reached by its address")]

use core::ptr;

use super::physical;

/// Free memory, given out from its start upwards. What was never given out is never touched: the
/// host gives memory to a guest page by page, and counts.
#[derive(Debug)]
pub struct Pool {
    next: u64,
    end: u64,
}

/// A place in a pool to go back to.
#[derive(Clone, Copy, Debug)]
pub struct Mark(u64);

impl Pool {
    /// The memory from `start` to `end`, as far as it is mapped.
    ///
    /// # Safety
    /// It is RAM, and nothing else uses it.
    pub unsafe fn new(start: u64, end: u64) -> Pool {
        Pool { next: start, end: end.min(physical::MAPPED) }
    }

    /// Takes `len` bytes, aligned to `align` (a power of two), whatever they contain. `None` if
    /// there are not so many.
    pub fn take(&mut self, len: u64, align: u64) -> Option<Dma> {
        let address = self.next.checked_next_multiple_of(align)?;
        self.next = address.checked_add(len).filter(|end| *end <= self.end)?;
        Some(Dma { address, len })
    }

    /// The same, all zero.
    pub fn take_zeroed(&mut self, len: u64, align: u64) -> Option<Dma> {
        let memory = self.take(len.checked_next_multiple_of(8)?, align.max(8))?;
        (0..memory.len / 8).for_each(|word| memory.write64(word * 8, 0));
        Some(memory)
    }

    /// Where giving out stands.
    pub fn mark(&self) -> Mark {
        Mark(self.next)
    }

    /// Takes back everything that was given out since `mark`. It may be given out again, so no
    /// device may have it in use; a device writing late could only change data, since all
    /// accesses here are to plain words.
    pub fn release(&mut self, mark: Mark) {
        self.next = self.next.min(mark.0);
    }

    /// Bytes that are left.
    pub fn left(&self) -> u64 {
        self.end.saturating_sub(self.next)
    }
}

/// A piece of memory shared with devices: words that may change at any time, so every access is
/// volatile. Outside its end nothing is written and zero is read.
#[derive(Clone, Copy, Debug)]
pub struct Dma {
    address: u64,
    len: u64,
}

macro_rules! accessors {
    ($read:ident, $write:ident, $type:ty) => {
        #[doc = concat!("Reads a `", stringify!($type), "` at `offset`, a multiple of its size.")]
        #[inline]
        pub fn $read(self, offset: u64) -> $type {
            match self.place::<$type>(offset) {
                // SAFETY: inside this piece of RAM, and aligned.
                Some(place) => unsafe { place.read_volatile() },
                None => 0,
            }
        }

        #[doc = concat!("Writes a `", stringify!($type), "` at `offset`, a multiple of its size.")]
        #[inline]
        pub fn $write(self, offset: u64, value: $type) {
            if let Some(place) = self.place::<$type>(offset) {
                // SAFETY: inside this piece of RAM, and aligned; no reference to it exists.
                unsafe { place.write_volatile(value) }
            }
        }
    };
}

impl Dma {
    /// The memory at `address`.
    ///
    /// # Safety
    /// It is memory, not registers, the page tables map it, and there are no references to it.
    pub(super) unsafe fn new(address: u64, len: u64) -> Dma {
        Dma { address, len }
    }

    /// Reads all of it, by words, eight at a time. What is behind the last eight is left out.
    pub fn scan(self) {
        const STEP: u64 = 64;
        let Some(mut place) = self.place::<u64>(0) else { return };
        for _ in 0..self.len / STEP {
            for word in 0..8 {
                // SAFETY: inside this piece of memory, and aligned.
                let _ = unsafe { place.add(word).read_volatile() };
            }
            place = place.wrapping_add(8);
        }
    }

    /// Where it is, guest-physical: what devices are told.
    pub fn address(self) -> u64 {
        self.address
    }

    /// Its length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "never asked")]
    pub fn len(self) -> u64 {
        self.len
    }

    /// The part from `offset` on, `len` bytes, cut where this piece ends.
    pub fn part(self, offset: u64, len: u64) -> Dma {
        let offset = offset.min(self.len);
        Dma { address: self.address + offset, len: len.min(self.len - offset) }
    }

    accessors!(read8, write8, u8);
    accessors!(read16, write16, u16);
    accessors!(read32, write32, u32);
    accessors!(read64, write64, u64);

    #[inline]
    fn place<T>(self, offset: u64) -> Option<*mut T> {
        let inside = offset.checked_add(size_of::<T>() as u64).is_some_and(|end| end <= self.len);
        let address = usize::try_from(self.address.wrapping_add(offset)).ok()?;
        (inside && address.is_multiple_of(align_of::<T>()))
            .then(|| ptr::with_exposed_provenance_mut(address))
    }
}
