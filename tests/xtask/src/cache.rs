//! Things that are made or fetched once and used again, each in a folder named after the version
//! or content that it was made from.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The folder of kept things. It may be deleted whenever no task runs.
pub(crate) struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The user's cache, made if it does not exist.
    pub(crate) fn open() -> Result<Cache> {
        let base = std::env::var_os("XDG_CACHE_HOME")
            .filter(|folder| Path::new(folder).is_absolute())
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
            .unwrap_or_else(std::env::temp_dir);
        Cache::at(base.join("cohort-xtask"))
    }

    /// A cache in this folder, made if it does not exist.
    pub(crate) fn at(folder: PathBuf) -> Result<Cache> {
        fs::create_dir_all(&folder)
            .with_context(|| format!("the cache folder {} cannot be made", folder.display()))?;
        Ok(Cache { folder })
    }

    /// The folder called `key`, filled by `make` unless it exists. It appears with everything in
    /// it or not at all, and of several tasks that want it at once one makes it.
    pub(crate) fn entry(
        &self,
        key: &str,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let done = self.folder.join(key);
        if done.is_dir() {
            return Ok(done);
        }
        let lock = File::create(self.folder.join(format!("{key}.lock")))?;
        lock.lock()?;
        if done.is_dir() {
            return Ok(done);
        }
        let making = tempfile::Builder::new().prefix(".making-").tempdir_in(&self.folder)?;
        make(making.path()).with_context(|| format!("{key} could not be made"))?;
        fs::rename(making.path(), &done)?;
        Ok(done)
    }

    /// The keys of what is kept whose name starts so, in order.
    pub(crate) fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(prefix) && entry.file_type()?.is_dir() {
                keys.push(name);
            }
        }
        keys.sort();
        Ok(keys)
    }

    /// A temporary folder on the cache's file system, so that files can be linked into it.
    pub(crate) fn scratch(&self) -> Result<tempfile::TempDir> {
        Ok(tempfile::Builder::new().prefix(".scratch-").tempdir_in(&self.folder)?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicU32, Ordering};

    use anyhow::bail;

    use super::Cache;

    #[test]
    fn an_entry_is_made_once_even_by_several_at_the_same_time() {
        let folder = tempfile::tempdir().unwrap();
        let made = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let cache = Cache::at(folder.path().join("cache")).unwrap();
                    let entry = cache.entry("kernel-1", |into| {
                        made.fetch_add(1, Ordering::Relaxed);
                        Ok(fs::write(into.join("file"), "content")?)
                    });
                    assert_eq!(fs::read(entry.unwrap().join("file")).unwrap(), b"content");
                });
            }
        });
        assert_eq!(made.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn what_failed_to_be_made_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().to_path_buf()).unwrap();
        assert!(cache.entry("broken", |_| bail!("no network")).is_err());
        assert!(cache.keys("broken").unwrap().is_empty());
        assert!(cache.entry("broken", |_| Ok(())).is_ok());
        assert_eq!(cache.keys("broken").unwrap(), ["broken"]);
    }
}
