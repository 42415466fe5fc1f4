//! A file that gets its name when it is complete.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::ToolError;
#[cfg(test)]
use crate::crash::{Change, Recorder};
use crate::engine::sys;
use crate::format::Format;
use crate::formats::{self, NewLayer};
use crate::image::ImageFile;

/// A new layer under a hidden name beside the one it is to have. Dropped before it is published, it
/// is removed.
#[derive(Debug)]
pub(super) struct NewFile {
    target: PathBuf,
    hidden: PathBuf,
    published: bool,
}

impl NewFile {
    /// Refuses a name that is taken, and names in folders that are not there.
    pub(super) fn check(target: &Path) -> Result<(), ToolError> {
        if target.symlink_metadata().is_ok() {
            return Err(ToolError::Exists(target.to_owned()));
        }
        let found = fs::metadata(folder(target)).and_then(|facts| match facts.is_dir() {
            true => Ok(()),
            false => Err(io::ErrorKind::NotADirectory.into()),
        });
        found.map_err(ToolError::host(folder(target), "use the folder"))
    }

    /// Makes the layer.
    pub(super) fn create(
        target: &Path,
        format: Format,
        new: &NewLayer,
    ) -> Result<NewFile, ToolError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut name = OsString::from(".");
        name.push(beginning(target.file_name().unwrap_or_default()));
        name.push(format!(".{}-{count}.tmp", std::process::id()));
        let hidden = folder(target).join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&hidden);
        let file = file.map_err(ToolError::host(target, "create"))?;
        #[cfg(test)]
        Recorder::note(&hidden, Change::Create);
        let made = NewFile { target: target.to_owned(), hidden, published: false };
        let image = Arc::new(ImageFile::new(file, &made.hidden, true));
        formats::create(format, &image, new).map_err(|source| ToolError::Create {
            path: target.to_owned(),
            format,
            source,
        })?;
        Ok(made)
    }

    /// Where it is now.
    pub(super) fn path(&self) -> &Path {
        &self.hidden
    }

    /// Gives it its name, for good.
    pub(super) fn publish(mut self) -> Result<(), ToolError> {
        let all = File::open(&self.hidden).and_then(|file| file.sync_all());
        all.map_err(ToolError::host(&self.target, "write"))?;
        #[cfg(test)]
        Recorder::note(&self.hidden, Change::SyncAll);
        sys::rename_new(&self.hidden, &self.target).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => ToolError::Exists(self.target.clone()),
            _ => ToolError::host(&self.target, "name")(error),
        })?;
        self.published = true;
        #[cfg(test)]
        Recorder::note(&self.hidden, Change::Rename(self.target.clone()));
        sync_folder(&self.target)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.published {
            // Whoever dropped it says what went wrong.
            let _ = remove(&self.hidden);
        }
    }
}

/// As much of a name as leaves room for the rest of a hidden one: names have 255 bytes at most.
fn beginning(name: &OsStr) -> &OsStr {
    const BYTES: usize = 200;
    OsStr::from_bytes(name.as_bytes().get(..BYTES).unwrap_or(name.as_bytes()))
}

/// Removes a file.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    #[cfg(test)]
    Recorder::note(path, Change::Remove);
    fs::remove_file(path)
}

/// The folder that a path is in.
pub(super) fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Makes names in the folder of `path` durable.
pub(super) fn sync_folder(path: &Path) -> Result<(), ToolError> {
    let folder = folder(path);
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    #[cfg(test)]
    Recorder::note(folder, Change::SyncFolder);
    synced.map_err(ToolError::host(folder, "sync"))
}
