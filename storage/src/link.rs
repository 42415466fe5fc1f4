//! What a child records of its parent.

use std::path::{Component, Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::format::Format;
use crate::identity::{Digest, Identity};

/// A child's record of its parent: where it is, and what it held when the child was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ParentLink {
    /// The parent's path from the child's folder. Tried first, so that a folder of layers can move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative: Option<PathBuf>,
    /// The parent's path from the root. Tried next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absolute: Option<PathBuf>,
    /// The parent's format.
    pub format: Format,
    /// The parent's identity when the child was made. Without one, nobody can tell whether the
    /// parent has changed: such a chain does not open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// What all of the parent read as then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The identity that the parent had when someone last insisted on opening the chain although
    /// it was another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overridden: Option<Identity>,
    /// The same of layers further down, when someone last insisted on writing to this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overridden_below: Vec<Overridden>,
}

/// A link that did not hold when the layers above it were opened all the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Overridden {
    /// The layer whose record of its parent did not hold.
    pub child: PathBuf,
    /// The parent that was found.
    pub parent: PathBuf,
    /// The identity that the layer records, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded: Option<Identity>,
    /// The identity that the parent had.
    pub found: Identity,
}

/// Bytes of JSON that a link takes at most.
const JSON_MAX: usize = 64 << 10;

impl ParentLink {
    /// A record of a parent of this format and identity, which does not say where it is.
    pub(crate) fn new(format: Format, identity: Option<Identity>) -> ParentLink {
        ParentLink {
            relative: None,
            absolute: None,
            format,
            identity,
            digest: None,
            overridden: None,
            overridden_below: Vec::new(),
        }
    }

    /// The places to look for the parent of the layer at `child`, in order.
    pub fn candidates(&self, child: &Path) -> Vec<PathBuf> {
        let folder = child.parent().unwrap_or(Path::new(""));
        let relative = self.relative.iter().map(|path| folder.join(path));
        let mut places: Vec<PathBuf> = relative.chain(self.absolute.clone()).collect();
        places.dedup();
        places
    }

    /// Where the parent at `parent` is, as the layer at `child` records it: from its folder, and
    /// from the root. Both without symbolic links.
    pub(crate) fn places(child: &Path, parent: &Path) -> io::Result<(PathBuf, PathBuf)> {
        let folder = match child.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let absolute = fs::canonicalize(parent)?;
        Ok((relative(&fs::canonicalize(folder)?, &absolute), absolute))
    }

    /// The form in which formats of ours, and extensions of others, keep it.
    pub(crate) fn to_json(&self) -> Result<Vec<u8>, LinkError> {
        let text = serde_json::to_vec(self).map_err(|error| LinkError(error.to_string()))?;
        if text.len() > JSON_MAX {
            return Err(LinkError(format!("{} bytes are too long", text.len())));
        }
        Ok(text)
    }

    /// Reads that form.
    pub(crate) fn from_json(text: &[u8]) -> Result<ParentLink, LinkError> {
        if text.len() > JSON_MAX {
            return Err(LinkError(format!("{} bytes are too long", text.len())));
        }
        serde_json::from_slice(text).map_err(|error| LinkError(error.to_string()))
    }
}

/// The way from a folder to a file, both from the root and without links.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let common = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(common).map(|_| Component::ParentDir);
    up.chain(to.components().skip(common)).collect()
}

/// A record of a parent that cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record of the parent cannot be used: {0}")]
pub struct LinkError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_survives_and_garbage_is_refused() {
        let link = ParentLink {
            relative: Some("../base.vhdx".into()),
            absolute: Some("/images/base.vhdx".into()),
            format: Format::Vhdx,
            identity: Some(Identity::fresh()),
            digest: Some(Digest([7; 32])),
            overridden: None,
            overridden_below: Vec::new(),
        };
        assert_eq!(ParentLink::from_json(&link.to_json().unwrap()).unwrap(), link);
        let places = link.candidates(Path::new("/images/children/a.layer"));
        let wanted = ["/images/children/../base.vhdx", "/images/base.vhdx"];
        assert_eq!(places, wanted.map(PathBuf::from));
        ParentLink::from_json(b"{}").unwrap_err();
        ParentLink::from_json(&[b' '; JSON_MAX + 1]).unwrap_err();
    }

    #[test]
    fn the_way_from_a_folder_to_a_file() {
        let way = |from: &str, to: &str| relative(from.as_ref(), to.as_ref());
        assert_eq!(way("/a", "/a/base"), Path::new("base"));
        assert_eq!(way("/a/b/c", "/a/d/base"), Path::new("../../d/base"));
        assert_eq!(way("/", "/base"), Path::new("base"));
    }
}
