//! System calls the standard library does not offer, as safe functions.

use std::ffi::{CString, c_int};
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::buffers::Buffers;

/// Pieces that one system call takes (`UIO_MAXIOV`); more are left for the next.
pub(crate) const PIECES_MAX: usize = 1024;

/// How long a transfer may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Until it is done.
    Wait,
    /// `RWF_NOWAIT`: fail with `EAGAIN` rather than wait for a device.
    NoWait,
}

impl Patience {
    fn flags(self) -> c_int {
        match self {
            Patience::Wait => 0,
            Patience::NoWait => libc::RWF_NOWAIT,
        }
    }
}

fn offset(at: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(at).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))
}

/// Pointer and number of the pieces for one system call.
pub(crate) fn pieces(data: &Buffers) -> (*const libc::iovec, u32) {
    let pieces = data.iovecs();
    #[expect(clippy::cast_possible_truncation, reason = "at most PIECES_MAX")]
    let count = pieces.len().min(PIECES_MAX) as u32;
    (pieces.as_ptr(), count)
}

/// Turns the kernel's -1 into the error behind it.
fn check(result: isize) -> io::Result<u64> {
    u64::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Fills the first bytes of `data` from `file`; says how many.
pub(crate) fn read(file: &File, data: &Buffers, at: u64, patience: Patience) -> io::Result<u64> {
    let (start, count) = pieces(data);
    // SAFETY: the pieces are valid for as long as `data`, which outlives the call.
    check(unsafe {
        libc::preadv2(file.as_raw_fd(), start, count as c_int, offset(at)?, patience.flags())
    })
}

/// Writes the first bytes of `data` to `file`; says how many.
pub(crate) fn write(file: &File, data: &Buffers, at: u64, patience: Patience) -> io::Result<u64> {
    let (start, count) = pieces(data);
    // SAFETY: the pieces are valid for as long as `data`, which outlives the call.
    check(unsafe {
        libc::pwritev2(file.as_raw_fd(), start, count as c_int, offset(at)?, patience.flags())
    })
}

/// Writes the first bytes of `data` to the end of `file`; says how many.
pub(crate) fn append(file: &File, data: &Buffers) -> io::Result<u64> {
    let (start, count) = pieces(data);
    // SAFETY: the pieces are valid for as long as `data`, which outlives the call.
    check(unsafe { libc::pwritev2(file.as_raw_fd(), start, count as c_int, 0, libc::RWF_APPEND) })
}

/// Opens the same file once more, past the page cache (`O_DIRECT`). An error of kind
/// [`io::ErrorKind::Unsupported`] says that its file system refuses that.
pub(crate) fn reopen_direct(file: &File, writable: bool) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let opened = File::options().read(true).write(writable).custom_flags(libc::O_DIRECT).open(path);
    opened.map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => io::ErrorKind::Unsupported.into(),
        _ => error,
    })
}

/// Lets reads leave the file's access time alone (`O_NOATIME`), which only its owner may ask for.
pub(crate) fn keep_access_time(file: &File) -> io::Result<()> {
    // SAFETY: no memory is passed.
    let flags = check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) } as isize)?;
    let flags = c_int::try_from(flags).unwrap_or_default() | libc::O_NOATIME;
    // SAFETY: no memory is passed.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags) } as isize).map(drop)
}

/// `fallocate(2)`.
pub(crate) fn fallocate(file: &File, mode: c_int, at: u64, len: u64) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset(at)?, offset(len)?) } as isize)
        .map(drop)
}

/// Sets a file's times to now, for which it is enough that one may write to it.
pub(crate) fn renew_times(file: &File) -> io::Result<()> {
    let now = libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_NOW };
    let keep = libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT };
    let times = [keep, now];
    // SAFETY: the kernel reads two times, which outlive the call.
    check(unsafe { libc::futimens(file.as_raw_fd(), times.as_ptr()) } as isize).map(drop)
}

/// Tells a block device that a range is not needed (`BLKDISCARD`, linux/fs.h).
pub(crate) fn discard_blocks(file: &File, at: u64, len: u64) -> io::Result<()> {
    /// `_IO(0x12, 119)`
    const BLKDISCARD: libc::c_ulong = 0x1277;
    let range = [at, len];
    // SAFETY: the request reads two 64-bit numbers, which outlive the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), BLKDISCARD as _, range.as_ptr()) } as isize)
        .map(drop)
}

/// The logical block size of a block device in bytes.
pub(crate) fn block_size(device: &File) -> io::Result<u32> {
    let mut size: c_int = 0;
    // SAFETY: the request writes one `int`, which outlives the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), libc::BLKSSZGET as _, &raw mut size) } as isize)?;
    u32::try_from(size).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// What a loop device shows of what is behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LoopStatus {
    /// The file system that the file behind it is on.
    pub(crate) device: u64,
    /// The file's number there.
    pub(crate) inode: u64,
    /// Where in the file it begins.
    pub(crate) offset: u64,
    /// Bytes that it shows at most; 0: all.
    pub(crate) limit: u64,
}

/// `struct loop_info64` (linux/loop.h).
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    special: u64,
    offset: u64,
    limit: u64,
    numbers: [u32; 4],
    names: [[u8; 64]; 2],
    key: [u8; 32],
    init: [u64; 2],
}

const _: () = assert!(size_of::<LoopInfo>() == 232);

/// Asks a loop device, or a partition of one, what is behind it.
pub(crate) fn loop_status(device: &File) -> io::Result<LoopStatus> {
    const LOOP_GET_STATUS64: libc::c_ulong = 0x4c05;
    let mut info = MaybeUninit::<LoopInfo>::zeroed();
    // SAFETY: the request writes one `loop_info64`, which outlives the call and may be all zero.
    let info = unsafe {
        let request = LOOP_GET_STATUS64;
        check(libc::ioctl(device.as_raw_fd(), request as _, info.as_mut_ptr()) as isize)?;
        info.assume_init()
    };
    let LoopInfo { device, inode, offset, limit, .. } = info;
    Ok(LoopStatus { device, inode, offset, limit })
}

/// Has the kernel write back all that it holds for any file or device, and waits (`sync(2)`).
pub(crate) fn sync_all() {
    // SAFETY: no memory is passed.
    unsafe { libc::sync() }
}

/// What `O_DIRECT` transfers of `file` must be aligned to, address and offset, in bytes;
/// `Ok(None)` when the kernel does not say. Zeroes mean that it refuses such transfers.
pub(crate) fn direct_alignment(file: &File) -> io::Result<Option<(u32, u32)>> {
    let mut facts = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is an empty C string, and the kernel writes one `statx`, which outlives
    // the call and may be all zero.
    let facts = unsafe {
        let (fd, flags) = (file.as_raw_fd(), libc::AT_EMPTY_PATH);
        check(
            libc::statx(fd, c"".as_ptr(), flags, libc::STATX_DIOALIGN, facts.as_mut_ptr()) as isize
        )?;
        facts.assume_init()
    };
    Ok((facts.stx_mask & libc::STATX_DIOALIGN != 0)
        .then_some((facts.stx_dio_mem_align, facts.stx_dio_offset_align)))
}

/// Whether the file's bytes are kept in memory only, so that no transfer waits for a device.
pub(crate) fn is_in_memory(file: &File) -> io::Result<bool> {
    let mut facts = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the kernel writes one `statfs`, which outlives the call and may be all zero.
    let facts = unsafe {
        check(libc::fstatfs(file.as_raw_fd(), facts.as_mut_ptr()) as isize)?;
        facts.assume_init()
    };
    /// linux/magic.h
    const RAMFS_MAGIC: i64 = 0x8584_58f6;
    Ok([libc::TMPFS_MAGIC, libc::HUGETLBFS_MAGIC, RAMFS_MAGIC].contains(&facts.f_type))
}

/// Header of the request that maps a file (`struct fiemap`, linux/fiemap.h).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FiemapHeader {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
}

/// One of its answers (`struct fiemap_extent`).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FiemapExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// Extents asked for at once.
const FIEMAP_BATCH: u32 = 128;

#[repr(C)]
struct Fiemap {
    header: FiemapHeader,
    extents: [FiemapExtent; FIEMAP_BATCH as usize],
}

const FIEMAP_EXTENT_LAST: u32 = 1;
const FIEMAP_EXTENT_UNWRITTEN: u32 = 0x800;

/// Appends the ranges within `start..start + len` that hold written bytes, as start and length,
/// in order and clipped: by `FIEMAP`, which tells them from space that is allocated only, or by
/// `SEEK_DATA` where the file system has no such space to tell.
pub(crate) fn written_ranges(
    file: &File,
    start: u64,
    len: u64,
    out: &mut Vec<(u64, u64)>,
) -> io::Result<()> {
    /// `_IOWR('f', 11, struct fiemap)`
    const FS_IOC_FIEMAP: libc::c_ulong = 0xc020_660b;
    let end = start.saturating_add(len);
    let mut at = start;
    while at < end {
        let header = FiemapHeader {
            start: at,
            length: end - at,
            count: FIEMAP_BATCH,
            ..FiemapHeader::default()
        };
        let mut map = Fiemap { header, extents: [FiemapExtent::default(); FIEMAP_BATCH as usize] };
        // SAFETY: the request reads a header and writes at most `count` extents behind it, for
        // which there is room; both outlive the call.
        let result = check(unsafe {
            libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP as _, &raw mut map) as isize
        });
        match result {
            Err(error) if crate::file::is_refusal(&error) => {
                return data_ranges(file, at, end, out);
            }
            result => result?,
        };
        let mapped = usize::try_from(map.header.mapped).unwrap_or_default();
        let Some(extents) = map.extents.get(..mapped).filter(|extents| !extents.is_empty()) else {
            return Ok(());
        };
        for extent in extents {
            let from = extent.logical.max(at);
            let to = extent.logical.saturating_add(extent.length).min(end);
            if from < to && extent.flags & FIEMAP_EXTENT_UNWRITTEN == 0 {
                push_range(out, from, to);
            }
            at = at.max(to);
            if extent.flags & FIEMAP_EXTENT_LAST != 0 {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The same by `SEEK_DATA` and `SEEK_HOLE`. These move the descriptor's position, which nobody
/// uses: all transfers are positional.
fn data_ranges(file: &File, start: u64, end: u64, out: &mut Vec<(u64, u64)>) -> io::Result<()> {
    let seek = |at: u64, whence: c_int| -> io::Result<Option<u64>> {
        // SAFETY: no memory is passed.
        let found = unsafe { libc::lseek(file.as_raw_fd(), offset(at)?, whence) };
        match u64::try_from(found).map_err(|_| io::Error::last_os_error()) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            Err(error) => Err(error),
        }
    };
    let mut at = start;
    while at < end {
        let Some(data) = seek(at, libc::SEEK_DATA)?.filter(|&data| data < end) else {
            return Ok(());
        };
        let hole = seek(data, libc::SEEK_HOLE)?.unwrap_or(end).clamp(data, end);
        if hole == data {
            return Ok(());
        }
        push_range(out, data, hole);
        at = hole;
    }
    Ok(())
}

/// Appends a range, or extends the last one.
fn push_range(out: &mut Vec<(u64, u64)>, from: u64, to: u64) {
    match out.last_mut() {
        Some((start, len)) if *start + *len == from => *len += to - from,
        _ => out.push((from, to - from)),
    }
}

/// A file without a name, in memory.
pub(crate) fn memory_file() -> io::Result<File> {
    // SAFETY: the name is a C string; no other memory is passed.
    let fd = check(
        unsafe { libc::memfd_create(c"cohort-scratch".as_ptr(), libc::MFD_CLOEXEC) } as isize
    )?;
    let fd = c_int::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: a descriptor just opened, which nobody else knows.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// A new file in `folder` that is gone when its last user closes it. Where the file system knows no
/// files without a name, it has one until it is opened.
pub(crate) fn nameless_file(folder: &Path) -> io::Result<File> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    match options.clone().custom_flags(libc::O_TMPFILE | libc::O_EXCL).open(folder) {
        // What kernels and file systems answer that do not know the flag.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EOPNOTSUPP | libc::EISDIR | libc::ENOENT | libc::EINVAL)
            ) =>
        {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!(".cohort-{}-{count}.tmp", std::process::id()));
            let file = options.create_new(true).open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        }
        result => result,
    }
}

/// Gives the file at `from` the name `to`, which must be free. Where the file system cannot do both
/// in one step, it looks first.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let (old, new) = (c_path(from)?, c_path(to)?);
    // SAFETY: two C strings that outlive the call.
    let result = check(unsafe {
        libc::renameat2(
            libc::AT_FDCWD,
            old.as_ptr(),
            libc::AT_FDCWD,
            new.as_ptr(),
            libc::RENAME_NOREPLACE,
        )
    } as isize);
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
            if to.symlink_metadata().is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            std::fs::rename(from, to)
        }
        result => result.map(drop),
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Kinds of a record lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LockKind {
    /// Others may hold it too.
    Shared,
    /// Only one may hold it.
    Exclusive,
    /// None.
    Unlock,
}

fn record_lock(kind: LockKind, start: u64, len: u64) -> io::Result<libc::flock> {
    let kind = match kind {
        LockKind::Shared => libc::F_RDLCK,
        LockKind::Exclusive => libc::F_WRLCK,
        LockKind::Unlock => libc::F_UNLCK,
    };
    // SAFETY: `flock` is plain numbers, for which zeroes are valid.
    let mut lock: libc::flock = unsafe { MaybeUninit::zeroed().assume_init() };
    lock.l_type = libc::c_short::try_from(kind).unwrap_or_default();
    lock.l_whence = libc::c_short::try_from(libc::SEEK_SET).unwrap_or_default();
    lock.l_start = offset(start)?;
    lock.l_len = offset(len)?;
    Ok(lock)
}

/// Sets or removes a record lock that belongs to the open file, not to the process
/// (`F_OFD_SETLK`); never waits.
pub(crate) fn set_lock(file: &File, kind: LockKind, start: u64, len: u64) -> io::Result<()> {
    let lock = record_lock(kind, start, len)?;
    // SAFETY: the kernel reads one `flock`, which outlives the call.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } as isize)
        .map(drop)
}

/// Whether another open file's lock would keep this one from an exclusive lock (`F_OFD_GETLK`).
pub(crate) fn is_locked_by_other(file: &File, start: u64, len: u64) -> io::Result<bool> {
    let mut lock = record_lock(LockKind::Exclusive, start, len)?;
    // SAFETY: the kernel reads and writes one `flock`, which outlives the call.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } as isize)?;
    Ok(c_int::from(lock.l_type) != libc::F_UNLCK)
}
