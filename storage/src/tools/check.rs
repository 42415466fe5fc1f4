//! Whether layers are sound and fit together.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::digest::digest;
use super::info::{DiskInfo, LayerEntry, Linkage, info};
use super::io::options;
use super::lasting;
use super::one::OneLayer;
use super::{Progress, ToolError};
use crate::chain::open;
use crate::disk::Disk;
use crate::error::DiskError;
use crate::format::Format;
use crate::layer::Finding;
use crate::link::ParentLink;
use crate::lock::Use;

/// What a check found.
#[derive(Debug, Serialize)]
pub struct Checked {
    /// The layers, top first.
    pub layers: Vec<CheckedLayer>,
}

/// What it found in one layer.
#[derive(Debug, Serialize)]
pub struct CheckedLayer {
    /// Its file.
    pub path: PathBuf,
    /// What is not as it should be in it.
    pub findings: Vec<Finding>,
    /// Whether what it records of its parent holds now.
    pub linkage: Linkage,
    /// The parent had another identity, but by the recorded digest the same contents: the record
    /// has been renewed.
    pub renewed: bool,
}

impl Checked {
    /// As `qemu-img check` has it: 0 all is well, 1 a parent cannot be looked at, 2 damage, 3 only
    /// what does no harm; a broken link has the status of its kind.
    pub fn status(&self) -> u8 {
        let open = || self.layers.iter().flat_map(|layer| &layer.findings).filter(|f| !f.repaired);
        if open().any(|finding| !finding.harmless) {
            return 2;
        }
        let broken = self.layers.iter().map(|layer| layer.linkage.status()).find(|s| *s != 0);
        match broken {
            Some(125) => 1,
            Some(status) => status,
            None if open().next().is_some() => 3,
            None => 0,
        }
    }
}

/// Checks every layer of the disk at `path`; with `repair`, mends the top one. With `digests`,
/// a link whose parent only has another identity, and by its digest the same contents, is renewed.
pub fn check(
    path: &Path,
    format: Option<Format>,
    repair: bool,
    digests: bool,
    progress: &dyn Progress,
) -> Result<Checked, ToolError> {
    let mut renewed = Vec::new();
    let mut found = info(path, format)?;
    if digests {
        // From the base upwards, since renewing a record may be a change of the layer's identity.
        for place in (0..found.layers.len()).rev() {
            if let Some(entry) = found.layers.get(place)
                && renew(entry, progress)?
            {
                renewed.push(entry.path.clone());
                found = info(path, format)?;
            }
        }
    }
    let mut layers = Vec::new();
    for (place, entry) in found.layers.into_iter().enumerate() {
        let mend = repair && place == 0;
        let open = OneLayer::open(
            &entry.path,
            Some(entry.format),
            if mend { Use::Write } else { Use::Read },
        )?;
        let findings = open.named(open.layer.check(mend))?;
        open.close()?;
        let LayerEntry { path, linkage, .. } = entry;
        let renewed = renewed.contains(&path);
        layers.push(CheckedLayer { path, findings, linkage, renewed });
    }
    if repair {
        // Mending may have renewed what the file system says of the file.
        let DiskInfo { layers: now } = info(path, format)?;
        for (layer, entry) in layers.iter_mut().zip(now) {
            layer.linkage = entry.linkage;
        }
    }
    Ok(Checked { layers })
}

/// Renews what a layer records of its parent, if the digest it records is the parent's.
fn renew(entry: &LayerEntry, progress: &dyn Progress) -> Result<bool, ToolError> {
    let Some(link) = &entry.parent else { return Ok(false) };
    let Linkage::Broken { kind: "mismatch" | "unlinked", .. } = entry.linkage else {
        return Ok(false);
    };
    let Some(recorded) = link.digest else { return Ok(false) };
    let (_, parent) = open::find_parent(link, &entry.path)?;
    let disk = match Disk::open(&parent, &options(Some(link.format), true)) {
        // What is wrong further down is told there.
        Err(DiskError::Chain(_)) => return Ok(false),
        disk => disk?,
    };
    if digest(&disk, progress)? != recorded {
        return Ok(false);
    }
    let identity = lasting::identity(&disk)?;
    let layer = OneLayer::open(&entry.path, Some(entry.format), Use::Write)?;
    let link = ParentLink { identity: Some(identity), overridden: None, ..link.clone() };
    layer.named(layer.layer.set_parent(&link))?;
    layer.close()?;
    Ok(true)
}
