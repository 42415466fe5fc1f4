//! Memory that requests move bytes from and to.

#![expect(unsafe_code, reason = "requests carry addresses in guest memory to the kernel")]

use std::alloc::{self, Layout};
use std::any::Any;
use std::fmt;
use std::fs::File;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::engine::sys::{self, Patience};

/// What keeps the memory of some [`Buffers`] where it is.
pub type Owner = Arc<dyn Any + Send + Sync>;

/// A list of pieces of memory, taken together as one run of bytes, and the owner that keeps them
/// valid. Whoever holds `Buffers` may read and write the memory; a request keeps its buffers
/// until the kernel is through with them.
///
/// The memory is shared with a guest (or lent by the submitter), so it is only ever touched
/// through raw pointers, never through references.
#[derive(Default)]
pub struct Buffers {
    owner: Option<Owner>,
    /// Pieces with at least one byte; those before `first` are used up.
    pieces: SmallVec<[libc::iovec; 2]>,
    first: usize,
    len: u64,
}

// SAFETY: the pointers are valid for as long as `owner`, which is `Send` and `Sync`, and carry no
// tie to a thread.
unsafe impl Send for Buffers {}

impl Buffers {
    /// No memory, as flushes and discards need.
    pub fn none() -> Buffers {
        Buffers::default()
    }

    /// An empty list over memory that `owner` keeps; fill it with [`Buffers::push`].
    pub fn new(owner: Owner) -> Buffers {
        Buffers { owner: Some(owner), ..Buffers::default() }
    }

    /// All of `memory`. The submitter gets at its content again when the request is answered:
    /// then `Arc::get_mut` succeeds.
    pub fn whole(memory: &Arc<AlignedBuffer>) -> Buffers {
        let mut buffers = Buffers::new(Arc::clone(memory) as Owner);
        // SAFETY: the buffer's bytes live as long as the `Arc` just cloned, and nobody can make a
        // reference to them while there are two `Arc`s.
        unsafe { buffers.push(memory.start.as_ptr(), memory.len) };
        buffers
    }

    /// Appends `len` bytes at `start`.
    ///
    /// # Safety
    /// The bytes must stay mapped, readable and writable, for as long as the owner given to
    /// [`Buffers::new`] lives, and no Rust reference to them may be used while this list lives.
    pub unsafe fn push(&mut self, start: *mut u8, len: usize) {
        if len > 0 {
            self.pieces.push(libc::iovec { iov_base: start.cast(), iov_len: len });
            self.len = self.len.saturating_add(len as u64);
        }
    }

    /// Bytes in all pieces together.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces that are not used up, for a system call.
    pub(crate) fn iovecs(&self) -> &[libc::iovec] {
        self.pieces.get(self.first..).unwrap_or_default()
    }

    /// Whether every piece starts at a multiple of `address` and has a multiple of `length` bytes.
    pub(crate) fn is_aligned(&self, address: usize, length: usize) -> bool {
        self.iovecs().iter().all(|piece| {
            (piece.iov_base as usize).is_multiple_of(address)
                && piece.iov_len.is_multiple_of(length)
        })
    }

    /// Uses up the first `count` bytes, or all when there are fewer.
    pub fn advance(&mut self, count: u64) {
        self.consume(count, |_, _| ());
    }

    /// Takes the first `count` bytes, or all when there are fewer, into a list of their own.
    pub fn split_to(&mut self, count: u64) -> Buffers {
        if count >= self.len {
            return std::mem::take(self);
        }
        let mut head = Buffers { owner: self.owner.clone(), ..Buffers::default() };
        // SAFETY: a part of a piece of `self`, under the same owner.
        self.consume(count, |start, len| unsafe { head.push(start, len) });
        head
    }

    /// Fills the first bytes from `file`, beginning `at` bytes into it, and uses them up: all, or
    /// as many as there are before the file's end. Says how many.
    ///
    /// # Errors
    /// That of the first read, when not one byte was had.
    pub fn read_from(&mut self, file: &File, at: u64) -> io::Result<u64> {
        self.transfer(at, |data, at| sys::read(file, data, at, Patience::Wait))
    }

    /// Writes the first bytes to `file`, beginning `at` bytes into it, and uses them up: all, or
    /// as many as could be written. Says how many.
    ///
    /// # Errors
    /// That of the first write, when not one byte was written.
    pub fn write_to(&mut self, file: &File, at: u64) -> io::Result<u64> {
        self.transfer(at, |data, at| sys::write(file, data, at, Patience::Wait))
    }

    /// Writes the first bytes to the end of `file`, wherever that is by then, and uses them up;
    /// otherwise as [`Buffers::write_to`].
    ///
    /// # Errors
    /// As [`Buffers::write_to`].
    pub fn append_to(&mut self, file: &File) -> io::Result<u64> {
        self.transfer(0, |data, _| sys::append(file, data))
    }

    fn transfer(
        &mut self,
        at: u64,
        mut once: impl FnMut(&Buffers, u64) -> io::Result<u64>,
    ) -> io::Result<u64> {
        let mut done = 0;
        while !self.is_empty() {
            match once(self, at.saturating_add(done)) {
                Ok(0) => break,
                Ok(count) => {
                    self.advance(count);
                    done += count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Another list of the same memory, for a request that may have to be made again.
    pub(crate) fn duplicate(&self) -> Buffers {
        let Buffers { owner, pieces, first, len } = self;
        Buffers { owner: owner.clone(), pieces: pieces.clone(), first: *first, len: *len }
    }

    /// Zeroes the first `count` bytes and uses them up.
    pub(crate) fn fill_zero(&mut self, count: u64) {
        // SAFETY: `consume` passes parts of pieces, valid under the contract of `push`.
        self.consume(count, |start, len| unsafe { start.write_bytes(0, len) });
    }

    /// Copies the first bytes into `to`, as many as fit, and uses them up.
    pub fn copy_to(&mut self, to: &mut [u8]) {
        let mut done = 0;
        let (to, room) = (to.as_mut_ptr(), to.len());
        self.consume(room as u64, |start, len| {
            // SAFETY: `consume` passes `room` bytes at most in all, from memory valid under the
            // contract of `push`, which `to`, a unique reference, cannot overlap.
            unsafe { std::ptr::copy_nonoverlapping(start, to.add(done), len) };
            done += len;
        });
    }

    /// Copies `from` over the first bytes, as many as there are, and uses them up.
    pub fn copy_from(&mut self, from: &[u8]) {
        let mut done = 0;
        self.consume(from.len() as u64, |start, len| {
            // SAFETY: `consume` passes `from.len()` bytes at most in all, of memory valid under
            // the contract of `push`, to which no reference (such as `from`) may be in use.
            unsafe { std::ptr::copy_nonoverlapping(from.as_ptr().add(done), start, len) };
            done += len;
        });
    }

    /// Calls `each` with the parts that make up the first `count` bytes, and uses these up.
    fn consume(&mut self, count: u64, mut each: impl FnMut(*mut u8, usize)) {
        let mut left = count.min(self.len);
        self.len -= left;
        while left > 0 {
            let Some(piece) = self.pieces.get_mut(self.first) else { return };
            let part = piece.iov_len.min(usize::try_from(left).unwrap_or(usize::MAX));
            each(piece.iov_base.cast(), part);
            piece.iov_len -= part;
            piece.iov_base = piece.iov_base.cast::<u8>().wrapping_add(part).cast();
            left -= part as u64;
            if piece.iov_len == 0 {
                self.first += 1;
            }
        }
    }
}

impl fmt::Debug for Buffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffers({} bytes in {} pieces)", self.len, self.iovecs().len())
    }
}

/// Zeroed memory of this process at an address that suits any disk (a multiple of 4096). Its
/// bytes can be seen only through a unique reference, so they are safe to lend to the kernel.
pub struct AlignedBuffer {
    start: NonNull<u8>,
    len: usize,
    layout: Layout,
}

// SAFETY: the allocation is this value's own, and a shared reference gives no access to it.
unsafe impl Send for AlignedBuffer {}
// SAFETY: as above.
unsafe impl Sync for AlignedBuffer {}

impl AlignedBuffer {
    /// The address' alignment in bytes.
    pub const ALIGNMENT: usize = 4096;

    /// Allocates `len` bytes, all zero.
    pub fn new(len: usize) -> AlignedBuffer {
        let layout = Layout::from_size_align(len.max(1), Self::ALIGNMENT)
            .unwrap_or(Layout::new::<[u8; Self::ALIGNMENT]>());
        let len = len.min(layout.size());
        // SAFETY: the layout has at least one byte.
        let start = unsafe { alloc::alloc_zeroed(layout) };
        match NonNull::new(start) {
            Some(start) => AlignedBuffer { start, len, layout },
            None => alloc::handle_alloc_error(layout),
        }
    }

    /// The bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: `len` initialised bytes of our own, borrowed uniquely through `self`.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { alloc::dealloc(self.start.as_ptr(), self.layout) };
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuffer({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A list of pieces of the given sizes, side by side in one allocation of `0, 1, 2, …`.
    fn pieces(sizes: &[usize]) -> (Arc<AlignedBuffer>, Buffers) {
        let mut memory = AlignedBuffer::new(sizes.iter().sum());
        for (at, byte) in memory.bytes().iter_mut().enumerate() {
            *byte = u8::try_from(at % 251).unwrap();
        }
        let memory = Arc::new(memory);
        let mut whole = Buffers::whole(&memory);
        let mut list = Buffers::new(Arc::clone(&memory) as Owner);
        for &size in sizes {
            for piece in whole.split_to(size as u64).iovecs() {
                // SAFETY: a piece of `memory`, which the list's owner keeps.
                unsafe { list.push(piece.iov_base.cast(), piece.iov_len) };
            }
        }
        (memory, list)
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_bytes(
            sizes in proptest::collection::vec(0usize..40, 1..12),
            cuts in proptest::collection::vec(0u64..60, 0..12),
        ) {
            let (_memory, mut list) = pieces(&sizes);
            let total: usize = sizes.iter().sum();
            prop_assert_eq!(list.len(), total as u64);
            let mut seen = Vec::new();
            for cut in cuts.into_iter().chain([u64::MAX]) {
                let mut head = list.split_to(cut);
                let mut bytes = vec![0; usize::try_from(head.len()).unwrap()];
                head.copy_to(&mut bytes);
                prop_assert!(head.is_empty() && head.iovecs().is_empty());
                seen.extend(bytes);
            }
            let wanted: Vec<u8> = (0..total).map(|at| u8::try_from(at % 251).unwrap()).collect();
            prop_assert_eq!(seen, wanted);
        }
    }

    #[test]
    fn copying_and_zeroing_reach_only_their_bytes() {
        let (mut memory, mut list) = pieces(&[3, 4, 5]);
        list.advance(2);
        list.copy_from(&[100, 101, 102]);
        list.fill_zero(4);
        assert_eq!(list.len(), 3);
        drop(list);
        let bytes = Arc::get_mut(&mut memory).map(AlignedBuffer::bytes).unwrap();
        assert_eq!(bytes, [0, 1, 100, 101, 102, 0, 0, 0, 0, 9, 10, 11]);
    }
}
