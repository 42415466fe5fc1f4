//! Another place for a child's parent.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::compare::{Compared, compare};
use super::create::{link, open_parent};
use super::digest::digest;
use super::info::info;
use super::lasting;
use super::name::DiskName;
use super::one::OneLayer;
use super::siblings::number_of;
use super::{Progress, ToolError, step};
use crate::chain::{ChainError, open};
use crate::error::DiskError;
use crate::format::Format;
use crate::link::ParentLink;
use crate::lock::Use;

/// How a parent was found to be the right one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relinked {
    /// It has the identity that the child records.
    ByIdentity,
    /// All of it reads as the child records.
    ByDigest,
    /// All of it reads as the parent that the child records, which is still there unchanged.
    ByContents,
    /// The user insists.
    ByForce,
}

/// What is to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relink {
    /// The child.
    pub child: PathBuf,
    /// Its format; without one, the name tells.
    pub format: Option<Format>,
    /// Its parent.
    pub parent: DiskName,
    /// Take the parent although nothing says that its contents are right.
    pub force: bool,
}

/// Records where a child's parent is now. The child's contents and identity stay.
pub fn relink(order: &Relink, progress: &dyn Progress) -> Result<Relinked, ToolError> {
    let child = &order.child;
    refuse_cycle(child, &order.parent)?;
    let layer = OneLayer::open(child, order.format, Use::Write)?;
    let old = layer.layer.info().parent.clone();
    let old = old.ok_or_else(|| ToolError::NoParent(child.clone()))?;
    let (parent, disk) = open_parent(&order.parent, child)?;
    let new = link(child, &parent, &disk)?;
    let contents = match (old.digest, old.identity == new.identity) {
        (Some(recorded), false) => Some((recorded, digest(&disk, progress)?)),
        _ => None,
    };
    let how = match contents {
        _ if old.identity == new.identity => Relinked::ByIdentity,
        Some((recorded, found)) if recorded == found => Relinked::ByDigest,
        _ if order.force => Relinked::ByForce,
        _ if reads_as_before(child, &old, &parent, progress)? => Relinked::ByContents,
        _ => {
            let Some(found) = new.identity else { return Err(ToolError::NoParent(parent.path)) };
            return Err(ToolError::Unverified {
                child: child.clone(),
                parent: parent.path,
                recorded: old.identity.map(Box::new),
                found: Box::new(found),
                digests: contents.map(Box::new),
            });
        }
    };
    let digest = old.digest.filter(|_| how != Relinked::ByForce);
    step(progress, disk.size().get(), disk.size().get())?;
    layer.named(layer.layer.set_parent(&ParentLink { digest, ..new }))?;
    layer.close()?;
    Ok(how)
}

/// Whether the parent that the child records is there as it was, and `new` reads as it does.
fn reads_as_before(
    child: &Path,
    link: &ParentLink,
    new: &DiskName,
    progress: &dyn Progress,
) -> Result<bool, ToolError> {
    // Whatever is wrong with the old one, it tells nothing then.
    let Ok((_, path)) = open::find_parent(link, child) else { return Ok(false) };
    let name = DiskName { path, format: Some(link.format), allow_mismatch: false };
    let Ok(disk) = name.open() else { return Ok(false) };
    if Some(lasting::identity(&disk)?) != link.identity {
        return Ok(false);
    }
    let Compared { difference, sizes } = compare(&name, new, progress)?;
    Ok(difference.is_none() && sizes.0 == sizes.1)
}

/// Refuses a parent that is, or rests on, the child.
fn refuse_cycle(child: &Path, parent: &DiskName) -> Result<(), ToolError> {
    let number = number_of(child);
    let layers = info(&parent.path, parent.format).map_err(|error| match error {
        ToolError::Disk(error) => error.of_parent(child).into(),
        error => error,
    })?;
    if number.is_none() || layers.layers.iter().all(|layer| number_of(&layer.path) != number) {
        return Ok(());
    }
    let (parent, child) = (parent.path.clone(), child.to_owned());
    Err(DiskError::from(ChainError::WouldCycle { parent, child }).into())
}
