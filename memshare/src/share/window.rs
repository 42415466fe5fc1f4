//! A range of guest memory that is filled by mapping files into it.
#![expect(unsafe_code, reason = "mmap over address space that was reserved")]

#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::pieces::{Piece, Pieces};
use super::{Access, MappingRecord, ShareError, SharedRegion};
use crate::PAGE_SIZE;

/// Most ranges of a window that are mapped from files, neighbours that continue each other counted
/// as one. Each costs the host's kernel a structure or two (`vm.max_map_count` bounds these).
pub const MAPPINGS_MAX: usize = 16384;
/// Mappings that are left to the rest of this process.
const MAPS_MARGIN: usize = 4096;

/// Ranges of all windows of this process.
static MAPPED: AtomicUsize = AtomicUsize::new(0);

/// Address space of this process that stands for a range of guest-physical memory.
///
/// Where no file is mapped, there is memory of zeroes that costs nothing until it is written to,
/// so that no access to a window ever faults in this process, whatever a guest does; the exception
/// are pages that a file has lost since they were mapped (`SIGBUS`).
///
/// It is unmapped when it is dropped, unless it has been [kept](Window::keep_for_good).
#[derive(Debug)]
pub struct Window {
    name: String,
    host: *mut u8,
    len: u64,
    pieces: Mutex<Pieces>,
}

// SAFETY: the pointer is to memory that belongs to the window, of which there are no references.
unsafe impl Send for Window {}
// SAFETY: changes of mappings are made under a lock.
unsafe impl Sync for Window {}

/// A range of whole pages inside a window of some length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowRange {
    offset: u64,
    len: u64,
}

/// What a host address of a window belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// The window's name.
    pub window: String,
    /// The file's name.
    pub path: PathBuf,
    /// Which byte of the file.
    pub offset: u64,
}

impl Window {
    /// Reserves `len` bytes, whole pages, at a host address that is a multiple of `align`, a power
    /// of two of at least a page. `name` is the device's, for messages and records.
    ///
    /// # Errors
    /// The host has no such room, or the numbers are none.
    pub fn reserve(name: &str, len: u64, align: u64) -> Result<Arc<Window>, ShareError> {
        let fail = |source| ShareError::Reserve { name: name.to_owned(), len, source };
        let invalid = || fail(io::ErrorKind::InvalidInput.into());
        if len == 0
            || !len.is_multiple_of(PAGE_SIZE)
            || !align.is_power_of_two()
            || align < PAGE_SIZE
        {
            return Err(invalid());
        }
        let bytes = usize::try_from(len).map_err(|_| invalid())?;
        let align = usize::try_from(align).map_err(|_| invalid())?;
        let whole = bytes.checked_add(align).ok_or_else(invalid)?;
        // SAFETY: new address space.
        let start = unsafe { map_zeroes(null_mut(), whole, 0) }.map_err(fail)?;
        let skip = (start as usize).next_multiple_of(align) - start as usize;
        let host = start.wrapping_add(skip);
        // SAFETY: the parts of the new mapping before and behind the window, which nobody knows of.
        unsafe {
            if skip > 0 {
                libc::munmap(start.cast(), skip);
            }
            if align > skip {
                libc::munmap(host.wrapping_add(bytes).cast(), align - skip);
            }
        }
        Ok(Arc::new(Window { name: name.to_owned(), host, len, pieces: Mutex::default() }))
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Never: for the sake of convention.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it is in this process.
    pub fn host(&self) -> *mut u8 {
        self.host
    }

    /// The `len` bytes from `offset` on: whole pages, at least one, inside the window.
    pub fn range(&self, offset: u64, len: u64) -> Option<WindowRange> {
        let aligned = offset.is_multiple_of(PAGE_SIZE) && len.is_multiple_of(PAGE_SIZE);
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        (aligned && inside && len > 0).then_some(WindowRange { offset, len })
    }

    /// Maps the file from byte `from` on into a range, in the place of what is there. What is
    /// beyond the file's end, but for its last page, is zeroes.
    ///
    /// The file has to be open for writing for [`Access::Write`].
    ///
    /// # Errors
    /// `from` is not at a page of the file, or there are too many mappings: then the range is as it
    /// was. If the host refuses, parts of it may also be zeroes or, but for what is behind the
    /// file's end, the file already; the record says which.
    pub fn map(
        &self,
        range: WindowRange,
        region: &Arc<SharedRegion>,
        from: u64,
        access: Access,
    ) -> Result<(), ShareError> {
        self.map_some(range, region, from, access, false)
    }

    /// The same, but also what is beyond the file's end is mapped from it, for the time when the
    /// file has grown. Until then it is like pages that the file has lost.
    ///
    /// # Errors
    /// As those of [`Window::map`], but for where in the file the range is.
    pub fn map_ahead(
        &self,
        range: WindowRange,
        region: &Arc<SharedRegion>,
        from: u64,
        access: Access,
    ) -> Result<(), ShareError> {
        self.map_some(range, region, from, access, true)
    }

    fn map_some(
        &self,
        range: WindowRange,
        region: &Arc<SharedRegion>,
        from: u64,
        access: Access,
        ahead: bool,
    ) -> Result<(), ShareError> {
        let path = || region.path().to_path_buf();
        if !from.is_multiple_of(PAGE_SIZE) {
            return Err(ShareError::Unaligned { path: path(), from });
        }
        // What it is now: a file that others write may have grown.
        let size = region.file().metadata().map_err(ShareError::host("look at", region.path()))?;
        let size = size.len();
        let len = if ahead {
            range.len
        } else if from < size {
            range.len.min((size - from).next_multiple_of(PAGE_SIZE))
        } else {
            return Err(ShareError::BeyondFile { path: path(), from, len: size });
        };
        let mut pieces = self.lock();
        let (start, middle, end) = (range.offset, range.offset + len, range.offset + range.len);
        self.check_room(&pieces, &(start..end), 1)?;
        if let Err(source) = self.map_file(start, len, region.file().as_fd(), from, access) {
            if self.plug(start, len) {
                self.change(&mut pieces, |pieces| pieces.remove(start..middle));
            }
            return Err(ShareError::host("map", region.path())(source));
        }
        self.change(&mut pieces, |pieces| {
            let region = Arc::clone(region);
            pieces.put(start, Piece { len, region, from, access, since: SystemTime::now() });
        });
        if middle < end {
            self.map_nothing(middle..end).map_err(ShareError::host("map", region.path()))?;
            self.change(&mut pieces, |pieces| pieces.remove(middle..end));
        }
        Ok(())
    }

    /// Puts zeroes where files were mapped.
    ///
    /// # Errors
    /// There are too many mappings, or the host refuses: then the range is as it was.
    pub fn unmap(&self, range: WindowRange) -> Result<(), ShareError> {
        let mut pieces = self.lock();
        let range = range.offset..range.offset + range.len;
        self.check_room(&pieces, &range, 0)?;
        let fail = |source| ShareError::Host {
            what: "unmap files from",
            path: self.name.clone().into(),
            source,
        };
        self.map_nothing(range.clone()).map_err(fail)?;
        self.change(&mut pieces, |pieces| pieces.remove(range));
        Ok(())
    }

    /// Puts zeroes everywhere.
    pub fn clear(&self) {
        let mut pieces = self.lock();
        if self.map_nothing(0..self.len).is_ok() {
            self.change(&mut pieces, |pieces| *pieces = Pieces::default());
        }
    }

    /// What is mapped where, in ascending order. Addresses are counted from `base`, where the
    /// window begins in guest memory.
    pub fn record(&self, base: u64) -> Vec<MappingRecord> {
        let pieces = self.lock();
        let record = |(at, piece): (u64, &Piece)| MappingRecord {
            guest: base.saturating_add(at),
            len: piece.len,
            file: piece.region.identity().clone(),
            path: piece.region.path().to_path_buf(),
            offset: piece.from,
            access: piece.access,
            since: piece.since,
            by: self.name.clone(),
        };
        pieces.iter().map(record).collect()
    }

    /// The file and its byte that are mapped at a host address.
    pub fn lookup(&self, address: usize) -> Option<Mapped> {
        let offset = address.checked_sub(self.host as usize)? as u64;
        let pieces = self.lock();
        let (piece, offset) = pieces.at(offset)?;
        let path = piece.region.path().to_path_buf();
        Some(Mapped { window: self.name.clone(), path, offset })
    }

    /// The first mapped byte that its file had when it was opened, and has no more; if there is
    /// none, the first that its file does not have.
    pub fn lost(&self) -> Option<Mapped> {
        let pieces = self.lock();
        let first = |had: &dyn Fn(&Piece) -> u64| {
            pieces.iter().find_map(|(_, piece)| {
                let size = piece.region.file().metadata().ok()?.len().next_multiple_of(PAGE_SIZE);
                let end = (piece.from + piece.len).min(had(piece));
                (size.max(piece.from) < end).then_some((piece, size.max(piece.from)))
            })
        };
        let lost = first(&|piece| piece.region.len().next_multiple_of(PAGE_SIZE));
        let (piece, offset) = lost.or_else(|| first(&|_| u64::MAX))?;
        let path = piece.region.path().to_path_buf();
        Some(Mapped { window: self.name.clone(), path, offset })
    }

    /// Leaves its address space in place for as long as this process lives, for those who keep its
    /// address longer than the window itself can know of.
    pub fn keep_for_good(self: &Arc<Window>) {
        std::mem::forget(Arc::clone(self));
    }

    fn lock(&self) -> MutexGuard<'_, Pieces> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the pieces, and the count of all windows' with them.
    fn change(&self, pieces: &mut Pieces, how: impl FnOnce(&mut Pieces)) {
        let before = pieces.len();
        how(pieces);
        MAPPED.fetch_add(pieces.len(), Ordering::Relaxed);
        MAPPED.fetch_sub(before, Ordering::Relaxed);
    }

    /// Whether this window may have `added` pieces in the place of a range. One that has fewer of
    /// them afterwards, or as many, is always let: it must be possible to make room.
    fn check_room(
        &self,
        pieces: &Pieces,
        range: &Range<u64>,
        added: usize,
    ) -> Result<(), ShareError> {
        let (before, count) = (pieces.len(), pieces.len_without(range, added));
        // Each piece may have a gap of zeroes behind it.
        let all_max = maps_max().saturating_sub(MAPS_MARGIN) / 2;
        let most = MAPPINGS_MAX.min(all_max);
        let others = MAPPED.load(Ordering::Relaxed).saturating_sub(before);
        if count > before && (count > most || others + count > all_max) {
            return Err(ShareError::TooMany { name: self.name.clone(), max: most });
        }
        Ok(())
    }

    /// Puts zeroes where the host has taken a mapping away and then refused the new one, which
    /// kernels before 6.13 do: whatever this process maps next could land in such a hole, for the
    /// guest to read and write. Tells whether there was one.
    fn plug(&self, offset: u64, len: u64) -> bool {
        let Ok((start, bytes)) = self.place(offset, len) else { return false };
        // SAFETY: nothing is changed; an error says that part of the range is not mapped.
        if unsafe { libc::msync(start.cast(), bytes, libc::MS_ASYNC) } == 0 {
            return false;
        }
        if self.map_nothing(offset..offset + len).is_err() {
            std::process::abort();
        }
        true
    }

    /// A range of the window as the address and bytes of a system call.
    pub(super) fn place(&self, offset: u64, len: u64) -> io::Result<(*mut u8, usize)> {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len), "outside the window");
        let number = |value: u64| usize::try_from(value).map_err(io::Error::other);
        Ok((self.host.wrapping_add(number(offset)?), number(len)?))
    }

    fn map_file(
        &self,
        offset: u64,
        len: u64,
        file: BorrowedFd<'_>,
        from: u64,
        access: Access,
    ) -> io::Result<()> {
        let (start, bytes) = self.place(offset, len)?;
        let from = libc::off_t::try_from(from).map_err(io::Error::other)?;
        let kind = match access {
            // Private and writable also for readers: what a device writes there must not end this
            // process, nor reach the file.
            Access::Read | Access::Private => libc::MAP_PRIVATE,
            Access::Write => libc::MAP_SHARED,
        };
        let flags = kind | libc::MAP_FIXED | libc::MAP_NORESERVE;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the range is inside the window's own address space, of which nobody has
        // references; the new mapping replaces pages at once and has the same protection, so that
        // every address that was valid stays valid.
        let got =
            unsafe { libc::mmap(start.cast(), bytes, protection, flags, file.as_raw_fd(), from) };
        if got == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn map_nothing(&self, range: Range<u64>) -> io::Result<()> {
        let (start, bytes) = self.place(range.start, range.end - range.start)?;
        // SAFETY: as in `map_file`.
        unsafe { map_zeroes(start, bytes, libc::MAP_FIXED) }.map(|_| ())
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let pieces = self.lock().len();
        MAPPED.fetch_sub(pieces, Ordering::Relaxed);
        if let Ok((start, bytes)) = self.place(0, self.len) {
            // SAFETY: the window's own address space, which nobody uses any more: see
            // `keep_for_good`.
            unsafe { libc::munmap(start.cast(), bytes) };
        }
    }
}

/// Private memory of zeroes, for which nothing is set aside.
///
/// # Safety
/// With `MAP_FIXED` in `flags`, the range has to be the caller's.
unsafe fn map_zeroes(start: *mut u8, bytes: usize, flags: libc::c_int) -> io::Result<*mut u8> {
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: new address space, or the caller's.
    let got = unsafe { libc::mmap(start.cast(), bytes, protection, flags, -1, 0) };
    if got == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(got.cast()) }
}

/// Most mappings that this process may have.
fn maps_max() -> usize {
    /// What Linux has where nobody changed it.
    const USUAL: usize = 65530;
    static MAX: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *MAX.get_or_init(|| {
        let text = fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
        text.trim().parse().unwrap_or(USUAL)
    })
}
