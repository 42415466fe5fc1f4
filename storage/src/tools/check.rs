//! Whether layers are sound and fit together.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::digest::digest;
use super::info::{DiskInfo, LayerEntry, Linkage, info};
use super::io::options;
use super::lasting;
use super::one::OneLayer;
use super::{Progress, ToolError, text};
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
    /// Something was to be mended, and was not, because the layers do not fit together.
    pub not_mended: bool,
}

/// What it found in one layer.
#[derive(Debug, Serialize)]
pub struct CheckedLayer {
    /// Its file.
    #[serde(serialize_with = "text::path")]
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

/// Checks every layer of the disk at `path`; with `repair`, mends the top one if all of them fit
/// together. With `digests`,
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
    // Whoever brings back what the layers rest on needs this one as it is.
    let fits = found.layers.iter().all(|layer| layer.linkage.status() == 0);
    let mut findings = Vec::new();
    // From the base upwards: if one cannot be looked at, nothing above it has been mended.
    for (place, entry) in found.layers.iter().enumerate().rev() {
        let child = place.checked_sub(1).and_then(|above| found.layers.get(above));
        findings.push(match child {
            None if repair && fits => mend(entry)?,
            None => look(entry)?,
            Some(child) => look(entry).map_err(|error| error.of_parent(&child.path))?,
        });
    }
    let mut layers: Vec<CheckedLayer> = Vec::new();
    for (entry, findings) in found.layers.into_iter().zip(findings.into_iter().rev()) {
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
    Ok(Checked { layers, not_mended: repair && !fits })
}

/// What is wrong with a layer.
fn look(entry: &LayerEntry) -> Result<Vec<Finding>, DiskError> {
    let open = OneLayer::open(&entry.path, Some(entry.format), Use::Read)?;
    open.named(open.layer.check(false))
}

/// The same, mended where that is safe. What opening a layer for writing and closing it in order
/// mends by itself, such as a log that is to be replayed, is found by a look before.
fn mend(entry: &LayerEntry) -> Result<Vec<Finding>, DiskError> {
    let before = look(entry)?;
    let open = OneLayer::open(&entry.path, Some(entry.format), Use::Write)?;
    let mut findings = open.named(open.layer.check(true))?;
    open.close()?;
    let still_there = |found: &Finding| findings.iter().any(|it| it.what == found.what);
    let gone: Vec<Finding> = before.into_iter().filter(|found| !still_there(found)).collect();
    findings.extend(gone.into_iter().map(|found| Finding { repaired: true, ..found }));
    Ok(findings)
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
    if identity.untold().is_some() {
        // It would not hold by the time that anyone looks.
        return Ok(false);
    }
    let layer = OneLayer::open(&entry.path, Some(entry.format), Use::Write)?;
    let link = ParentLink { identity: Some(identity), overridden: None, ..link.clone() };
    layer.named(layer.layer.set_parent(&link))?;
    layer.close()?;
    Ok(true)
}
