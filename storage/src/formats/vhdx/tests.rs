//! VHDX files that cohort makes, that QEMU and Windows make, and that nobody should make.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cohort_tests::oracles::Qemu;
use tempfile::TempDir;

use super::create::create_with_blocks;
use super::layer::VhdxLayer;
use super::{MIB, open};
use crate::DiskQueue;
use crate::buffers::{AlignedBuffer, Buffers};
use crate::crash::Recorder;
use crate::disk::{Disk, DiskOptions, EngineChoice};
use crate::error::IoError;
use crate::format::Format;
use crate::formats::{FormatError, LayerFile, NewLayer};
use crate::identity::{Fingerprint, Identity};
use crate::image::ImageFile;
use crate::layer::{Erase, Extent, Layer, LayerError, Outcome, Source, WriteStep};
use crate::link::ParentLink;
use crate::request::{DiskRequest, Operation};
use crate::testkit;
use crate::units::DiskRange;

mod crashes;
mod foreign;
mod hostile;
mod model;
mod oracles;
mod replays;
mod structure;
mod writing;

fn image(path: &Path) -> Arc<ImageFile> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
    Arc::new(ImageFile::new(file.unwrap(), path, true))
}

fn read_only(path: &Path) -> Arc<ImageFile> {
    Arc::new(ImageFile::new(File::open(path).unwrap(), path, false))
}

fn layer_of(image: &Arc<ImageFile>) -> VhdxLayer {
    open(LayerFile::alone(Arc::clone(image), 32 << 20)).unwrap()
}

fn dynamic(size: u64) -> NewLayer {
    NewLayer { size, sector: 512, parent: None, fixed: false, traits: None }
}

fn link(format: Format, relative: &str, identity: Identity) -> ParentLink {
    ParentLink { relative: Some(relative.into()), ..ParentLink::new(format, Some(identity)) }
}

/// A new file in a folder of its own.
fn make(new: &NewLayer, block: u64) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("disk.vhdx");
    create_with_blocks(&image(&path), new, block).unwrap();
    (folder, path)
}

/// A differencing disk in `folder` over a raw disk that holds `bytes`.
fn make_over_raw(folder: &Path, bytes: &[u8], block: u64) -> PathBuf {
    let base = folder.join("base.raw");
    fs::write(&base, bytes).unwrap();
    let identity = Identity::File(Fingerprint::of(&fs::metadata(&base).unwrap()));
    let parent = Some(link(Format::Raw, "base.raw", identity));
    let path = folder.join("child.vhdx");
    let new = NewLayer { parent, ..dynamic(bytes.len() as u64) };
    create_with_blocks(&image(&path), &new, block).unwrap();
    path
}

fn options() -> DiskOptions {
    DiskOptions { engine: EngineChoice::Positional, ..DiskOptions::default() }
}

fn queue(path: &Path, options: &DiskOptions) -> DiskQueue {
    Disk::open(path, options).unwrap().queue(4).unwrap()
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

/// Bytes that differ from sector to sector, none of them zero.
fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| seed.wrapping_add(u8::try_from(at / 512 % 251).unwrap()) | 1).collect()
}

fn range(start: u64, len: u64) -> DiskRange {
    DiskRange::new(start, len).unwrap()
}

/// What every version of QEMU reads from a VHDX.
#[track_caller]
fn as_qemu_reads(path: &Path) -> Vec<u8> {
    let (name, raw) = (path.to_str().unwrap(), path.with_extension("qemu.raw"));
    let mut contents = Qemu::all().into_iter().map(|qemu| {
        let text = qemu.img(&["check", "-f", "vhdx", name]);
        assert!(text.contains("No errors"), "{text}");
        qemu.img(&["convert", "-f", "vhdx", "-O", "raw", name, raw.to_str().unwrap()]);
        fs::read(&raw).unwrap()
    });
    let first = contents.next().unwrap();
    assert!(contents.all(|other| other == first), "versions of QEMU disagree");
    first
}

/// Does what the queue would do with a change, on the layer's own file.
fn change(
    layer: &VhdxLayer,
    image: &ImageFile,
    resolve: impl FnOnce(&mut Vec<WriteStep>) -> Result<crate::layer::Ticket, LayerError>,
    payload: &[u8],
) {
    let mut steps = Vec::new();
    let ticket = resolve(&mut steps).unwrap();
    let mut payload = payload;
    for step in steps {
        match step {
            WriteStep::Store { range, at, .. } => {
                let (bytes, rest) = payload.split_at(usize::try_from(range.len()).unwrap());
                payload = rest;
                image.write_at(bytes, at.get()).unwrap();
            }
            WriteStep::ZeroFill { at, len, .. } | WriteStep::Deallocate { at, len, .. } => {
                image.punch(at.get(), len).unwrap();
            }
            WriteStep::CopyUp { .. } => panic!("nothing is copied up"),
        }
    }
    layer.finish(ticket, Outcome::Done).unwrap();
}

/// What a layer reads as, from its own file; `below` shows through.
fn contents(layer: &VhdxLayer, image: &ImageFile, below: &[u8]) -> Vec<u8> {
    let size = layer.info().size;
    let mut extents = Vec::new();
    let ticket = layer.resolve_read(range(0, size), &mut extents).unwrap();
    let mut bytes = Vec::new();
    for Extent { range, source } in extents {
        assert_eq!(range.start(), bytes.len() as u64);
        let (from, to) = (bytes.len(), usize::try_from(range.end()).unwrap());
        bytes.resize(to, 0);
        match source {
            Source::Zero => {}
            Source::Transparent => bytes[from..].copy_from_slice(&below[from..to]),
            Source::Data { offset, .. } => image.read_at(&mut bytes[from..], offset.get()).unwrap(),
            Source::Encoded { .. } => panic!("nothing is encoded"),
        }
    }
    layer.finish(ticket, Outcome::Done).unwrap();
    bytes
}
