//! Another place for a child's parent.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::create::{link, open_parent};
use super::digest::digest;
use super::info::info;
use super::name::DiskName;
use super::one::OneLayer;
use super::siblings::number_of;
use super::{Progress, ToolError};
use crate::chain::ChainError;
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
    let (parent, disk) = open_parent(&order.parent)?;
    let new = link(child, &parent, &disk)?;
    let contents = match (old.digest, old.identity == new.identity) {
        (Some(recorded), false) => Some((recorded, digest(&disk, progress)?)),
        _ => None,
    };
    let how = match contents {
        _ if old.identity == new.identity => Relinked::ByIdentity,
        Some((recorded, found)) if recorded == found => Relinked::ByDigest,
        _ if order.force => Relinked::ByForce,
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
    layer.named(layer.layer.set_parent(&ParentLink { digest, ..new }))?;
    layer.close()?;
    Ok(how)
}

/// Refuses a parent that rests on the child.
fn refuse_cycle(child: &Path, parent: &DiskName) -> Result<(), ToolError> {
    let number = number_of(child);
    let layers = info(&parent.path, parent.format)?.layers;
    let cycle = number.is_some() && layers.iter().any(|layer| number_of(&layer.path) == number);
    if !cycle {
        return Ok(());
    }
    let (path, child) = (child.to_owned(), parent.path.clone());
    Err(DiskError::from(ChainError::Cycle { path, child }).into())
}
