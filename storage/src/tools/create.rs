//! New disks.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::digest::digest;
use super::lasting;
use super::name::DiskName;
use super::new_file::{NewFile, folder};
use super::siblings::children_of;
use super::{Progress, ToolError, step, text};
use crate::chain::{ChainError, in_use, open};
use crate::disk::{Disk, DiskOptions};
use crate::engine::sys;
use crate::error::DiskError;
use crate::format::Format;
use crate::formats::{self, FormatError, NewLayer};
use crate::identity::Identity;
use crate::image::ImageFile;
use crate::link::ParentLink;

/// Bytes of a logical block where no parent tells.
const SECTOR_DEFAULT: u32 = 512;

/// The bits of a file's mode that let someone write to it.
pub(super) const WRITE_PERMISSIONS: u32 = 0o222;

/// What is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Create {
    /// Its name, which must be free.
    pub path: PathBuf,
    /// Its format; without one, the name tells.
    pub format: Option<Format>,
    /// Bytes; without it, as many as the parent has.
    pub size: Option<u64>,
    /// What it reads as at first; without one, zeroes.
    pub parent: Option<DiskName>,
    /// Take all of the space at once, where the format knows such images.
    pub fixed: bool,
    /// Take the parent's write permissions away.
    pub protect: bool,
    /// Record a digest of all that the parent reads as.
    pub digest: bool,
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Created {
    /// Its name.
    #[serde(serialize_with = "text::path")]
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Bytes.
    pub size: u64,
    /// What it records of its parent.
    pub parent: Option<ParentLink>,
    /// Other programs that know its format would not follow it to its parent.
    pub only_cohort_follows: bool,
}

/// Makes a disk.
pub fn create(order: &Create, progress: &dyn Progress) -> Result<Created, ToolError> {
    NewFile::check(&order.path)?;
    let format = order.format.unwrap_or_else(|| Format::of_name(&order.path));
    refuse_fixed(&order.path, format, order.fixed)?;
    let base = order.parent.as_ref().map(|parent| open_parent(parent, &order.path));
    let base = base.transpose()?;
    let new = describe(&order.path, base.as_ref(), order.size, None, order.fixed)?;
    let Some((parent, disk)) = base else {
        NewFile::create(&order.path, format, &new)?.publish()?;
        return Ok(created(order, format, &new));
    };
    // Whatever the format refuses is refused before the parent is touched.
    let link = link(&order.path, &parent, &disk)?;
    let trial = NewLayer { parent: Some(link), ..new.clone() };
    drop(NewFile::create(&order.path, format, &trial)?);
    let digest = if order.digest { Some(digest(&disk, progress)?) } else { None };
    step(progress, new.size, new.size)?;
    if order.protect {
        protect(&order.path, &parent, &disk)?;
    }
    // Taken last, since a change of permissions is one of the parent's inode.
    let link = ParentLink { digest, ..self::link(&order.path, &parent, &disk)? };
    let new = NewLayer { parent: Some(link), ..new };
    NewFile::create(&order.path, format, &new)?.publish()?;
    Ok(created(order, format, &new))
}

/// Opens a disk that reads as `parent` at first and takes changes in a layer of its own, in the
/// folder for temporary files. The layer's file never has a name, where the file system can do
/// that, and has none on return; so it is gone with the disk's last user, however that ends.
pub fn temporary_child(parent: &DiskName, options: &DiskOptions) -> Result<Disk, ToolError> {
    let folder = std::env::temp_dir();
    // What messages call it. Paths in it start at its folder.
    let path = folder.join("(a new layer)");
    let file = sys::nameless_file(&folder);
    let file = file.map_err(ToolError::host(&folder, "keep a new layer in TMPDIR, which is"))?;
    let base = open_parent(parent, &path)?;
    let new = describe(&path, Some(&base), None, None, false)?;
    let link = link(&path, &base.0, &base.1)?;
    let kept = file.try_clone().map_err(ToolError::host(&path, "create"))?;
    let new = NewLayer { parent: Some(link), ..new };
    formats::create(Format::Layer, &Arc::new(ImageFile::new(file, &path, true)), &new).map_err(
        |source| ToolError::Create { path: path.clone(), format: Format::Layer, source },
    )?;
    let options = DiskOptions { format: Some(Format::Layer), ..*options };
    let open::Opened { chain, images } = open::open_from(kept, &path, &options)?;
    Ok(Disk::assemble(chain, &images, &options)?)
}

fn created(order: &Create, format: Format, new: &NewLayer) -> Created {
    let parent = new.parent.clone();
    let only_cohort_follows = parent.as_ref().is_some_and(|link| only_cohort(format, link.format));
    Created { path: order.path.clone(), format, size: new.size, parent, only_cohort_follows }
}

/// Opens with its chain, for reading, what is to be the parent of the layer at `child`.
pub(super) fn open_parent(parent: &DiskName, child: &Path) -> Result<(DiskName, Disk), DiskError> {
    let disk = parent.open().map_err(|error| error.of_parent(child))?;
    if let Some(file) = disk.state().files.first() {
        in_use::refuse(file.image().file(), &parent.path, child)?;
    }
    let identity = disk.state().chain.top().identity();
    if let Some(why) = identity.as_ref().ok().and_then(Identity::untold) {
        tracing::warn!(
            "nothing will tell whether {} has changed, and its children open with --allow-mismatch \
             only: {why}",
            parent.path.display()
        );
    }
    Ok((parent.clone(), disk))
}

/// Refuses to promise space that the format would not take.
pub(super) fn refuse_fixed(path: &Path, format: Format, fixed: bool) -> Result<(), ToolError> {
    if !fixed || format == Format::Vhdx {
        return Ok(());
    }
    let what = "taking all of the space at once (only vhdx knows such disks)".to_owned();
    let (path, source) = (path.to_owned(), FormatError::Unsupported { what });
    Err(ToolError::Create { path, format, source })
}

/// What a new layer at `path` is to be, all but its link.
pub(super) fn describe(
    path: &Path,
    parent: Option<&(DiskName, Disk)>,
    size: Option<u64>,
    sector: Option<u32>,
    fixed: bool,
) -> Result<NewLayer, ToolError> {
    let info = parent.map(|(parent, disk)| (parent, disk.state().chain.info()));
    let size = match (size, info) {
        (Some(size), Some((parent, info))) if size < info.size => {
            let (parent, parent_size) = (parent.path.clone(), info.size);
            return Err(ToolError::SmallerThanParent { size, parent, parent_size });
        }
        (Some(size), _) => size,
        (None, Some((_, info))) => info.size,
        (None, None) => return Err(ToolError::NoSize(path.to_owned())),
    };
    let sector = info.map(|(_, info)| info.sector).or(sector).unwrap_or(SECTOR_DEFAULT);
    if size == 0 || !size.is_multiple_of(u64::from(sector)) || i64::try_from(size).is_err() {
        return Err(ToolError::Size { size, unit: sector });
    }
    let traits = parent.and_then(|(_, disk)| disk.state().chain.traits());
    Ok(NewLayer { size, sector, parent: None, fixed, traits })
}

/// What a child at `child` records of a parent that is open.
pub(super) fn link(child: &Path, parent: &DiskName, disk: &Disk) -> Result<ParentLink, ToolError> {
    let max = open::DEPTH_MAX;
    if disk.state().chain.layers().count() >= max {
        return Err(DiskError::from(ChainError::TooDeep { path: child.to_owned(), max }).into());
    }
    let identity = lasting::identity(disk)?;
    let places = ParentLink::places(child, &parent.path);
    let (relative, absolute) =
        places.map_err(ToolError::host(&parent.path, "find the place of"))?;
    let text = |path: PathBuf| Some(path).filter(|path| path.to_str().is_some());
    let (relative, absolute) = (text(relative), text(absolute));
    if relative.is_none() && absolute.is_none() {
        return Err(ToolError::ParentName(parent.path.clone()));
    }
    Ok(ParentLink { relative, absolute, ..ParentLink::new(parent.format(), Some(identity)) })
}

/// Takes the write permissions of a parent's file away, unless that would make its other children
/// take it for another one.
fn protect(child: &Path, parent: &DiskName, disk: &Disk) -> Result<(), ToolError> {
    let (path, action) = (&parent.path, "take the write permission of");
    // Not by its name, which may be another file's by now.
    let Some(file) = disk.state().files.first().map(|file| file.image().file()) else {
        return Ok(());
    };
    let mode = file.metadata().map_err(ToolError::host(path, action))?.permissions().mode();
    if mode & WRITE_PERMISSIONS == 0 {
        return Ok(());
    }
    if let Identity::File(_) = lasting::identity(disk)? {
        let children = children_of(path, &[folder(child)])?.found;
        if !children.is_empty() {
            return Err(ToolError::KnownByTimes { parent: path.clone(), children });
        }
    }
    let permissions = fs::Permissions::from_mode(mode & !WRITE_PERMISSIONS);
    file.set_permissions(permissions).map_err(ToolError::host(path, action))
}

/// Whether other programs that know the child's format would not follow it to such a parent.
pub(super) fn only_cohort(child: Format, parent: Format) -> bool {
    match child {
        Format::Raw | Format::Layer => false,
        // To other programs, cohort names only these as backing files (docs/qcow2-extension.md).
        Format::Qcow2 => !matches!(parent, Format::Raw | Format::Qcow2),
        Format::Vhdx => parent != Format::Vhdx,
    }
}
