//! The runtime format, through its own interface and as a disk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::*;
use crate::buffers::{AlignedBuffer, Buffers};
use crate::disk::{Disk, DiskOptions, EngineChoice};
use crate::error::DiskError;
use crate::formats;
use crate::formats::layer::geometry::BLOCK;
use crate::identity::Fingerprint;
use crate::queue::DiskQueue;
use crate::request::{DiskRequest, Operation};
use crate::testkit::{self, READ_ONLY, WRITABLE};

mod copies;
mod headers;
mod model;
mod order;
mod states;

/// A folder with a layer in it, and, unless it is a base, with the layer's parent.
struct Place {
    /// Gone with this.
    _folder: tempfile::TempDir,
    layer: PathBuf,
    /// What the parent holds, cut or filled to the layer's size.
    below: Vec<u8>,
}

/// Bytes that are nowhere zero and differ from block to block.
fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((usize::from(seed) + at / 512) % 255 + 1).unwrap()).collect()
}

impl Place {
    /// In `folder`, a layer of `size` bytes on a raw parent of `parent` bytes.
    fn new_in(folder: &Path, size: u64, parent: Option<u64>) -> Place {
        let folder = tempfile::tempdir_in(folder).unwrap();
        let layer = folder.path().join("top.layer");
        let mut below = Vec::new();
        let parent = parent.map(|len| {
            let path = folder.path().join("base.raw");
            below = pattern(100, usize::try_from(len).unwrap());
            std::fs::write(&path, &below).unwrap();
            let identity = Fingerprint::of(&std::fs::metadata(&path).unwrap());
            ParentLink {
                relative: Some("base.raw".into()),
                ..ParentLink::new(Format::Raw, Some(Identity::File(identity)))
            }
        });
        below.resize(usize::try_from(size).unwrap(), 0);
        let image = new_image(&layer);
        let new = NewLayer { size, sector: 512, parent, fixed: false, traits: None };
        formats::create(Format::Layer, &image, &new).unwrap();
        Place { _folder: folder, layer, below }
    }

    /// On a disk and, if there is such a place, in memory.
    fn everywhere(size: u64, parent: Option<u64>) -> Vec<Place> {
        let places = [Path::new(env!("CARGO_MANIFEST_DIR")), Path::new("/dev/shm")];
        let there = places.into_iter().filter(|place| place.is_dir());
        there.map(|place| Place::new_in(place, size, parent)).collect()
    }

    /// On a disk.
    fn on_disk(size: u64, parent: Option<u64>) -> Place {
        Place::new_in(Path::new(env!("CARGO_MANIFEST_DIR")), size, parent)
    }

    fn queue(&self) -> DiskQueue {
        self.queue_with(&WRITABLE)
    }

    fn queue_with(&self, options: &DiskOptions) -> DiskQueue {
        Disk::open(&self.layer, options).unwrap().queue(4).unwrap()
    }

    /// The layer by itself.
    fn open(&self) -> RuntimeLayer {
        open(&self.layer, true).unwrap()
    }

    fn refused(&self) -> FormatError {
        match Disk::open(&self.layer, &WRITABLE).unwrap_err() {
            DiskError::Format { source, .. } => source,
            error => panic!("{error}"),
        }
    }
}

fn new_image(path: &Path) -> Arc<ImageFile> {
    let file = File::options().create_new(true).read(true).write(true).open(path).unwrap();
    Arc::new(ImageFile::new(file, path, true))
}

fn open(path: &Path, writable: bool) -> Result<RuntimeLayer, FormatError> {
    let file = File::options().read(true).write(writable).open(path).unwrap();
    let image = Arc::new(ImageFile::new(file, path, writable));
    RuntimeLayer::open(LayerFile::alone(image, 32 << 20))
}

/// Makes a request and waits for its answer.
fn ask(queue: &mut DiskQueue, operation: Operation, start: u64, len: u64, buffers: Buffers) {
    let range = DiskRange::new(start, len).unwrap();
    let mut done = Vec::new();
    if let Some(result) = queue.submit(1, DiskRequest { operation, range, buffers }) {
        return result.unwrap();
    }
    queue.drain(&mut done);
    assert_eq!(done.len(), 1);
    done.remove(0).1.unwrap();
}

fn write(queue: &mut DiskQueue, start: u64, bytes: &[u8]) {
    let mut memory = AlignedBuffer::new(bytes.len());
    memory.bytes().copy_from_slice(bytes);
    let buffers = Buffers::whole(&Arc::new(memory));
    ask(queue, Operation::Write, start, bytes.len() as u64, buffers);
}

fn read(queue: &mut DiskQueue, start: u64, len: usize) -> Vec<u8> {
    let mut memory = Arc::new(AlignedBuffer::new(len));
    ask(queue, Operation::Read, start, len as u64, Buffers::whole(&memory));
    Arc::get_mut(&mut memory).unwrap().bytes().to_vec()
}

fn discard(queue: &mut DiskQueue, start: u64, len: u64) {
    ask(queue, Operation::Discard, start, len, Buffers::none());
}

fn zero(queue: &mut DiskQueue, start: u64, len: u64) {
    ask(queue, Operation::WriteZeroes { unmap: true }, start, len, Buffers::none());
}

/// The state of every block.
fn states(layer: &RuntimeLayer) -> Vec<State> {
    let mut states = Vec::new();
    let all = 0..layer.geometry.blocks();
    layer.blocks.runs(all, |run, state| states.extend(run.map(|_| state))).map(|()| states).unwrap()
}
