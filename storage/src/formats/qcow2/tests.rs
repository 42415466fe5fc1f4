//! qcow2 with QEMU's own tools as the second opinion.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cohort_tests::oracles::Qemu;

use super::*;
use crate::DiskQueue;
use crate::buffers::Buffers;
use crate::disk::{Disk, DiskOptions};
use crate::error::IoError;
use crate::formats::{self, NewLayer};
use crate::request::Operation;
use crate::testkit;

mod crash;
mod faults;
mod hostile;
mod identity;
mod model;
mod oracle;
mod space;
mod threads;

const CLUSTER: usize = 64 << 10;

/// Runs a program of QEMU's, of the installed version, and gives what it says.
fn qemu(program: &str, arguments: &[&str]) -> Result<String, String> {
    let (good, text) = Qemu::installed().run(program, arguments);
    if good { Ok(text) } else { Err(text) }
}

#[track_caller]
fn qemu_img(arguments: &[&str]) -> String {
    Qemu::installed().img(arguments)
}

/// Neither errors nor leaks.
#[track_caller]
fn assert_clean(path: &Path) {
    for qemu in Qemu::all() {
        let text = qemu.img(&["check", "-f", "qcow2", text(path)]);
        assert!(text.contains("No errors were found"), "{text}");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What every version of QEMU reads.
#[track_caller]
fn read_by_qemu(path: &Path) -> Vec<u8> {
    let raw = path.with_extension("converted");
    let mut contents = Qemu::all().into_iter().map(|qemu| {
        qemu.img(&["convert", "-f", "qcow2", "-O", "raw", text(path), text(&raw)]);
        std::fs::read(&raw).unwrap()
    });
    let first = contents.next().unwrap();
    assert!(contents.all(|other| other == first), "versions of QEMU disagree");
    first
}

fn image(path: &Path, writable: bool) -> Arc<ImageFile> {
    let file = File::options().read(true).write(writable).open(path).unwrap();
    Arc::new(ImageFile::new(file, path, writable))
}

fn layer_file(path: &Path, writable: bool) -> LayerFile {
    LayerFile::alone(image(path, writable), 32 << 20)
}

fn layer(path: &Path, writable: bool) -> Qcow2Layer {
    Qcow2Layer::open(layer_file(path, writable)).unwrap()
}

fn make(path: &Path, size: u64, parent: Option<ParentLink>) {
    File::create_new(path).unwrap();
    let new = NewLayer { size, sector: 512, parent, fixed: false, traits: None };
    formats::create(Format::Qcow2, &image(path, true), &new).unwrap();
}

/// A link to the layer at `path` as it is now.
fn link(path: &Path, format: Format) -> ParentLink {
    let file = layer_file(path, false);
    let identity = formats::open(format, file).unwrap().identity().unwrap();
    ParentLink {
        relative: Some(path.file_name().unwrap().into()),
        absolute: Some(path.to_owned()),
        ..ParentLink::new(format, Some(identity))
    }
}

fn try_open(path: &Path, options: &DiskOptions) -> Result<DiskQueue, crate::DiskError> {
    Disk::open(path, options)?.queue(4)
}

fn open(path: &Path) -> DiskQueue {
    let options = DiskOptions { format: Some(Format::Qcow2), ..DiskOptions::default() };
    try_open(path, &options).unwrap()
}

fn open_to_read(path: &Path) -> DiskQueue {
    let format = Some(Format::Qcow2);
    try_open(path, &DiskOptions { format, read_only: true, ..DiskOptions::default() }).unwrap()
}

fn ask(
    queue: &mut DiskQueue,
    operation: Operation,
    start: u64,
    len: u64,
    buffers: Buffers,
) -> Result<(), IoError> {
    testkit::ask(queue, testkit::request(operation, start, len, buffers))
}

fn write(queue: &mut DiskQueue, start: u64, bytes: &[u8]) {
    testkit::write(queue, start, bytes).unwrap();
}

fn read(queue: &mut DiskQueue, start: u64, len: usize) -> Vec<u8> {
    testkit::read(queue, start, len).unwrap()
}

/// Bytes that differ from sector to sector, and compress.
fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| seed.wrapping_add(u8::try_from(at / 512 % 199 + at % 7).unwrap())).collect()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}
