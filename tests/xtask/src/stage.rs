//! The tree of files that an outer machine works in, as an ext4 image.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::cache::Cache;
use crate::tool;

/// Room on the image beyond its files, in bytes. The image is sparse: room costs nothing.
const SPARE: u64 = 2 << 30;

/// A tree being put together.
pub(crate) struct Stage {
    folder: TempDir,
    size: u64,
}

impl Stage {
    /// An empty tree.
    pub(crate) fn new(cache: &Cache) -> Result<Stage> {
        Ok(Stage { folder: cache.scratch()?, size: 0 })
    }

    /// The host's folder that is the tree's root. What is put there directly is not counted for the
    /// size of the image: it must be small.
    pub(crate) fn tree(&self) -> &Path {
        self.folder.path()
    }

    /// Puts a host file at an absolute path of the tree.
    pub(crate) fn file(&mut self, host: &Path, at: &Path) -> Result<()> {
        let target = self.place(at)?;
        if target.exists() {
            return Ok(());
        }
        let host = host.canonicalize().with_context(|| host.display().to_string())?;
        self.size += host.metadata()?.len();
        // Sparse images stay sparse; on one file system nothing is copied where cp can reflink.
        tool::quiet(
            tool::tool("cp")
                .args(["--sparse=always", "--reflink=auto", "--"])
                .arg(&host)
                .arg(&target),
        )
    }

    /// Puts a text at an absolute path of the tree.
    pub(crate) fn text(&mut self, at: &Path, text: &str) -> Result<()> {
        let target = self.place(at)?;
        fs::write(&target, text)?;
        Ok(fs::set_permissions(&target, fs::Permissions::from_mode(0o755))?)
    }

    /// Makes an empty folder at an absolute path of the tree.
    pub(crate) fn folder(&mut self, at: &Path) -> Result<()> {
        let target = self.place(&at.join("."))?;
        Ok(fs::create_dir_all(target)?)
    }

    /// Puts a program and the libraries that the dynamic linker names for it.
    pub(crate) fn program(&mut self, host: &Path, at: &Path) -> Result<()> {
        self.file(host, at)?;
        // ldd fails for a static program, which needs nothing.
        let listing = tool::output(tool::tool("ldd").arg(host)).unwrap_or_default();
        for library in libraries(&listing) {
            self.file(library, library)?;
        }
        Ok(())
    }

    /// Makes a symbolic link at an absolute path of the tree.
    pub(crate) fn link(&mut self, at: &Path, to: &str) -> Result<()> {
        let target = self.place(at)?;
        Ok(std::os::unix::fs::symlink(to, target)?)
    }

    /// Writes the tree into an ext4 image and returns the image's path, in `into`.
    pub(crate) fn image(self, into: &Path) -> Result<PathBuf> {
        let image = into.join("disk.ext4");
        File::create(&image)?.set_len((self.size + SPARE).next_multiple_of(1 << 20))?;
        make_ext4(self.folder.path(), &image)?;
        Ok(image)
    }

    /// The host path for an absolute path of the tree, with its folders made.
    fn place(&self, at: &Path) -> Result<PathBuf> {
        let inner =
            at.strip_prefix("/").with_context(|| format!("{} is relative", at.display()))?;
        if inner.components().any(|part| part == Component::ParentDir) {
            bail!("{} leaves the tree", at.display());
        }
        let target = self.folder.path().join(inner);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        Ok(target)
    }
}

/// Fills an image file with an ext4 file system that holds a folder's content, owned by root.
pub(crate) fn make_ext4(folder: &Path, image: &Path) -> Result<()> {
    tool::quiet(
        tool::tool("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0"])
            .args([
                "-O",
                "^resize_inode",
                "-E",
                "lazy_itable_init=1,root_owner=0:0,nodiscard",
                "-d",
            ])
            .args([folder, image]),
    )
}

/// The absolute paths in what `ldd` prints.
fn libraries(listing: &str) -> impl Iterator<Item = &Path> {
    listing
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(Path::new)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Stage, libraries};
    use crate::cache::Cache;
    use crate::tool;

    #[test]
    fn the_dynamic_linker_and_every_library_are_found() {
        let listing = "\tlinux-vdso.so.1 (0x00007ffc)\n\
                       \tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x00007f)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found: Vec<_> = libraries(listing).collect();
        assert_eq!(
            found,
            [
                Path::new("/lib/x86_64-linux-gnu/libgcc_s.so.1"),
                Path::new("/lib64/ld-linux-x86-64.so.2")
            ]
        );
    }

    #[test]
    fn an_image_holds_the_tree() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().join("cache")).unwrap();
        let mut stage = Stage::new(&cache).unwrap();
        stage.text(Path::new("/deep/er/file"), "content").unwrap();
        assert!(stage.text(Path::new("/../outside"), "x").is_err());
        assert!(stage.text(Path::new("relative"), "x").is_err());
        let image = stage.image(folder.path()).unwrap();
        let read = tool::output(tool::tool("debugfs").args(["-R", "cat /deep/er/file"]).arg(image));
        assert_eq!(read.unwrap(), "content");
    }
}
