//! System calls that neither the standard library nor rustix offers, as safe functions.

#![expect(unsafe_code, reason = "file handles, locks and the thread's own umask")]

use std::cell::Cell;
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::Mode;
use rustix::io::Errno;

use super::messages::Result;

/// `MAX_HANDLE_SZ`.
const HANDLE_MAX: u32 = 128;

/// What names a file within its file system for as long as it exists, generation included.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileHandle {
    kind: i32,
    bytes: Box<[u8]>,
}

/// `struct file_handle` with room for the largest handle.
#[repr(C)]
struct RawHandle {
    bytes: u32,
    kind: i32,
    handle: [u8; HANDLE_MAX as usize],
}

fn last() -> Errno {
    super::messages::errno(&std::io::Error::last_os_error())
}

impl FileHandle {
    /// The handle of an open file, where its file system has such.
    pub(super) fn of(file: BorrowedFd<'_>) -> Option<FileHandle> {
        let mut raw = RawHandle { bytes: HANDLE_MAX, kind: 0, handle: [0; HANDLE_MAX as usize] };
        let mut mount = 0i32;
        // SAFETY: the structure has the room that it says, and all pointers outlive the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                file.as_raw_fd(),
                c"".as_ptr(),
                &raw mut raw,
                &raw mut mount,
                libc::AT_EMPTY_PATH,
            )
        };
        let bytes = raw.handle.get(..usize::try_from(raw.bytes).ok()?)?;
        (result == 0).then(|| FileHandle { kind: raw.kind, bytes: bytes.into() })
    }

    /// Opens the file (`O_PATH`) of a file system of which `mount` is some open file.
    pub(super) fn open(&self, mount: BorrowedFd<'_>) -> Result<OwnedFd> {
        let mut raw = RawHandle { bytes: 0, kind: self.kind, handle: [0; HANDLE_MAX as usize] };
        raw.bytes = u32::try_from(self.bytes.len()).map_err(|_| Errno::INVAL)?;
        raw.handle.get_mut(..self.bytes.len()).ok_or(Errno::INVAL)?.copy_from_slice(&self.bytes);
        let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        // SAFETY: the structure is initialised and outlives the call.
        let fd = unsafe {
            libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), &raw mut raw, flags)
        };
        match i32::try_from(fd) {
            // SAFETY: a new descriptor that nobody else knows of.
            Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
            _ => Err(last()),
        }
    }
}

/// A range of a file that is locked, or is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    /// The first byte.
    pub(super) start: i64,
    /// Bytes; 0 for all that follow.
    pub(super) len: i64,
    /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    pub(super) kind: i16,
}

fn flock(range: Range) -> Result<libc::flock> {
    Ok(libc::flock {
        l_type: range.kind,
        l_whence: i16::try_from(libc::SEEK_SET).map_err(|_| Errno::INVAL)?,
        l_start: range.start,
        l_len: range.len,
        l_pid: 0,
    })
}

/// Takes, changes or gives up a lock of the open file description, without waiting (`EAGAIN`).
pub(super) fn set_lock(file: &File, range: Range) -> Result<()> {
    let mut lock = flock(range)?;
    // SAFETY: the structure outlives the call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw mut lock) };
    if result == 0 { Ok(()) } else { Err(last()) }
}

/// The lock of others that would stand in the way; of the kind `F_UNLCK` when there is none.
pub(super) fn get_lock(file: &File, range: Range) -> Result<Range> {
    let mut lock = flock(range)?;
    // SAFETY: the structure outlives the call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    if result != 0 {
        return Err(last());
    }
    Ok(Range { start: lock.l_start, len: lock.l_len, kind: lock.l_type })
}

thread_local! {
    static OWN_UMASK: Cell<bool> = const { Cell::new(false) };
}

/// Gives the calling thread a umask of its own, of zero: the guest's kernel has applied that of
/// who asks already, and this process' other threads keep theirs.
pub(super) fn clear_umask() -> Result<()> {
    if OWN_UMASK.get() {
        return Ok(());
    }
    // SAFETY: no memory is passed; the thread merely stops to share working folder and umask.
    if unsafe { libc::unshare(libc::CLONE_FS) } != 0 {
        return Err(last());
    }
    rustix::process::umask(Mode::empty());
    OWN_UMASK.set(true);
    Ok(())
}
