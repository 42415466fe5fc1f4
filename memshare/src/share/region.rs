//! A file that is shared: opened once, and known by what it is.

use std::any::Any;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{FileIdentity, ShareError};

/// A file whose pages are mapped into guests. It is never opened again: what has its name later
/// is another file.
pub struct SharedRegion {
    file: File,
    /// The name by which it was opened, for messages.
    path: PathBuf,
    identity: FileIdentity,
    /// What has to live as long, such as a lock.
    _kept: Option<Box<dyn Any + Send + Sync>>,
}

/// What became of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The name by which it was opened.
    pub path: PathBuf,
    /// What happened.
    pub what: Change,
}

/// What can happen to a file that is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was shortened: pages are lost.
    Truncated {
        /// Bytes it had.
        from: u64,
        /// Bytes it has.
        to: u64,
    },
    /// It was written to: guests may see the new content in some pages and the old in none.
    Written,
}

impl SharedRegion {
    /// Takes a file that was opened as `path`, and what has to live as long as it is in use.
    ///
    /// # Errors
    /// It is not a regular file, or the host does not tell what it is.
    pub fn new(
        file: File,
        path: PathBuf,
        kept: Option<Box<dyn Any + Send + Sync>>,
    ) -> Result<Arc<SharedRegion>, ShareError> {
        let identity = FileIdentity::of(&file).map_err(ShareError::host("look at", &path))?;
        SharedRegion::of(file, path, identity, kept)
    }

    /// The same for a file of which more is known.
    pub(super) fn of(
        file: File,
        path: PathBuf,
        identity: FileIdentity,
        kept: Option<Box<dyn Any + Send + Sync>>,
    ) -> Result<Arc<SharedRegion>, ShareError> {
        let metadata = file.metadata().map_err(ShareError::host("look at", &path))?;
        if !metadata.is_file() {
            return Err(ShareError::NotRegular(path));
        }
        Ok(Arc::new(SharedRegion { file, path, identity, _kept: kept }))
    }

    /// The name by which it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it was when it was opened.
    pub fn identity(&self) -> &FileIdentity {
        &self.identity
    }

    /// Bytes that it had when it was opened.
    pub fn len(&self) -> u64 {
        self.identity.size
    }

    /// Whether it had none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// What has become of it since it was opened, if anything. That it lost its name does not
    /// count: it is the same file as before.
    ///
    /// # Errors
    /// The host does not tell.
    pub fn check(&self) -> Result<Option<Changed>, ShareError> {
        let now = self.file.metadata().map_err(ShareError::host("look at", &self.path))?;
        let was = &self.identity;
        let what = if now.len() < was.size {
            Change::Truncated { from: was.size, to: now.len() }
        } else if (now.len(), now.mtime(), now.mtime_nsec())
            != (was.size, was.modified.0, was.modified.1)
            && was.digest.is_none()
        {
            Change::Written
        } else {
            return Ok(None);
        };
        Ok(Some(Changed { path: self.path.clone(), what }))
    }
}

impl fmt::Debug for SharedRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRegion")
            .field("path", &self.path)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.what {
            Change::Truncated { from, to } => write!(
                f,
                "{} was cut from {from} to {to} bytes while guests have it mapped",
                self.path.display()
            ),
            Change::Written => {
                write!(f, "{} was written to while guests have it mapped", self.path.display())
            }
        }
    }
}
