//! What tells that a file is still the one it was, without reading it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Time stamps of files advance in steps of some milliseconds; a change within the same step as
/// the one before leaves them as they are.
const TIMESTAMP_STEP: Duration = Duration::from_millis(100);

/// A file's identity and the marks that every change to it leaves.
///
/// It holds within one boot of the host: a crash may lose data of a file whose inode says that
/// it is complete, so after a boot content is read and compared once more. That is also why
/// nothing in the cache is ever synced to the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::kernel) struct Identity {
    boot: String,
    device: u64,
    inode: u64,
    size: u64,
    modified_ns: i64,
    changed_ns: i64,
}

impl Identity {
    pub(in crate::kernel) fn of(file: &File) -> io::Result<Identity> {
        let metadata = file.metadata()?;
        let ns = |secs: i64, ns: i64| secs.saturating_mul(1_000_000_000).saturating_add(ns);
        Ok(Identity {
            boot: fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Whether the file with this identity is, unchanged, the one that has the identity `now`.
    /// It cannot be known on a host that does not tell its boots apart.
    pub(super) fn holds(&self, now: &Identity) -> bool {
        !now.boot.is_empty() && self == now
    }

    /// Whether the last change is long enough ago that the next one would leave other marks.
    pub(super) fn settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let changed = Duration::from_nanos(self.changed_ns.try_into().unwrap_or_default());
        now.checked_sub(changed).is_some_and(|age| age > TIMESTAMP_STEP)
    }

    /// A file name for notes on this file, the same as long as its inode is.
    pub(super) fn file_name(&self) -> String {
        format!("image-{:x}-{:x}.json", self.device, self.inode)
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }
}
