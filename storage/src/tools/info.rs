//! What a disk is, and whether its layers fit together, told of broken chains too.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::create::{WRITE_PERMISSIONS, only_cohort};
use super::one::OneLayer;
use super::{ToolError, text};
use crate::chain::{ChainError, open};
use crate::error::DiskError;
use crate::format::Format;
use crate::identity::Identity;
use crate::link::ParentLink;

/// A disk's layers, top first, as far as they can be found.
#[derive(Debug, Serialize)]
pub struct DiskInfo {
    /// At least one.
    pub layers: Vec<LayerEntry>,
}

/// One layer.
#[derive(Debug, Serialize)]
pub struct LayerEntry {
    /// Its file, as it was found.
    #[serde(serialize_with = "text::path")]
    pub path: PathBuf,
    /// How it keeps its bytes.
    pub format: Format,
    /// Bytes that the guest sees.
    pub size: u64,
    /// Bytes of the file.
    pub file_size: u64,
    /// Bytes that the file takes of its file system.
    pub allocated: u64,
    /// Nobody has the permission to write to it (`create --protect`).
    pub protected: bool,
    /// Bytes of a logical block.
    pub sector: u32,
    /// Bytes that the layer takes from its parent at a time.
    pub granularity: u32,
    /// The identity of its contents.
    pub identity: Identity,
    /// What it records of its parent.
    pub parent: Option<ParentLink>,
    /// Whether what it records holds.
    pub linkage: Linkage,
    /// Other programs that know its format would not follow it to its parent.
    pub only_cohort_follows: bool,
}

/// How a layer and its parent fit together.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Linkage {
    /// It has no parent.
    Base,
    /// The parent is what the layer records.
    Ok,
    /// It is not, or cannot be found or opened.
    Broken {
        /// `mismatch`, `untold`, `unlinked`, `missing`, `cycle`, `too-deep` or `unreadable`.
        kind: &'static str,
        /// In words.
        message: String,
        /// What to do about it.
        help: Option<String>,
        /// The exit status for it.
        status: u8,
    },
}

impl Linkage {
    fn broken(error: &DiskError) -> Linkage {
        let (kind, status) = match error {
            DiskError::Chain(error) => {
                let kind = match error {
                    ChainError::Mismatch { .. } => "mismatch",
                    ChainError::Unlinked { .. } => "unlinked",
                    ChainError::Untold { .. } => "untold",
                    ChainError::ParentMissing { .. } | ChainError::NoSuchParent { .. } => "missing",
                    ChainError::Cycle { .. } | ChainError::WouldCycle { .. } => "cycle",
                    ChainError::TooDeep { .. } => "too-deep",
                    ChainError::ParentInUse { .. } | ChainError::ParentClaimed { .. } => "in-use",
                };
                (kind, error.status())
            }
            _ => ("unreadable", 125),
        };
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            message = format!("{message}: {error}");
            cause = error.source();
        }
        Linkage::Broken { kind, message, help: error.help(), status }
    }

    /// One word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Linkage::Base => "base",
            Linkage::Ok => "ok",
            Linkage::Broken { kind, .. } => kind,
        }
    }

    /// The exit status for it: 0 where nothing is wrong.
    pub fn status(&self) -> u8 {
        match self {
            Linkage::Base | Linkage::Ok => 0,
            Linkage::Broken { status, .. } => *status,
        }
    }
}

/// Looks at the disk at `path` and at the layers below it. Takes no locks and changes nothing.
pub fn info(path: &Path, format: Option<Format>) -> Result<DiskInfo, ToolError> {
    let mut open = OneLayer::look(path, format)?;
    let (mut layers, mut seen) = (Vec::new(), Vec::new());
    loop {
        let path = open.image.path().to_owned();
        seen.push(open::number_of(open.image.file(), &path)?);
        let mut entry = entry(&open)?;
        let parent = match &entry.parent {
            Some(_) if layers.len() + 1 >= open::DEPTH_MAX => {
                let top = layers.first().map_or(&path, |layer: &LayerEntry| &layer.path);
                Err(ChainError::TooDeep { path: top.clone(), max: open::DEPTH_MAX }.into())
            }
            Some(link) => below(&entry, link, &seen),
            None => {
                layers.push(entry);
                return Ok(DiskInfo { layers });
            }
        };
        let (parent, linkage) = match parent {
            Ok((parent, None)) => (Some(parent), Linkage::Ok),
            Ok((parent, Some(error))) => (Some(parent), Linkage::broken(&error.into())),
            Err(error) => (None, Linkage::broken(&error)),
        };
        entry.linkage = linkage;
        layers.push(entry);
        match parent {
            Some(parent) => open = parent,
            None => return Ok(DiskInfo { layers }),
        }
    }
}

fn entry(open: &OneLayer) -> Result<LayerEntry, DiskError> {
    let path = open.image.path();
    let facts = fs::metadata(path).map_err(|error| DiskError::host(path, "examine", error))?;
    let file_size = open.image.len().map_err(|error| DiskError::host(path, "examine", error))?;
    let info = open.layer.info();
    let parent = info.parent.clone();
    Ok(LayerEntry {
        path: path.to_owned(),
        format: info.format,
        size: info.size,
        file_size,
        allocated: facts.blocks().saturating_mul(512),
        protected: facts.mode() & WRITE_PERMISSIONS == 0,
        sector: info.sector,
        granularity: info.granularity,
        identity: open.named(open.layer.identity())?,
        only_cohort_follows: parent.as_ref().is_some_and(|p| only_cohort(info.format, p.format)),
        parent,
        linkage: Linkage::Base,
    })
}

/// The parent of a layer, and what is wrong with it if it can be looked at all the same.
fn below(
    child: &LayerEntry,
    link: &ParentLink,
    seen: &[(u64, u64)],
) -> Result<(OneLayer, Option<ChainError>), DiskError> {
    let (file, path) = open::find_parent(link, &child.path)?;
    if seen.contains(&open::number_of(&file, &path)?) {
        return Err(ChainError::Cycle { path, child: child.path.clone() }.into());
    }
    let parent = OneLayer::look(&path, Some(link.format))?;
    let found = parent.named(parent.layer.identity())?;
    Ok((parent, open::verify(&child.path, link, &path, &found).err()))
}
