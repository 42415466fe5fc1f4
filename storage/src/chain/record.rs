//! What opening a chain adds to the top layer's record of its parent: which links did not hold
//! and were opened all the same, and where the parent was found if not where it was looked for
//! first. Only the top layer is ever changed: those below it may have other children.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::DiskError;
use crate::formats::FormatError;
use crate::identity::Identity;
use crate::layer::{Layer, LayerError};
use crate::link::{Overridden, ParentLink};

/// Most links further down of which a layer keeps that they were overridden.
const OVERRIDDEN_MAX: usize = 8;

/// Brings the record of the top layer, which is at `path`, up to date: `overridden` are the links
/// that did not hold, by their place from the top, and `parent` is where its parent was found.
pub(super) fn update(
    top: &dyn Layer,
    path: &Path,
    parent: &Path,
    overridden: Vec<(usize, Overridden)>,
) -> Result<(), DiskError> {
    let Some(old) = top.info().parent.as_ref().filter(|_| !top.info().read_only) else {
        // A layer that is opened for reading keeps no record; the log does.
        return Ok(());
    };
    let named = |source| DiskError::Layer { path: path.to_owned(), source };
    let mut new = old.clone();
    if matches!(top.identity().map_err(named)?, Identity::Id(_)) {
        // Where the file's times are the identity, this would be a change of it.
        refresh(&mut new, path, parent);
    }
    for (place, link) in overridden {
        if place == 0 {
            new.overridden = Some(link.found);
        } else if !new.overridden_below.contains(&link) {
            new.overridden_below.push(link);
        }
    }
    let many = new.overridden_below.len().saturating_sub(OVERRIDDEN_MAX);
    new.overridden_below.drain(..many);
    if new == *old {
        return Ok(());
    }
    match top.set_parent(&new) {
        // Nothing was changed. The disk can be used without, and the log tells.
        Err(LayerError::Format(error @ FormatError::Unsupported { .. })) => {
            tracing::warn!("{} has no room to record how it was opened: {error}", path.display());
            Ok(())
        }
        result => result.map_err(named),
    }
}

/// Puts the parent's places right if it was not found at the first of them, or if another one
/// names nothing or something else any more.
fn refresh(link: &mut ParentLink, child: &Path, parent: &Path) {
    // Opened by another name, the layer's folder is still its own.
    let Ok((child_path, real)) =
        fs::canonicalize(child).and_then(|path| Ok((path, fs::canonicalize(parent)?)))
    else {
        return;
    };
    let found_first = link.candidates(child).first().is_some_and(|place| place == parent);
    if found_first && link.absolute.as_ref().is_none_or(|place| *place == real) {
        return;
    }
    if let Ok((relative, absolute)) = ParentLink::places(&child_path, parent) {
        // Others read names in UTF-8 only.
        if relative.to_str().is_some() && absolute.to_str().is_some() {
            (link.relative, link.absolute) = (Some(relative), Some(absolute));
        }
    }
}

/// A path that means the same in any folder, as text.
pub(super) fn lasting(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.to_string_lossy().into_owned().into()
}

#[cfg(test)]
mod tests;
