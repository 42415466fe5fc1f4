//! What only some hosts let a test have: devices and file systems of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::NamedTempFile;

/// A loop device, detached at the end.
pub(crate) struct Loop(pub(crate) PathBuf, Option<NamedTempFile>);

impl Loop {
    /// A device of `len` bytes in blocks of `block`, over a file of its own. `None`, which is told,
    /// where there is none to be had.
    pub(crate) fn new(len: u64, block: u32) -> Option<Loop> {
        let mut file = NamedTempFile::new().unwrap();
        file.as_file_mut().set_len(len).unwrap();
        let found = Loop::attach(&[&format!("--sector-size={block}")], file.path());
        found.map(|path| Loop(path, Some(file)))
    }

    /// One that shows what is at `path`.
    pub(crate) fn over(path: &Path) -> Option<Loop> {
        Loop::attach(&[], path).map(|path| Loop(path, None))
    }

    fn attach(options: &[&str], path: &Path) -> Option<PathBuf> {
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show"]).args(options).arg(path);
        let output = losetup.output().ok().filter(|output| output.status.success());
        if output.is_none() {
            println!("skipped: no loop devices here");
        }
        output.map(|output| String::from_utf8(output.stdout).unwrap().trim().into())
    }

    /// The file behind it.
    pub(crate) fn file(&self) -> &Path {
        self.1.as_ref().unwrap().path()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

/// A partition of a device, from its second MiB on; gone at the end, which must come before the
/// device's.
pub(crate) struct Partition(pub(crate) PathBuf, PathBuf);

impl Partition {
    /// The first one, of `len` bytes. `None`, which is told, where there can be none.
    pub(crate) fn new(device: &Path, len: u64) -> Option<Partition> {
        let mut add = Command::new("addpart");
        add.arg(device).args(["1", "2048", &(len / 512).to_string()]);
        let path = PathBuf::from(format!("{}p1", device.display()));
        if add.output().is_ok_and(|output| output.status.success()) {
            let partition = Partition(path, device.to_owned());
            if partition.0.exists() {
                return Some(partition);
            }
        }
        println!("skipped: no partitions of loop devices here");
        None
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        let _ = Command::new("delpart").arg(&self.1).arg("1").status();
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

/// A file system that is mounted from a device, until the end.
pub(crate) struct Mount(tempfile::TempDir);

impl Mount {
    /// Makes one on the device. `None`, which is told, where that is not possible.
    pub(crate) fn new(device: &Path) -> Option<Mount> {
        let made = Command::new("mkfs.ext4").arg("-q").arg(device).output();
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "ext4"]).arg(device).arg(folder.path());
        if made.is_ok_and(|output| output.status.success())
            && mount.output().is_ok_and(|output| output.status.success())
        {
            return Some(Mount(folder));
        }
        println!("skipped: no ext4 here");
        None
    }

    /// Lets nobody write to it any more.
    pub(crate) fn freeze(&self) {
        let mut mount = Command::new("mount");
        assert!(mount.args(["-o", "remount,ro"]).arg(self.path()).status().unwrap().success());
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}
