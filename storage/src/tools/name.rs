//! How a user names a disk.

use std::path::PathBuf;

use super::io::options;
use crate::disk::{Disk, DiskOptions};
use crate::error::DiskError;
use crate::format::Format;

/// A disk by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskName {
    /// Where it is.
    pub path: PathBuf,
    /// Its format; without one, the name tells.
    pub format: Option<Format>,
    /// Read it although a parent is not what its child records. Tools that write to a disk that is
    /// there do not heed this.
    pub allow_mismatch: bool,
}

impl DiskName {
    /// The format that it has, or must have.
    pub(super) fn format(&self) -> Format {
        self.format.unwrap_or_else(|| Format::of_name(&self.path))
    }

    /// Opens the disk with its chain, for reading.
    pub(super) fn open(&self) -> Result<Disk, DiskError> {
        let allow_mismatch = self.allow_mismatch;
        let options = DiskOptions { allow_mismatch, ..options(self.format, true) };
        Disk::open(&self.path, &options)
    }
}
