//! A disk: opened, locked, described; shared by the queues that use it.

use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::chain::Chain;
use crate::engine::{EngineKind, sys};
use crate::error::{DiskError, IoError};
use crate::file::BackingFile;
use crate::formats::raw::RawLayer;
use crate::layer::{FileId, LayerInfo};
use crate::limits::Limits;
use crate::lock::{Holder, ImageLock, LockError, Use};
use crate::queue::DiskQueue;
use crate::request::{DiskRequest, Operation};
use crate::units::{Bytes, SECTOR};

#[cfg(test)]
mod tests;

/// How to open a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskOptions {
    /// Refuse changes, and let others read the disk too.
    pub read_only: bool,
    /// Bypass the host's page cache (`O_DIRECT`).
    pub direct: bool,
    /// How requests reach the host's kernel.
    pub engine: EngineChoice,
}

/// How requests reach the host's kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// io_uring where the host permits it, else positional.
    #[default]
    Auto,
    /// io_uring, or an error.
    IoUring,
    /// `preadv2` and `pwritev2` in the queue's own thread.
    Positional,
}

/// A disk. Clones share it; it stays open and locked until the last one and the last
/// [`DiskQueue`] are dropped.
#[derive(Clone)]
pub struct Disk(Arc<DiskState>);

/// What the clones of a disk and its queues share. Nothing in it changes.
pub(crate) struct DiskState {
    pub(crate) chain: Chain,
    /// By [`FileId`].
    pub(crate) files: Vec<BackingFile>,
    limits: Limits,
    block_size: u32,
    engine: EngineKind,
}

impl Disk {
    /// Opens the image file or block device at `path` as a raw disk and locks it.
    pub fn open(path: &Path, options: &DiskOptions) -> Result<Disk, DiskError> {
        // Looked at before it is opened, because opening a pipe would wait for its other end.
        let kind = fs::metadata(path).map_err(|error| open_error(path, options, error))?;
        check_kind(path, kind.file_type())?;
        let mut file =
            open_options(options).open(path).map_err(|error| open_error(path, options, error))?;
        let opened = file.metadata().map_err(|error| host(path, "examine", error))?;
        check_kind(path, opened.file_type())?;
        let wanted = if options.read_only { Use::Read } else { Use::Write };
        let lock = ImageLock::take(&file, wanted).map_err(|error| match error {
            LockError::Conflict(conflict) => {
                DiskError::Locked { path: path.to_owned(), conflict, holder: Holder::find(path) }
            }
            LockError::Host(error) => host(path, "lock", error),
        })?;
        // A block device has its size at its end, not in its metadata.
        let size =
            file.seek(SeekFrom::End(0)).map_err(|error| host(path, "find the size of", error))?;
        Disk::raw(file, path, size, lock, options)
    }

    /// Makes a disk of `size` bytes, all zero, that has no name and is gone with its last user:
    /// in the folder for temporary files, or in memory where that takes no such files.
    pub fn scratch(size: Bytes, options: &DiskOptions) -> Result<Disk, DiskError> {
        let folder = std::env::temp_dir();
        let path = folder.join("(scratch)");
        let mut writable = open_options(&DiskOptions { read_only: false, ..*options });
        let unnamed = writable.custom_flags(libc::O_TMPFILE | direct_flag(options)).open(&folder);
        let file = match unnamed {
            Ok(file) => file,
            Err(_) if options.direct => return Err(DiskError::NoDirect { path }),
            Err(error) => {
                tracing::info!(%error, folder = %folder.display(), "scratch disk is in memory");
                sys::memory_file().map_err(|error| host(&path, "create", error))?
            }
        };
        file.set_len(size.get()).map_err(|error| host(&path, "set the size of", error))?;
        Disk::raw(file, &path, size.get(), None, options)
    }

    /// A disk of one raw layer.
    fn raw(
        file: File,
        path: &Path,
        size: u64,
        lock: Option<ImageLock>,
        options: &DiskOptions,
    ) -> Result<Disk, DiskError> {
        let file =
            BackingFile::new(file, path, options.direct, lock).map_err(|error| {
                match error.kind() {
                    io::ErrorKind::Unsupported => DiskError::NoDirect { path: path.to_owned() },
                    _ => host(path, "examine", error),
                }
            })?;
        if size == 0 {
            return Err(DiskError::Empty { path: path.to_owned() });
        }
        let unit = u64::from(file.alignment().length).max(SECTOR);
        if !size.is_multiple_of(unit) {
            let unit = if size.is_multiple_of(SECTOR) { unit } else { SECTOR };
            return Err(DiskError::Size { path: path.to_owned(), size, unit });
        }
        let info = LayerInfo { size, read_only: options.read_only };
        let chain = Chain::new(Box::new(RawLayer::new(FileId(0), info)));
        Disk::assemble(chain, vec![file], options.engine)
    }

    /// A disk of these layers, which refer to these files.
    pub(crate) fn assemble(
        chain: Chain,
        files: Vec<BackingFile>,
        engine: EngineChoice,
    ) -> Result<Disk, DiskError> {
        let engine = EngineKind::choose(engine).map_err(|source| DiskError::NoRing { source })?;
        let block_size = files.iter().map(|file| file.alignment().length).max().unwrap_or(512);
        let unit = files.iter().map(BackingFile::allocation_unit).max().unwrap_or(SECTOR);
        let limits = Limits::new(unit.max(u64::from(block_size)));
        Ok(Disk(Arc::new(DiskState { chain, files, limits, block_size, engine })))
    }

    /// The disk's size, a multiple of its block size.
    pub fn size(&self) -> Bytes {
        Bytes::new(self.0.chain.info().size)
    }

    /// Whether changes are refused.
    pub fn read_only(&self) -> bool {
        self.0.read_only()
    }

    /// The unit, in bytes, in which ranges of requests must be counted: a power of two, 512
    /// unless the page cache is bypassed on a disk with larger blocks.
    pub fn logical_block_size(&self) -> u32 {
        self.0.block_size
    }

    /// Bounds on requests without data.
    pub fn limits(&self) -> Limits {
        self.0.limits
    }

    /// The engine of this disk's queues: `io_uring` or `positional`.
    pub fn engine_name(&self) -> &'static str {
        self.0.engine.name()
    }

    /// A way to the disk for one thread, for up to `depth` requests at a time.
    pub fn queue(&self, depth: u16) -> Result<DiskQueue, DiskError> {
        let engine = self
            .0
            .engine
            .build(&self.0.files, depth)
            .map_err(|source| DiskError::NoRing { source })?;
        Ok(DiskQueue::new(Arc::clone(&self.0), engine, depth))
    }

    /// A queue with an engine of the test's own.
    #[cfg(test)]
    pub(crate) fn queue_on(&self, engine: Box<dyn crate::engine::Engine>, depth: u16) -> DiskQueue {
        DiskQueue::new(Arc::clone(&self.0), engine, depth)
    }
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.0.files.first().map(BackingFile::path);
        f.debug_struct("Disk").field("path", &path).field("size", &self.size().get()).finish()
    }
}

impl DiskState {
    /// Whether changes are refused.
    pub(crate) fn read_only(&self) -> bool {
        self.chain.info().read_only
    }

    /// Everything that layers and engines may rely on about a request.
    pub(crate) fn check(&self, request: &DiskRequest) -> Result<(), IoError> {
        let DiskRequest { operation, range, ref buffers } = *request;
        let (limit, data) = match operation {
            Operation::Read | Operation::Write => (u64::MAX, range.len()),
            Operation::Flush => (0, 0),
            Operation::Discard => (self.limits.max_discard.get(), 0),
            Operation::WriteZeroes { .. } => (self.limits.max_write_zeroes.get(), 0),
        };
        if self.read_only() && !matches!(operation, Operation::Read | Operation::Flush) {
            return Err(IoError::ReadOnly { operation: operation.word() });
        }
        let size = self.chain.info().size;
        if range.end() > size {
            return Err(IoError::OutOfRange { range, size });
        }
        let block = u64::from(self.block_size);
        if !range.start().is_multiple_of(block) || !range.len().is_multiple_of(block) {
            return Err(IoError::Misaligned { range, unit: self.block_size });
        }
        if range.len() > limit {
            return Err(IoError::TooLong { operation: operation.word(), len: range.len(), limit });
        }
        if buffers.len() != data {
            return Err(IoError::BufferLength { buffers: buffers.len(), range: data });
        }
        Ok(())
    }
}

fn open_options(options: &DiskOptions) -> OpenOptions {
    let mut open = OpenOptions::new();
    open.read(true).write(!options.read_only).custom_flags(direct_flag(options));
    open
}

fn direct_flag(options: &DiskOptions) -> i32 {
    if options.direct { libc::O_DIRECT } else { 0 }
}

fn check_kind(path: &Path, kind: FileType) -> Result<(), DiskError> {
    let kind = if kind.is_file() || kind.is_block_device() {
        return Ok(());
    } else if kind.is_dir() {
        "directory"
    } else if kind.is_fifo() {
        "pipe"
    } else if kind.is_socket() {
        "socket"
    } else {
        "character device"
    };
    Err(DiskError::NotADisk { path: path.to_owned(), kind })
}

fn open_error(path: &Path, options: &DiskOptions, source: io::Error) -> DiskError {
    let path: PathBuf = path.to_owned();
    match (source.kind(), source.raw_os_error()) {
        (io::ErrorKind::NotFound | io::ErrorKind::NotADirectory, _) => DiskError::Missing { path },
        (io::ErrorKind::PermissionDenied, _) => {
            let wanted = if options.read_only { "reading" } else { "reading and writing" };
            DiskError::Permission { path, wanted, source }
        }
        (_, Some(libc::EROFS)) => DiskError::ReadOnlyFileSystem { path },
        (_, Some(libc::EINVAL)) if options.direct => DiskError::NoDirect { path },
        _ => DiskError::Host { path, action: "open", source },
    }
}

fn host(path: &Path, action: &'static str, source: io::Error) -> DiskError {
    DiskError::Host { path: path.to_owned(), action, source }
}
