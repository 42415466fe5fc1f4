//! What tells whether a layer's contents are still those that a child was made on.

use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

mod device;
pub(crate) mod kernel;

pub use device::{DeviceCounts, DeviceState, LoopWindow, Untold};

/// The identity of a layer's contents. It changes before they do, so two that are equal say that
/// nothing has been written in between; a layer that has none cannot say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Identity {
    /// An identifier that the layer's own metadata holds (`DataWriteGuid` of MS-VHDX 2.2.2).
    Id(Uuid),
    /// What the file system says of a file whose format has no place for an identifier.
    File(Fingerprint),
    /// What the kernel says of a block device in the same case.
    Device(DeviceState),
}

impl Identity {
    /// A new identifier.
    #[cfg(test)]
    pub(crate) fn fresh() -> Identity {
        Identity::Id(Uuid::new_v4())
    }

    /// Of a file or block device whose format has no place for an identifier. Of a device, what
    /// others have written into the page cache is written back first, since the kernel counts it
    /// only then.
    pub(crate) fn of(file: &File) -> io::Result<Identity> {
        Ok(match file.metadata()? {
            facts if facts.file_type().is_block_device() => {
                Identity::Device(kernel::state(file, facts.rdev())?)
            }
            facts => Identity::File(Fingerprint::of(&facts)),
        })
    }

    /// Why it holds against none, not even itself, if so.
    pub(crate) fn untold(&self) -> Option<&str> {
        match self {
            Identity::Device(device) => device.untold.as_ref().map(|untold| untold.why.as_str()),
            _ => None,
        }
    }

    /// The last change of an inode that it rests on. Another one in the same step of the kernel's
    /// clock might leave the identity as it is.
    pub(crate) fn last_change(&self) -> Option<i128> {
        match self {
            Identity::Id(_) => None,
            Identity::File(file) => Some(file.ctime),
            Identity::Device(device) => device.files.iter().map(|file| file.ctime).max(),
        }
    }

    /// What has happened since it was `recorded`, where that can be told from the two.
    pub(crate) fn since(&self, recorded: &Identity) -> Option<String> {
        match (recorded, self) {
            (Identity::Device(recorded), Identity::Device(found)) => found.since(recorded),
            (Identity::File(_), Identity::Device(_)) => Some(
                "what is recorded is of a file, or of a device by the times of its node, which \
                 do not tell whether the device has changed"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Id(id) => write!(f, "{{{id}}}"),
            Identity::File(file) => write!(f, "{file}"),
            Identity::Device(device) => write!(f, "{device}"),
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
    /// Of a file of which this is known.
    pub(crate) fn of(facts: &Metadata) -> Fingerprint {
        let time = |seconds: i64, nanoseconds: i64| {
            i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
        };
        Fingerprint {
            device: facts.dev(),
            inode: facts.ino(),
            size: facts.size(),
            mtime: time(facts.mtime(), facts.mtime_nsec()),
            ctime: time(facts.ctime(), facts.ctime_nsec()),
        }
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

#[cfg(test)]
mod tests;
