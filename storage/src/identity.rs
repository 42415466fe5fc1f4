//! What tells whether a layer's contents are still those that a child was made on.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The identity of a layer's contents. It changes before they do, so two that are equal say that
/// nothing has been written in between; a layer that has none cannot say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Identity {
    /// An identifier that the layer's own metadata holds (`DataWriteGuid` of MS-VHDX 2.2.2).
    Id(Uuid),
    /// What the file system says of a file whose format has no place for an identifier.
    File(Fingerprint),
}

impl Identity {
    /// A new identifier.
    #[cfg(test)]
    pub(crate) fn fresh() -> Identity {
        Identity::Id(Uuid::new_v4())
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Id(id) => write!(f, "{{{id}}}"),
            Identity::File(file) => write!(f, "{file}"),
        }
    }
}

/// A file as its file system knows it. Whoever writes to the file changes this, whether they know
/// of children or not; so does copying it, which is a false alarm that a digest can dispel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Fingerprint {
    /// Number of the device that the file is on.
    pub device: u64,
    /// The file's number there.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Last change of its content, in nanoseconds since 1970.
    pub mtime: i128,
    /// Last change of its inode, in nanoseconds since 1970.
    pub ctime: i128,
}

impl Fingerprint {
    /// Of an open file.
    pub(crate) fn of(file: &File) -> io::Result<Fingerprint> {
        let facts = file.metadata()?;
        let time = |seconds: i64, nanoseconds: i64| {
            i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
        };
        Ok(Fingerprint {
            device: facts.dev(),
            inode: facts.ino(),
            size: facts.size(),
            mtime: time(facts.mtime(), facts.mtime_nsec()),
            ctime: time(facts.ctime(), facts.ctime_nsec()),
        })
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fingerprint { device, inode, size, mtime, ctime } = self;
        write!(f, "file {device:x}:{inode} of {size} bytes, modified {mtime}, changed {ctime}")
    }
}

/// BLAKE3 of all that a disk reads as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
