//! One virtio-fs device: a folder of the host as a guest's file system.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The window for direct access starts and ends at multiples of this, as Linux fills it.
pub(crate) const DAX_GRANULE: u64 = 2 << 20;
/// The window of a guest that is given none is at least this long.
const DAX_MIN: u64 = 64 << 20;
/// And at most this long, so that several have room among the addresses that PCI has.
const DAX_MAX: u64 = 4 << 30;

/// A folder that a guest shares with the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareSpec {
    /// The folder.
    pub folder: PathBuf,
    /// The name by which the guest mounts it.
    pub tag: String,
    /// The guest may change what is in it.
    pub writable: bool,
    /// Where files are mapped for direct access.
    pub dax: DaxSpec,
    /// Whose files a guest's user sees and makes.
    pub ids: ShareIds,
    /// How long the guest may rely on what it was told.
    pub cache: ShareCache,
    /// File systems that are mounted inside of the folder are part of it.
    pub cross_mounts: bool,
    /// Which extended attributes the guest sees.
    pub xattrs: ShareXattrs,
}

/// The window for direct access of a share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DaxSpec {
    /// A quarter of the guest's memory, 64 MiB to 4 GiB: a page of the window costs the guest 1/64
    /// of one.
    #[default]
    Auto,
    /// This many bytes, a multiple of 2 MiB.
    Size(u64),
    /// None: what the guest reads is copied to its memory.
    Off,
}

impl DaxSpec {
    /// Bytes of the window of a guest with so much memory, if it has one.
    pub fn len(self, memory: u64) -> Option<u64> {
        match self {
            DaxSpec::Auto => {
                Some((memory / 4).next_multiple_of(DAX_GRANULE).clamp(DAX_MIN, DAX_MAX))
            }
            DaxSpec::Size(len) => Some(len),
            DaxSpec::Off => None,
        }
    }
}

/// How numbers of users and groups of guest and host belong together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShareIds {
    /// They are the same.
    #[default]
    Same,
    /// What is cohort's user's is the guest's root's, and the other way round.
    Squash,
    /// Those from `guest` on are the host's from `host` on, so many of them.
    Range {
        /// The first in the guest.
        guest: u32,
        /// The first on the host.
        host: u32,
        /// How many.
        count: u32,
    },
}

/// How long the guest may rely on what it was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShareCache {
    /// Not at all.
    Never,
    /// For a second.
    #[default]
    Auto,
    /// For good: nobody else changes the folder.
    Always,
}

/// Which extended attributes a guest sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShareXattrs {
    /// None.
    None,
    /// Those that users set for themselves (`user.`).
    #[default]
    User,
    /// All that cohort may see and set.
    All,
}

impl ShareSpec {
    /// A folder that the guest may not change, everything else as usual.
    pub fn new(folder: PathBuf, tag: String) -> ShareSpec {
        ShareSpec {
            folder,
            tag,
            writable: false,
            dax: DaxSpec::default(),
            ids: ShareIds::default(),
            cache: ShareCache::default(),
            cross_mounts: false,
            xattrs: ShareXattrs::default(),
        }
    }
}

/// The tag of a folder that is given none: its own name, wherever it is.
pub(crate) fn tag_of(folder: &Path) -> String {
    let named = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    named(folder)
        .or_else(|| folder.canonicalize().ok().and_then(|folder| named(&folder)))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_window_goes_by_the_guests_memory() {
        for (memory, wanted) in [
            (4 << 20, DAX_MIN),
            (256 << 20, 64 << 20),
            (1 << 30, 256 << 20),
            ((1 << 30) + 4096, 258 << 20),
            (1 << 40, DAX_MAX),
        ] {
            assert_eq!(DaxSpec::Auto.len(memory), Some(wanted), "{memory}");
        }
        assert_eq!(DaxSpec::Size(2 << 20).len(1 << 30), Some(2 << 20));
        assert_eq!(DaxSpec::Off.len(1 << 30), None);
    }

    #[test]
    fn a_folder_is_called_by_its_name() {
        assert_eq!(tag_of(Path::new("/srv/data")), "data");
        assert_eq!(tag_of(Path::new("data/")), "data");
        let here = std::env::current_dir().unwrap();
        assert_eq!(tag_of(Path::new(".")), here.file_name().unwrap().to_str().unwrap());
        assert_eq!(tag_of(Path::new("/")), "");
    }
}
