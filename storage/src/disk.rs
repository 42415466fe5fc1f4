//! A disk: opened, locked, described; shared by the queues that use it.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use crate::chain::Chain;
use crate::chain::open::{self, DEPTH_MAX};
use crate::engine::{EngineKind, sys};
use crate::error::{DiskError, IoError};
use crate::file::BackingFile;
use crate::format::Format;
use crate::formats::{self, Decoded, LayerFile};
use crate::image::ImageFile;
use crate::layer::LayerInfo;
use crate::limits::Limits;
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
    /// The format of the top layer; without one, the file's name tells ([`Format::of_name`]).
    pub format: Option<Format>,
    /// Open a chain although a parent is not what its child records, and say so in the log and,
    /// where it can be written, in the child.
    pub allow_mismatch: bool,
    /// Bytes of memory for what is kept of the layers' maps, and of what they keep compressed; 64
    /// MiB by default.
    pub map_memory: Option<usize>,
}

impl DiskOptions {
    /// How the memory for maps is shared out.
    pub(crate) fn map_memory(&self) -> MapMemory {
        self.map_memory.map_or_else(MapMemory::default, MapMemory::new)
    }
}

/// Memory for the maps of a chain, and for what its layers decode.
#[derive(Debug)]
pub(crate) struct MapMemory {
    bytes: usize,
    /// What layers decode, an eighth of all.
    pub(crate) decoded: Arc<Decoded>,
}

impl Default for MapMemory {
    fn default() -> MapMemory {
        MapMemory::new(64 << 20)
    }
}

impl MapMemory {
    fn new(bytes: usize) -> MapMemory {
        MapMemory { bytes, decoded: Arc::new(Decoded::new(bytes / 8)) }
    }

    /// The share of one layer: three eighths for one that changes. The others have little, because
    /// what they say is kept for all of them together.
    pub(crate) fn of_layer(&self, writable: bool) -> usize {
        if writable { self.bytes / 8 * 3 } else { self.bytes / 4 / DEPTH_MAX }
    }

    /// The share of what is kept of all layers that do not change.
    pub(crate) fn of_frozen(&self) -> usize {
        self.bytes / 4
    }
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
    /// By [`FileId`](crate::layer::FileId).
    pub(crate) files: Vec<BackingFile>,
    limits: Limits,
    block_size: u32,
    engine: EngineKind,
}

impl Disk {
    /// Opens the disk whose top layer is at `path`, an image file or block device, with all
    /// layers below it, and locks them.
    pub fn open(path: &Path, options: &DiskOptions) -> Result<Disk, DiskError> {
        let open::Opened { chain, images } = open::open(path, options)?;
        Disk::assemble(chain, &images, options)
    }

    /// Makes a disk of `size` bytes, all zero, that has no name and is gone with its last user:
    /// in the folder for temporary files, or in memory where that takes no such files.
    pub fn scratch(size: Bytes, options: &DiskOptions) -> Result<Disk, DiskError> {
        let folder = std::env::temp_dir();
        let path = folder.join("(scratch)");
        let file = match sys::nameless_file(&folder) {
            Ok(file) => file,
            Err(_) if options.direct => return Err(DiskError::NoDirect { path }),
            Err(error) => {
                tracing::info!(%error, folder = %folder.display(), "scratch disk is in memory");
                sys::memory_file().map_err(|error| DiskError::host(&path, "create", error))?
            }
        };
        let sized = file.set_len(size.get());
        sized.map_err(|error| DiskError::host(&path, "set the size of", error))?;
        let image = Arc::new(ImageFile::new(file, &path, !options.read_only));
        let layer = LayerFile::alone(Arc::clone(&image), 0);
        let top = formats::open(Format::Raw, layer)
            .map_err(|source| DiskError::Format { path, source })?;
        Disk::assemble(Chain::of_one(top.into()), &[image], options)
    }

    /// A disk of these layers, which refer to these files: the first is the top layer's.
    pub(crate) fn assemble(
        chain: Chain,
        images: &[Arc<ImageFile>],
        options: &DiskOptions,
    ) -> Result<Disk, DiskError> {
        if options.direct {
            refuse_small_clusters(&chain, images)?;
        }
        let mut files = Vec::with_capacity(images.len());
        for image in images {
            files.push(backing(image, options.direct)?);
        }
        let path = images.first().map(|image| image.path().to_owned()).unwrap_or_default();
        let LayerInfo { size, sector, granularity, .. } = *chain.info();
        if size == 0 {
            return Err(DiskError::Empty { path });
        }
        let aligned = files.iter().map(|file| file.alignment().length).max().unwrap_or(512);
        let block_size = sector.max(aligned);
        if !size.is_multiple_of(u64::from(block_size)) {
            let unit = if size.is_multiple_of(SECTOR) { u64::from(block_size) } else { SECTOR };
            return Err(DiskError::Size { path, size, unit });
        }
        let engine =
            EngineKind::choose(options.engine).map_err(|source| DiskError::NoRing { source })?;
        let unit = files.first().map_or(SECTOR, BackingFile::allocation_unit);
        let limits = Limits::new(unit.max(u64::from(block_size)).max(u64::from(granularity)));
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
        #[cfg(test)]
        if let Some(recorder) = crate::crash::Recorder::installed() {
            return Ok(self.queue_on(crate::engine::record::Recording::new(&recorder, 1), depth));
        }
        let engine = self
            .0
            .engine
            .build(&self.0.files, depth)
            .map_err(|source| DiskError::NoRing { source })?;
        Ok(DiskQueue::new(Arc::clone(&self.0), engine, depth))
    }

    /// The path of its top layer, as it was opened.
    pub fn path(&self) -> &Path {
        self.0.files.first().map_or(Path::new(""), BackingFile::path)
    }

    /// What tells the disk from all others, whatever its contents and wherever it is, where one of
    /// its layers says.
    pub fn id(&self) -> Option<Uuid> {
        self.0.chain.traits().map(|traits| traits.id)
    }

    /// The paths of its layers, top first.
    pub fn layer_paths(&self) -> Vec<&Path> {
        self.0.files.iter().map(BackingFile::path).collect()
    }

    /// Leaves the disk in order: what was written is in its file for all to find. No request may
    /// follow. Also done when the disk's last user goes, which then can only log what goes wrong.
    pub fn close(&self) -> Result<(), DiskError> {
        let path = || self.path().to_owned();
        self.0.chain.close().map_err(|source| DiskError::Layer { path: path(), source })
    }

    /// What clones and queues share.
    pub(crate) fn state(&self) -> &DiskState {
        &self.0
    }

    /// Lets the disk's files be on a device with blocks of this size.
    #[cfg(test)]
    pub(crate) fn pretend_blocks(&mut self, length: u32) {
        let state = Arc::get_mut(&mut self.0).expect("nobody else has the disk yet");
        state.block_size = length;
        state.files.iter_mut().for_each(|file| file.pretend_blocks(length));
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
    /// The files that requests change, by [`FileId`](crate::layer::FileId): the top layer's, which come first.
    pub(crate) fn changing(&self) -> Range<u16> {
        let parents = self.chain.layers().count().saturating_sub(1);
        0..u16::try_from(self.files.len().saturating_sub(parents)).unwrap_or(u16::MAX)
    }

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

/// Refuses layers in which payload and tables may share a page: a table that is written through
/// the page cache would bring back what the page had before a payload went past it.
fn refuse_small_clusters(chain: &Chain, images: &[Arc<ImageFile>]) -> Result<(), DiskError> {
    const PAGE: u32 = 4096;
    for (layer, image) in chain.layers().zip(images) {
        let LayerInfo { format, granularity: cluster, .. } = *layer.info();
        if format == Format::Qcow2 && cluster < PAGE {
            return Err(DiskError::SmallClusters { path: image.path().to_owned(), cluster });
        }
    }
    Ok(())
}

/// The payload's side of a layer's file.
fn backing(image: &Arc<ImageFile>, direct: bool) -> Result<BackingFile, DiskError> {
    BackingFile::new(image, direct).map_err(|error| match error.kind() {
        io::ErrorKind::Unsupported => DiskError::NoDirect { path: image.path().to_owned() },
        _ => DiskError::host(image.path(), "examine", error),
    })
}

impl Drop for DiskState {
    /// Leaves the top layer in order. Every queue is gone, and with them all requests.
    fn drop(&mut self) {
        if let Err(error) = self.chain.close() {
            let path = self.files.first().map(BackingFile::path);
            tracing::error!(%error, path = ?path, "a disk was not closed in order");
        }
    }
}
