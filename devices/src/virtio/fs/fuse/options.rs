//! What a share is, and how much a guest may hold of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::mapping::DaxWindow;

/// A share.
#[derive(Clone)]
pub struct FsOptions {
    /// The folder.
    pub folder: PathBuf,
    /// Whether the guest may change anything. Otherwise every request that would is answered with
    /// `EROFS`.
    pub writable: bool,
    /// Whose files a guest's user sees and makes.
    pub ids: Ids,
    /// How long the guest may rely on what it was told.
    pub caching: Caching,
    /// What becomes of other file systems mounted inside the folder.
    pub mounts: Mounts,
    /// Which extended attributes the guest sees.
    pub xattrs: Xattrs,
    /// Where files are mapped for direct access.
    pub window: Option<Arc<dyn DaxWindow>>,
    /// Bounds on what the guest holds.
    pub limits: Limits,
}

impl FsOptions {
    /// A read-only share of `folder` without a window, everything else as usual.
    pub fn new(folder: impl Into<PathBuf>) -> FsOptions {
        FsOptions {
            folder: folder.into(),
            writable: false,
            ids: Ids::Same,
            caching: Caching::Auto,
            mounts: Mounts::Refuse,
            xattrs: Xattrs::User,
            window: None,
            limits: Limits::of_process(),
        }
    }
}

/// How user and group numbers of the guest and of the host belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// They are the same. Files that the guest's users make belong to these users where this
    /// process may give them away (it runs as root), to this process' user otherwise.
    Same,
    /// Files of this process' user belong to the guest's root, files of others to nobody (65534);
    /// what the guest makes belongs to this process' user.
    Squash,
    /// Numbers in a range of the guest are those of a range of the host; others are nobody, and
    /// cannot own what the guest makes (`EOVERFLOW`).
    Range(IdRange),
}

/// Numbers of users and groups that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// The first in the guest.
    pub guest: u32,
    /// The first on the host.
    pub host: u32,
    /// How many.
    pub count: u32,
}

/// How long the guest may rely on what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// Not at all: for folders that others change at the same time.
    Never,
    /// Names and attributes for a second; file content until it is opened anew, or seen changed.
    Auto,
    /// For a day: for folders that nobody else changes.
    Always,
}

impl Caching {
    /// How long names and attributes are valid.
    pub(super) fn valid(self) -> Duration {
        match self {
            Caching::Never => Duration::ZERO,
            Caching::Auto => Duration::from_secs(1),
            Caching::Always => Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// What becomes of other file systems mounted inside the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mounts {
    /// They cannot be entered (`EXDEV`).
    Refuse,
    /// They are part of the share. Their files' inode numbers are changed, so that no two files
    /// of the share look the same.
    Cross,
}

/// Which extended attributes a guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Xattrs {
    /// None (`EOPNOTSUPP`).
    None,
    /// Those of `user.`. Others mean something to the host, such as `security.capability`.
    User,
    /// All that this process may see and set.
    All,
}

/// Bounds on what a guest makes the server hold. What is beyond gets the error named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Descriptors (`O_PATH`) kept of files that the guest knows. Where this process may open
    /// files by handle (`CAP_DAC_READ_SEARCH`), those used least are closed and opened again when
    /// needed; elsewhere the guest cannot know more files than this (`ENFILE`).
    pub descriptors: usize,
    /// Files that the guest knows (`ENFILE`).
    pub inodes: usize,
    /// Files and folders open at a time (`ENFILE`).
    pub handles: usize,
    /// Owners of locks, for each file that they lock, and requests that wait for a lock
    /// (`ENOLCK`).
    pub locks: usize,
    /// Files mapped into the window at a time (`ENFILE`).
    pub mapped: usize,
}

impl Limits {
    /// What suits the number of descriptors that this process may have (`RLIMIT_NOFILE`), for its
    /// only share; see [`Limits::divided`].
    pub fn of_process() -> Limits {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        Limits {
            descriptors: (limit / 2).min(1 << 16),
            inodes: 1 << 20,
            handles: (limit / 4).min(8192),
            locks: (limit / 16).min(1024),
            mapped: (limit / 16).min(1024),
        }
    }

    /// What each of several shares may have of it.
    #[must_use]
    pub fn divided(self, shares: usize) -> Limits {
        let part = |whole: usize| (whole / shares.max(1)).max(1);
        Limits {
            descriptors: part(self.descriptors),
            inodes: part(self.inodes),
            handles: part(self.handles),
            locks: part(self.locks),
            mapped: part(self.mapped),
        }
    }
}
