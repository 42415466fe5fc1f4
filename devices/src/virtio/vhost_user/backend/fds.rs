//! File descriptors that a front end hands over: what may be done with them without harm.

#![expect(unsafe_code, reason = "descriptors become eventfds, and a peer is asked for")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{MemfdFlags, OFlags, SealFlags};
use vm_memory::{FileOffset, GuestAddress, GuestRegionMmap, MmapRegion};
use vmm_sys_util::eventfd::EventFd;

use super::refusal::Refusal;

/// Where `/proc` says an eventfd's descriptor leads. Nothing that has a path or a name of its
/// own can be called so.
const EVENTFD: &str = "anon_inode:[eventfd]";
/// `f_type` of hugetlbfs.
const HUGETLBFS_MAGIC: u64 = 0x9584_58F6;

/// An eventfd that a front end sent, made non-blocking. Anything else could block a thread that
/// waits for it or signals it.
pub(super) fn eventfd(file: File) -> Result<EventFd, Refusal> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    if !link.is_ok_and(|link| link.as_os_str() == EVENTFD) {
        return Err(Refusal::NotEventFd);
    }
    keep_private(&file)?;
    unblock(file.as_fd()).map_err(|source| Refusal::Host { what: "set up an eventfd", source })?;
    // SAFETY: the descriptor is open, an eventfd, and given up by `file`.
    Ok(unsafe { EventFd::from_raw_fd(file.into_raw_fd()) })
}

/// The descriptor of `event`.
pub(crate) fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: it is open for as long as `event` is borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// Keeps what was received out of programs that this one runs.
fn keep_private(file: &File) -> Result<(), Refusal> {
    let kept = rustix::io::fcntl_setfd(file, rustix::io::FdFlags::CLOEXEC);
    kept.map_err(|error| Refusal::Host { what: "keep a descriptor private", source: error.into() })
}

/// Makes `fd` non-blocking; whether it was blocking.
fn unblock(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)?;
    Ok(!flags.contains(OFlags::NONBLOCK))
}

/// Ends every wait for room in `event` if it was made blocking since it was received.
pub(super) fn drain_if_blocking(event: &EventFd) {
    if unblock(borrow(event)).unwrap_or(false) {
        // Nothing to read means that nobody waits.
        let _ = event.read();
    }
}

/// Maps `len` bytes of `file` from `offset` on, which can be touched at `start` for as long as
/// the mapping lives, whatever other processes do with the file.
pub(super) fn map(
    file: File,
    offset: u64,
    len: u64,
    start: u64,
) -> Result<GuestRegionMmap<()>, Refusal> {
    let seals = rustix::fs::fcntl_get_seals(&file).unwrap_or(SealFlags::empty());
    if !seals.contains(SealFlags::SHRINK) {
        return Err(Refusal::NotSealed);
    }
    // A page of these that is given back is not there again when it is touched next, if others
    // have taken it meanwhile; ordinary memory is.
    let kind = rustix::fs::fstatfs(&file).map(|stat| u64::try_from(stat.f_type).unwrap_or(0));
    if kind.is_ok_and(|kind| kind == HUGETLBFS_MAGIC) {
        return Err(Refusal::HugePages);
    }
    keep_private(&file)?;
    let host = |what: &'static str| move |source| Refusal::Host { what, source };
    let size = file.metadata().map_err(host("examine a memory file"))?.len();
    let end = offset.checked_add(len).filter(|&end| len > 0 && end <= size);
    let (Some(_), Ok(len)) = (end, usize::try_from(len)) else {
        return Err(Refusal::BeyondFile { offset, len, size });
    };
    let mapping = MmapRegion::from_file(FileOffset::new(file, offset), len)
        .map_err(|error| host("map a memory file")(io::Error::other(error)))?;
    let end = start.checked_add(u64::try_from(len).unwrap_or(u64::MAX));
    end.and_then(|_| GuestRegionMmap::new(mapping, GuestAddress(start))).ok_or(Refusal::Overlap)
}

/// A memfd of `len` zeroes that stays as large as it is.
pub(super) fn sealed_memfd(name: &str, len: u64) -> io::Result<File> {
    let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let file = File::from(file);
    file.set_len(len)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

/// The process at the other end of `socket`, as it was when it connected; `None` when it is in
/// another world of process numbers.
pub(super) fn peer(socket: &UnixStream) -> Option<u32> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = libc::socklen_t::try_from(size_of::<libc::ucred>()).ok()?;
    // SAFETY: `peer` and `len` are valid for writes, and `len` is the size of `peer`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut len,
        )
    };
    u32::try_from(peer.pid).ok().filter(|&pid| result == 0 && pid > 0)
}
