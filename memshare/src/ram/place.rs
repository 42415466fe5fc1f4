//! Files in RAM: mapped copy-on-write, or copied.
#![expect(unsafe_code, reason = "memfd_create, mmap over RAM, and pread into it")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::PoisonError;
use std::time::SystemTime;

use vm_memory::{GuestAddress, GuestMemoryRegion};

use super::{GuestRam, PAGE_SIZE, RamError};
use crate::share::{Access, FileIdentity, MappingRecord};

/// How [`GuestRam::place`] gets a file's bytes into RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Whole pages are mapped from the page cache, private to this guest as soon as it writes
    /// them. They never appear in the memfd: a process that maps the memfd sees zeroes there, or
    /// what RAM held before. A guest may use such pages for I/O once it has freed them, so this
    /// is not for guests with devices whose backend is another process.
    CopyOnWrite,
    /// Every byte is copied into the memfd.
    Copy,
}

/// What [`GuestRam::place`] did, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// Bytes mapped from the file, a multiple of [`PAGE_SIZE`].
    pub mapped: u64,
    /// Bytes copied.
    pub copied: u64,
}

/// A placement that was made, or is being made.
#[derive(Clone, Debug)]
pub(super) struct Range {
    at: GuestAddress,
    len: u64,
    mapping: Option<MappingRecord>,
}

impl GuestRam {
    /// Puts the bytes `[offset, offset + len)` of `file` at guest address `at`.
    ///
    /// With [`Placement::CopyOnWrite`], when `offset` and `at` agree modulo [`PAGE_SIZE`], the
    /// whole pages of the range are mapped; the parts of a page at its two ends are copied, so
    /// that RAM around the range keeps what it held. Otherwise everything is copied. The file's
    /// size is checked first. `len` may be zero.
    ///
    /// A file that is truncated *later* takes its mapped pages away: the guest that touches one
    /// then stops with an error, and so does this process (`SIGBUS`) if a device does. Files that
    /// guests are started from are to be replaced by renaming, as package managers do, not
    /// rewritten in place; a rewrite in place also shows through in pages not yet written by the
    /// guest.
    ///
    /// # Errors
    /// [`RamError::OutsideRam`], [`RamError::Overlap`] with an earlier placement,
    /// [`RamError::BeyondFile`], [`RamError::NotRegular`], or what the host answered. After an
    /// error of the host, part of the range may have been changed.
    pub fn place(
        &self,
        file: &File,
        offset: u64,
        len: u64,
        at: GuestAddress,
        how: Placement,
    ) -> Result<Placed, RamError> {
        let metadata = file.metadata().map_err(RamError::Stat)?;
        if !metadata.is_file() {
            return Err(RamError::NotRegular);
        }
        let size = metadata.len();
        let end = offset.checked_add(len).filter(|end| *end <= size);
        let Some(end) = end else {
            return Err(RamError::BeyondFile { offset, len, size });
        };
        let host = self.host_range(at, len)?;
        if len == 0 {
            return Ok(Placed::default());
        }

        let aligned = offset % PAGE_SIZE == at.0 % PAGE_SIZE;
        let pages_start = offset.next_multiple_of(PAGE_SIZE).min(end);
        let pages_end = (end - end % PAGE_SIZE).max(pages_start);
        let mapped = pages_end - pages_start;
        // For people: the file is not opened by it again.
        let path = || std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let identity = FileIdentity::of(file).map_err(RamError::Stat)?;
        let mapping =
            (how == Placement::CopyOnWrite && aligned && mapped > 0).then(|| MappingRecord {
                guest: at.0 + (pages_start - offset),
                len: mapped,
                file: identity,
                path: path().unwrap_or_default(),
                offset: pages_start,
                access: Access::Private,
                since: SystemTime::now(),
                by: "boot loader".into(),
            });
        let is_mapped = mapping.is_some();
        self.reserve(Range { at, len, mapping })?;

        if !is_mapped {
            host.read(0, file, offset, len)?;
            return Ok(Placed { mapped: 0, copied: len });
        }
        host.read(0, file, offset, pages_start - offset)?;
        host.map(pages_start - offset, file, pages_start, mapped)?;
        host.read(pages_end - offset, file, pages_end, end - pages_end)?;
        Ok(Placed { mapped, copied: len - mapped })
    }

    /// Which RAM is mapped from which file, in the order of placement, and then what the windows
    /// hold.
    pub fn record(&self) -> Vec<MappingRecord> {
        let placements = self.placements.lock().unwrap_or_else(PoisonError::into_inner);
        let placed = placements.iter().filter_map(|placed| placed.mapping.clone());
        placed.chain(self.windows_record()).collect()
    }

    /// Notes a placement, unless its bytes are taken.
    fn reserve(&self, range: Range) -> Result<(), RamError> {
        let mut placements = self.placements.lock().unwrap_or_else(PoisonError::into_inner);
        // Both ends are inside RAM, so the sums cannot overflow.
        let taken = placements.iter().find(|other| {
            range.at.0 < other.at.0 + other.len && other.at.0 < range.at.0 + range.len
        });
        if let Some(taken) = taken {
            return Err(RamError::Overlap {
                at: range.at,
                len: range.len,
                taken: taken.at,
                taken_len: taken.len,
            });
        }
        placements.push(range);
        Ok(())
    }

    /// Where `[at, at + len)` is in this process, if one region holds all of it.
    fn host_range(&self, at: GuestAddress, len: u64) -> Result<HostRange<'_>, RamError> {
        let found = self.regions.iter().find_map(|region| {
            let start = at.0.checked_sub(region.start_addr().0)?;
            let end = start.checked_add(len)?;
            (end <= region.len()).then_some((region, start))
        });
        let (region, start) = found.ok_or(RamError::OutsideRam { at, len })?;
        Ok(HostRange { host: region.as_ptr(), start, len, ram: std::marker::PhantomData })
    }
}

/// A range inside one mapped region of RAM, which `'ram` keeps alive.
struct HostRange<'ram> {
    host: *mut u8,
    start: u64,
    len: u64,
    ram: std::marker::PhantomData<&'ram GuestRam>,
}

impl HostRange<'_> {
    /// The host address of `[at, at + len)` of this range; the caller keeps it inside.
    fn address(&self, at: u64, len: u64) -> (*mut u8, usize) {
        assert!(at <= self.len && len <= self.len - at, "outside the range");
        // The region is mapped, so its offsets and lengths fit the address space.
        #[expect(clippy::cast_possible_truncation, reason = "lengths of a live mapping")]
        let (at, len) = ((self.start + at) as usize, len as usize);
        (self.host.wrapping_add(at), len)
    }

    /// Copies `[offset, offset + len)` of `file` to `at` of this range.
    fn read(&self, at: u64, file: &File, offset: u64, len: u64) -> Result<(), RamError> {
        let (mut to, mut left) = self.address(at, len);
        let mut from = offset;
        let fail = |source| RamError::Read { offset, len, source };
        while left > 0 {
            let position = libc::off_t::try_from(from).map_err(|_| fail(eof()))?;
            // SAFETY: `[to, to + left)` is inside a mapping that lives as long as `self`. No
            // Rust reference to guest memory exists; it is accessed volatilely or by system calls.
            let read = unsafe { libc::pread(file.as_raw_fd(), to.cast(), left, position) };
            match usize::try_from(read) {
                Ok(0) => return Err(fail(eof())),
                Ok(read) => {
                    to = to.wrapping_add(read);
                    left -= read;
                    from += read as u64;
                }
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(fail(error));
                    }
                }
            }
        }
        Ok(())
    }

    /// Maps `[offset, offset + len)` of `file`, whole pages, over `at` of this range.
    fn map(&self, at: u64, file: &File, offset: u64, len: u64) -> Result<(), RamError> {
        let (to, bytes) = self.address(at, len);
        let fail = |source| RamError::MapFile { offset, len, source };
        let position = libc::off_t::try_from(offset).map_err(|_| fail(eof()))?;
        // SAFETY: the range is inside a mapping of this GuestRam, which is unmapped as a whole
        // when it is dropped; the new mapping replaces pages of it atomically and has the same
        // protection, so every address that was valid stays valid.
        let mapped = unsafe {
            libc::mmap(
                to.cast(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
                file.as_raw_fd(),
                position,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(fail(io::Error::last_os_error()));
        }
        Ok(())
    }
}

fn eof() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

/// A memfd of `size` bytes that can neither shrink nor grow.
pub(super) fn sealed_memfd(size: u64) -> Result<File, RamError> {
    let fail = |step, source| RamError::Create { size, step, source };
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is a NUL-terminated string.
    let fd = unsafe { libc::memfd_create(c"cohort-ram".as_ptr(), flags) };
    if fd < 0 {
        return Err(fail("memfd_create", io::Error::last_os_error()));
    }
    // SAFETY: a fresh descriptor that nothing else owns.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(size).map_err(|source| fail("ftruncate", source))?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: F_ADD_SEALS takes an integer and touches no memory.
    if unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, seals) } < 0 {
        return Err(fail("F_ADD_SEALS", io::Error::last_os_error()));
    }
    Ok(file)
}
