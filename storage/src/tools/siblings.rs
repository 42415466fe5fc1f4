//! Layers that rest on another one, as far as a look into folders tells.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::new_file::folder;
use super::one::OneLayer;
use crate::format::Format;

/// The layers in the folders of `path` and `also` that name the layer at `path` as their parent.
/// What cannot be opened as the format that its name tells is passed over.
pub fn children_of(path: &Path, also: &[PathBuf]) -> Vec<PathBuf> {
    let mut folders = vec![folder(path).to_owned()];
    folders.extend(also.iter().map(|path| folder(path).to_owned()));
    let mut real: Vec<PathBuf> =
        folders.iter().filter_map(|folder| fs::canonicalize(folder).ok()).collect();
    real.sort();
    real.dedup();
    let Some(wanted) = number_of(path) else { return Vec::new() };
    let mut children = Vec::new();
    for entry in real.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten() {
        let child = entry.path();
        if Format::of_name(&child) == Format::Raw || number_of(&child) == Some(wanted) {
            continue;
        }
        let Ok(layer) = OneLayer::look(&child, None) else { continue };
        let Some(link) = &layer.layer.info().parent else { continue };
        let parent = link.candidates(&child).into_iter().find(|place| place.exists());
        if parent.and_then(|parent| number_of(&parent)) == Some(wanted) {
            children.push(child);
        }
    }
    children.sort();
    children
}

/// What tells a file from all others.
pub(super) fn number_of(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|facts| (facts.dev(), facts.ino()))
}
