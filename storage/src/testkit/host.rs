//! What only some hosts let a test have: devices and file systems of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A loop device over an unnamed file, detached at the end.
pub(crate) struct Loop(pub(crate) PathBuf);

impl Loop {
    /// A device of `len` bytes in blocks of `block`. `None`, which is told, where there is none to
    /// be had.
    pub(crate) fn new(len: u64, block: u32) -> Option<Loop> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.as_file_mut().set_len(len).unwrap();
        let block = format!("--sector-size={block}");
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show", &block]).arg(file.path());
        let output = losetup.output().ok().filter(|output| output.status.success());
        if output.is_none() {
            println!("skipped: no loop devices here");
        }
        output.map(|output| Loop(String::from_utf8(output.stdout).unwrap().trim().into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

/// A file system in memory, gone at the end.
pub(crate) struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    /// One that is mounted with these options. `None`, which is told, where that is not permitted.
    pub(crate) fn new(options: &str) -> Option<Tmpfs> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "cohort-test"]).arg(folder.path());
        if mount.output().is_ok_and(|output| output.status.success()) {
            return Some(Tmpfs(folder));
        }
        println!("skipped: no tmpfs with {options} here");
        None
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // A ring that is being torn down may keep a file open for a while.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}
