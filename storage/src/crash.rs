//! What tests record of a disk's files, to replay every crash that could have happened.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// A change of a file, or the point until which changes to it are durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Bytes were written.
    Write { at: u64, bytes: Vec<u8> },
    /// A range became a hole.
    Punch { at: u64, len: u64 },
    /// The file's length was set.
    SetLen(u64),
    /// Everything before is durable.
    Sync,
}

/// Everything that happened to a disk's files, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorder(Arc<Mutex<Vec<(PathBuf, Change)>>>);

impl Recorder {
    /// Takes note of a write.
    pub(crate) fn write(&self, path: &Path, at: u64, bytes: &[u8]) {
        self.push(path, Change::Write { at, bytes: bytes.to_vec() });
    }

    /// Takes note of a range that became a hole.
    pub(crate) fn punch(&self, path: &Path, at: u64, len: u64) {
        self.push(path, Change::Punch { at, len });
    }

    /// Takes note of a change of length.
    pub(crate) fn set_len(&self, path: &Path, len: u64) {
        self.push(path, Change::SetLen(len));
    }

    /// Takes note of a sync.
    pub(crate) fn sync(&self, path: &Path) {
        self.push(path, Change::Sync);
    }

    /// What happened so far.
    pub(crate) fn changes(&self) -> Vec<(PathBuf, Change)> {
        self.0.lock().unwrap().clone()
    }

    fn push(&self, path: &Path, change: Change) {
        self.0.lock().unwrap().push((path.to_owned(), change));
    }
}
