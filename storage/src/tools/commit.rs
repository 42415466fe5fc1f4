//! A child's data into its parent.
//!
//! The parent gets a new identity before its first change, and the child hears of it when all is
//! durable, or when it has failed. A crash in between leaves a child that says that its parent has
//! changed. It still reads as before: the parent differs only where the child has data of its own.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::convert::{is_zero, whole};
use super::io::{DiskIo, PIECE, options};
use super::lasting;
use super::name::DiskName;
use super::new_file::{folder, remove, sync_folder};
use super::one::OneLayer;
use super::siblings::{children_of, number_of};
use super::{Progress, ToolError, step, text};
use crate::chain::open;
use crate::disk::Disk;
use crate::error::DiskError;
use crate::layer::{Outcome, Source};
use crate::link::ParentLink;
use crate::lock::Use;

/// What is to be merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The child.
    pub child: DiskName,
    /// Do so although other layers rest on the parent: they will not open any more.
    pub force: bool,
    /// Where to look for other children, beside the folders of parent and child.
    pub folders: Vec<PathBuf>,
    /// Remove the child's file afterwards; else it stays, and says the same as its parent.
    pub delete: bool,
}

/// What was merged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Committed {
    /// The child.
    #[serde(serialize_with = "text::path")]
    pub child: PathBuf,
    /// What has its data now.
    #[serde(serialize_with = "text::path")]
    pub parent: PathBuf,
    /// Bytes that were written to it, or zeroed.
    pub written: u64,
    /// Whether the child's file is gone.
    pub deleted: bool,
    /// Where other children of the parent were looked for: nowhere if the user insisted.
    #[serde(serialize_with = "text::paths")]
    pub searched: Vec<PathBuf>,
}

/// Merges a child into its parent.
pub fn commit(order: &Commit, progress: &dyn Progress) -> Result<Committed, ToolError> {
    let path = &order.child.path;
    // All of the chain must fit together before any of it is changed.
    drop(Disk::open(path, &options(order.child.format, true))?);
    let layer = OneLayer::open(path, order.child.format, Use::Write)?;
    let info = layer.layer.info();
    let link = info.parent.clone().ok_or_else(|| ToolError::NoParent(path.clone()))?;
    let size = info.size;
    let (_, parent_path) = open::find_parent(&link, path)?;
    let searched = refuse_other_children(order, &parent_path)?;
    let parent = DiskIo::open(&parent_path, Some(link.format), false);
    let mut parent = parent.map_err(|error| error.of_parent(path))?;
    let found = lasting::identity(&parent.disk)?;
    open::verify(path, &link, &parent_path, &found).map_err(DiskError::from)?;
    if size > parent.size() {
        let (parent, parent_size) = (parent_path, parent.size());
        return Err(ToolError::LargerThanParent { child: path.clone(), size, parent, parent_size });
    }
    let mut child = DiskIo::new(path, layer.into_disk(false)?)?;
    let copied = copy(&mut child, &mut parent, progress);
    // Also after errors, such as a full file system, that may leave the parent with any part of
    // what was copied: the child covers all of that.
    let settled = parent.settle();
    let followed = follow(&mut child, &parent, link);
    let written = copied?;
    settled.and(followed)?;
    drop((child, parent));
    if order.delete {
        remove(path).map_err(ToolError::host(path, "remove"))?;
        sync_folder(path)?;
    }
    let (child, deleted) = (path.clone(), order.delete);
    Ok(Committed { child, parent: parent_path, written, deleted, searched })
}

/// Refuses to change what other layers rest on, and to delete what has children. Says where such
/// were looked for.
fn refuse_other_children(order: &Commit, parent: &Path) -> Result<Vec<PathBuf>, ToolError> {
    if order.force {
        return Ok(Vec::new());
    }
    let child = &order.child.path;
    let own = number_of(child);
    let mut folders: Vec<&Path> = order.folders.iter().map(PathBuf::as_path).collect();
    folders.push(folder(child));
    let mut known = children_of(parent, &folders)?;
    known.found.retain(|other| number_of(other) != own);
    let mut refused = parent;
    if known.found.is_empty() && order.delete {
        known.found = children_of(child, &folders)?.found;
        refused = child;
    }
    if known.found.is_empty() {
        return Ok(known.searched);
    }
    Err(ToolError::Children { parent: refused.to_owned(), known })
}

/// Links the child to its parent as that is now.
fn follow(child: &mut DiskIo, parent: &DiskIo, link: ParentLink) -> Result<(), ToolError> {
    let found = lasting::identity(&parent.disk)?;
    let link = ParentLink { identity: Some(found), digest: None, overridden: None, ..link };
    let linked = child.disk.state().chain.top().set_parent(&link);
    linked.map_err(|source| DiskError::Layer { path: child.path.clone(), source })?;
    child.settle()
}

/// Copies what the child has of its own; says how many bytes.
fn copy(
    child: &mut DiskIo,
    parent: &mut DiskIo,
    progress: &dyn Progress,
) -> Result<u64, ToolError> {
    let (size, disk) = (child.size(), child.disk.clone());
    let top = disk.state().chain.top();
    let (mut extents, mut written) = (Vec::new(), 0);
    for part in whole(size, PIECE) {
        step(progress, part.start(), size)?;
        extents.clear();
        let ticket = top.resolve_read(part, &mut extents).map_err(|e| child.failed(e))?;
        top.finish(ticket, Outcome::Done).map_err(|e| child.failed(e))?;
        for extent in &extents {
            match extent.source {
                Source::Transparent => continue,
                Source::Zero => parent.zero(extent.range)?,
                Source::Data { .. } | Source::Encoded { .. } => {
                    let bytes = child.read(extent.range)?;
                    match is_zero(bytes) {
                        true => parent.zero(extent.range)?,
                        false => parent.write(extent.range, bytes)?,
                    }
                }
            }
            written += extent.range.len();
        }
    }
    step(progress, size, size)?;
    Ok(written)
}
