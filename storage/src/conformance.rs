//! What every format must do, checked through whole disks: one suite for all of them, as the base
//! of a chain and as the child of every other.

use std::fs;
use std::path::{Path, PathBuf};

use crate::chain::ChainError;
use crate::disk::{Disk, DiskOptions};
use crate::error::DiskError;
use crate::format::Format;
use crate::layer::Layer;
use crate::testkit::{self, READ_ONLY, WRITABLE};

mod contents;
mod links;
mod model;
mod names;

/// Bytes of the disks here: more than the largest block of any format.
const SIZE: u64 = (33 << 20) + 1536;
/// Bytes of their parents.
const PARENT_SIZE: u64 = 3 << 20;

/// A folder on the file system of the sources, which costs time.
fn folder_on_disk() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap()
}

/// Folders in memory and on disk: some formats rely on what the file system knows of a file.
fn folders() -> Vec<tempfile::TempDir> {
    tempfile::tempdir_in("/dev/shm").into_iter().chain([folder_on_disk()]).collect()
}

/// The formats that can be children.
const CHILDREN: [Format; 3] = [Format::Layer, Format::Qcow2, Format::Vhdx];
/// The formats that can be bases.
const BASES: [Format; 4] = Format::ALL;

/// A disk to be tested.
struct Subject {
    _folder: tempfile::TempDir,
    /// Its top layer.
    path: PathBuf,
    /// The layer below it.
    parent: Option<PathBuf>,
}

impl Subject {
    fn name(&self) -> String {
        let parent = self.parent.as_ref().map(|path| format!(" on {}", path.display()));
        format!("{}{}", self.path.display(), parent.unwrap_or_default())
    }

    fn open(&self, options: &DiskOptions) -> Disk {
        Disk::open(&self.path, options).unwrap_or_else(|error| panic!("{}: {error:?}", self.name()))
    }

    fn queue(&self, options: &DiskOptions) -> crate::DiskQueue {
        self.open(options).queue(4).unwrap()
    }
}

/// Every format as a base, everywhere.
fn bases() -> Vec<Subject> {
    let mut subjects = Vec::new();
    for format in BASES {
        for folder in folders() {
            let path = testkit::file_in(folder.path(), "base", format);
            testkit::create(&path, SIZE, None).unwrap();
            subjects.push(Subject { _folder: folder, path, parent: None });
        }
    }
    subjects
}

/// Every format on every other, and on raw ones everywhere; the parent is `parent_size` bytes of [`pattern`].
fn children(parent_size: u64) -> Vec<Subject> {
    let mut subjects = Vec::new();
    for format in CHILDREN {
        for below in BASES {
            let most = if below == Format::Raw { 2 } else { 1 };
            for folder in folders().into_iter().take(most) {
                let parent = testkit::file_in(folder.path(), "parent", below);
                testkit::create(&parent, parent_size, None).unwrap();
                let mut queue = Disk::open(&parent, &WRITABLE).unwrap().queue(1).unwrap();
                let bytes = pattern(7, usize::try_from(parent_size).unwrap());
                testkit::write(&mut queue, 0, &bytes).unwrap();
                testkit::flush(&mut queue).unwrap();
                drop(queue);
                let path = testkit::file_in(folder.path(), "child", format);
                testkit::create(&path, SIZE, Some(&parent)).unwrap();
                subjects.push(Subject { _folder: folder, path, parent: Some(parent) });
            }
        }
    }
    subjects
}

/// Bytes that differ from sector to sector, none of them zero.
fn pattern(seed: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for (sector, bytes) in bytes.chunks_mut(512).enumerate() {
        let byte = |salt: usize| u8::try_from(1 + (seed * 31 + sector * 7 + salt) % 251).unwrap();
        bytes.fill(byte(0));
        bytes[0] = byte(sector / 251);
    }
    bytes
}

/// The error of opening a chain that does not hang together.
fn broken(path: &Path, options: &DiskOptions) -> ChainError {
    match Disk::open(path, options) {
        Err(DiskError::Chain(error)) => {
            assert!(!error.help().is_empty());
            error
        }
        other => panic!("{}: {other:?}", path.display()),
    }
}

/// Looks for damage. Space that is lost is none.
fn assert_sound(layer: &dyn Layer) {
    let mut findings = layer.check(false).unwrap();
    findings.retain(|finding| !finding.harmless);
    assert_eq!(findings, [], "{:?}", layer.info());
}

/// All bytes of a file.
fn image(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}
