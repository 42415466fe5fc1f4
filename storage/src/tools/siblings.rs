//! Layers that rest on another one, as far as a look into folders tells.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::ToolError;
use super::new_file::folder;
use super::one::OneLayer;
use crate::format::Format;

/// Layers that rest on another one, and where they were looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Children {
    /// Their files.
    pub found: Vec<PathBuf>,
    /// The folders.
    pub searched: Vec<PathBuf>,
}

/// The layers in `folders`, and in the folder of the layer at `path`, that name it as
/// their parent. A name that tells no format may be one of any.
pub fn children_of(path: &Path, folders: &[&Path]) -> Result<Children, ToolError> {
    let mut searched = Vec::new();
    let real = fs::canonicalize(path).map_err(ToolError::host(path, "find the place of"))?;
    for folder in folders.iter().copied().chain([folder(path), folder(&real)]) {
        let real = fs::canonicalize(folder).map_err(ToolError::host(folder, "search"))?;
        if !searched.contains(&real) {
            searched.push(real);
        }
    }
    let mut found = Vec::new();
    let wanted = number_of(path);
    for folder in &searched {
        let entries = fs::read_dir(folder).map_err(ToolError::host(folder, "search"))?;
        let files = entries.flatten().map(|entry| entry.path());
        found.extend(files.filter(|file| wanted.is_some() && names_parent(file, wanted)));
    }
    found.sort();
    Ok(Children { found, searched })
}

/// Whether the file is a layer whose parent is the file `wanted`.
fn names_parent(file: &Path, wanted: Option<(u64, u64)>) -> bool {
    let formats = match Format::of_name(file) {
        Format::Raw => &[Format::Layer, Format::Qcow2, Format::Vhdx][..],
        Format::Layer => &[Format::Layer],
        Format::Qcow2 => &[Format::Qcow2],
        Format::Vhdx => &[Format::Vhdx],
    };
    number_of(file) != wanted
        && formats.iter().any(|format| {
            let Ok(layer) = OneLayer::look(file, Some(*format)) else { return false };
            let Some(link) = &layer.layer.info().parent else { return false };
            let parent = link.candidates(file).into_iter().find(|place| place.exists());
            parent.and_then(|parent| number_of(&parent)) == wanted
        })
}

/// What tells a file from all others.
pub(super) fn number_of(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|facts| (facts.dev(), facts.ino()))
}
