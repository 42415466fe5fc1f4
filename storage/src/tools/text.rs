//! Paths in results, as text: JSON has no other, and a name need not be UTF-8.

use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

/// A path, with a replacement character for what is no text.
pub(super) fn path<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    path.to_string_lossy().serialize(serializer)
}

/// Several of them.
pub(super) fn paths<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
}
