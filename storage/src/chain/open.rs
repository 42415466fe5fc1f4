//! Opening a chain: from the top layer to its base, each on the descriptor that will be used.

use std::fs::{self, File, FileType, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Chain, ChainError, in_use, record};
use crate::disk::{DiskOptions, MapMemory};
use crate::error::DiskError;
use crate::format::Format;
use crate::formats::{self, LayerFile};
use crate::identity::Identity;
use crate::image::ImageFile;
use crate::layer::{FileId, Layer};
use crate::link::ParentLink;
use crate::lock::{Holder, ImageLock, LockError, Use};

/// Most layers in a chain.
pub(crate) const DEPTH_MAX: usize = 256;

/// Layers and their files; [`FileId`] *n* is layer *n*'s.
pub(crate) struct Opened {
    pub(crate) chain: Chain,
    pub(crate) images: Vec<Arc<ImageFile>>,
}

/// Opens the layer at `path` and all its ancestors, locks them, and compares what each records of
/// its parent with what the parent says of itself.
pub(crate) fn open(path: &Path, options: &DiskOptions) -> Result<Opened, DiskError> {
    open_from(open_file(path, use_of(options))?, path, options)
}

fn use_of(options: &DiskOptions) -> Use {
    if options.read_only { Use::Read } else { Use::Write }
}

/// The same of a top layer whose file is open already; relative paths in it start at `path`'s
/// folder.
pub(crate) fn open_from(
    file: File,
    path: &Path,
    options: &DiskOptions,
) -> Result<Opened, DiskError> {
    let format = options.format.unwrap_or_else(|| Format::of_name(path));
    let mut seen = vec![number_of(&file, path)?];
    let image = lock(file, path, use_of(options))?;
    let memory = options.map_memory();
    let top = open_layer(format, &image, 0, &memory)?;
    let (mut images, mut parents) = (vec![image], Vec::<Arc<dyn Layer>>::new());
    let mut overridden = Vec::new();
    loop {
        let child: &dyn Layer = parents.last().map_or(&*top, |layer| &**layer);
        let Some(link) = child.info().parent.clone() else { break };
        let child_path = images.last().map_or(path, |image| image.path()).to_owned();
        if images.len() >= DEPTH_MAX {
            return Err(ChainError::TooDeep { path: path.to_owned(), max: DEPTH_MAX }.into());
        }
        let (file, parent_path) = find_parent(&link, &child_path)?;
        let number = number_of(&file, &parent_path)?;
        if seen.contains(&number) {
            return Err(ChainError::Cycle { path: parent_path, child: child_path }.into());
        }
        seen.push(number);
        let image = lock(file, &parent_path, Use::Read).map_err(|e| e.of_parent(&child_path))?;
        in_use::refuse(image.file(), &parent_path, &child_path)?;
        let parent = open_layer(link.format, &image, images.len(), &memory)?;
        if let Err(error) = compare(&child_path, &link, &*parent, &parent_path)? {
            if !options.allow_mismatch {
                return Err(error.into());
            }
            tracing::warn!("opened all the same, as --allow-mismatch says: {error}");
            overridden.extend(error.overridden().map(|link| (parents.len(), link)));
        }
        parents.push(parent);
        images.push(image);
    }
    if let Some(parent) = images.get(1) {
        record::update(&*top, path, parent.path(), overridden)?;
    }
    Ok(Opened { chain: Chain::new(top, parents, memory.of_frozen()), images })
}

/// Holds what a child records against what its parent says of itself.
fn compare(
    child_path: &Path,
    link: &ParentLink,
    parent: &dyn Layer,
    parent_path: &Path,
) -> Result<Result<(), ChainError>, DiskError> {
    let found = parent.identity();
    let found =
        found.map_err(|source| DiskError::Layer { path: parent_path.to_owned(), source })?;
    Ok(verify(child_path, link, parent_path, &found))
}

/// Whether a parent with the identity `found` is the one that a child records.
pub(crate) fn verify(
    child: &Path,
    link: &ParentLink,
    parent: &Path,
    found: &Identity,
) -> Result<(), ChainError> {
    let (child, parent, found) = (child.to_owned(), parent.to_owned(), Box::new(found.clone()));
    match link.identity.clone() {
        recorded if found.untold().is_some() => {
            let why = found.untold().unwrap_or_default().to_owned();
            let recorded = recorded.map(Box::new);
            Err(ChainError::Untold { child, parent, why, recorded, found })
        }
        Some(recorded) if recorded == *found => Ok(()),
        Some(recorded) => {
            let (recorded, digest) = (Box::new(recorded), link.digest.is_some());
            Err(ChainError::Mismatch { child, parent, recorded, found, digest })
        }
        None => Err(ChainError::Unlinked { child, parent, found }),
    }
}

/// Opens the first parent that is there.
pub(crate) fn find_parent(link: &ParentLink, child: &Path) -> Result<(File, PathBuf), DiskError> {
    let tried = link.candidates(child);
    for path in &tried {
        match open_file(path, Use::Read) {
            Err(DiskError::Missing { .. }) => {}
            Err(error) => return Err(error),
            Ok(file) => return Ok((file, path.clone())),
        }
    }
    Err(ChainError::ParentMissing { child: child.to_owned(), tried }.into())
}

pub(crate) fn open_layer(
    format: Format,
    image: &Arc<ImageFile>,
    place: usize,
    memory: &MapMemory,
) -> Result<Arc<dyn Layer>, DiskError> {
    let id = FileId(u16::try_from(place).unwrap_or(u16::MAX));
    let (share, decoded) = (memory.of_layer(image.is_writable()), Arc::clone(&memory.decoded));
    formats::open(format, LayerFile { image: Arc::clone(image), id, memory: share, decoded })
        .map(Arc::from)
        .map_err(|source| DiskError::Format { path: image.path().to_owned(), source })
}

/// What tells a file from all others.
pub(crate) fn number_of(file: &File, path: &Path) -> Result<(u64, u64), DiskError> {
    let facts = file.metadata().map_err(|error| DiskError::host(path, "examine", error))?;
    Ok((facts.dev(), facts.ino()))
}

/// Opens the image file or block device at `path`.
pub(crate) fn open_file(path: &Path, wanted: Use) -> Result<File, DiskError> {
    // Looked at before it is opened, because opening a pipe would wait for its other end.
    let kind = fs::metadata(path).map_err(|error| open_error(path, wanted, error))?;
    check_kind(path, kind.file_type())?;
    let mut options = OpenOptions::new();
    let file = options.read(true).write(wanted == Use::Write).open(path);
    let file = file.map_err(|error| open_error(path, wanted, error))?;
    let opened = file.metadata().map_err(|error| DiskError::host(path, "examine", error))?;
    check_kind(path, opened.file_type())?;
    Ok(file)
}

/// Locks an open file for a use.
pub(crate) fn lock(file: File, path: &Path, wanted: Use) -> Result<Arc<ImageFile>, DiskError> {
    let lock = ImageLock::take(&file, wanted).map_err(|error| match error {
        LockError::Conflict(conflict) => {
            DiskError::Locked { path: path.to_owned(), conflict, holder: Holder::find(path) }
        }
        LockError::Host(error) => DiskError::host(path, "lock", error),
    })?;
    Ok(Arc::new(ImageFile::new(file, path, wanted == Use::Write).locked(lock)))
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

fn open_error(path: &Path, used: Use, source: io::Error) -> DiskError {
    let path: PathBuf = path.to_owned();
    match (source.kind(), source.raw_os_error()) {
        (io::ErrorKind::NotFound | io::ErrorKind::NotADirectory, _) => DiskError::Missing { path },
        (io::ErrorKind::PermissionDenied, _) => {
            let wanted = if used == Use::Read { "reading" } else { "reading and writing" };
            DiskError::Permission { path, wanted, source }
        }
        (_, Some(libc::EROFS)) => DiskError::ReadOnlyFileSystem { path },
        _ => DiskError::Host { path, action: "open", source },
    }
}
