//! What tests of whole disks share: layers made and linked, requests asked and answered.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use crate::buffers::{AlignedBuffer, Buffers};
use crate::disk::{Disk, DiskOptions, EngineChoice};
use crate::error::IoError;
use crate::format::Format;
use crate::formats::{self, FormatError, NewLayer};
use crate::identity::Identity;
use crate::image::ImageFile;
use crate::layer::Layer;
use crate::link::ParentLink;
use crate::request::{DiskRequest, Operation};
use crate::units::DiskRange;
use crate::{Answer, DiskQueue};

mod host;

pub(crate) use host::{Loop, Mount, Partition, Tmpfs};

/// Bytes in a sector, as lengths in memory are counted.
pub(crate) const SECTOR_BYTES: usize = 512;

/// How tests open a disk to write.
pub(crate) const WRITABLE: DiskOptions = DiskOptions {
    read_only: false,
    direct: false,
    engine: EngineChoice::Positional,
    format: None,
    allow_mismatch: false,
    map_memory: None,
};

/// How tests open a disk to read.
pub(crate) const READ_ONLY: DiskOptions = DiskOptions { read_only: true, ..WRITABLE };

/// How property tests run: so many random cases. What fails is told, and not kept in the tree.
pub(crate) fn cases(cases: u32) -> proptest::test_runner::Config {
    proptest::test_runner::Config { cases, failure_persistence: None, ..Default::default() }
}

/// Makes a layer in a new file, on the parent if there is one. The file's name tells the format.
pub(crate) fn create(path: &Path, size: u64, parent: Option<&Path>) -> Result<(), FormatError> {
    let new =
        NewLayer { size, sector: 512, parent: parent.map(link_to), fixed: false, traits: None };
    create_linked(path, &new)
}

/// Makes a layer in a new file.
pub(crate) fn create_linked(path: &Path, new: &NewLayer) -> Result<(), FormatError> {
    let mut options = File::options();
    let file = options.read(true).write(true).create(true).truncate(true).open(path).unwrap();
    let image = Arc::new(ImageFile::new(file, path, true));
    formats::create(Format::of_name(path), &image, new)
}

/// A file of this name and format.
pub(crate) fn file_in(folder: &Path, name: &str, format: Format) -> std::path::PathBuf {
    folder.join(format!("{name}.{format}"))
}

/// The record that a child beside it keeps of a parent, as it is now.
pub(crate) fn link_to(parent: &Path) -> ParentLink {
    ParentLink {
        relative: Some(parent.file_name().unwrap().into()),
        absolute: Some(parent.to_owned()),
        ..ParentLink::new(Format::of_name(parent), Some(identity(parent)))
    }
}

/// The identity of the layer at `path`.
pub(crate) fn identity(path: &Path) -> Identity {
    top(&Disk::open(path, &READ_ONLY).unwrap()).identity().unwrap()
}

/// The disk's top layer.
pub(crate) fn top(disk: &Disk) -> &dyn Layer {
    disk.state().chain.layers().next().unwrap()
}

/// A request for `len` bytes of the disk from `start`.
pub(crate) fn request(operation: Operation, start: u64, len: u64, buffers: Buffers) -> DiskRequest {
    DiskRequest { operation, range: DiskRange::new(start, len).unwrap(), buffers }
}

/// Memory that holds `bytes`.
pub(crate) fn filled(bytes: &[u8]) -> Arc<AlignedBuffer> {
    let mut memory = AlignedBuffer::new(bytes.len());
    memory.bytes().copy_from_slice(bytes);
    Arc::new(memory)
}

/// Submits one request and waits for its answer.
pub(crate) fn ask(queue: &mut DiskQueue, request: DiskRequest) -> Result<(), IoError> {
    if let Some(result) = queue.submit(77, request) {
        return result;
    }
    let mut done: Vec<Answer> = Vec::new();
    queue.drain(&mut done);
    assert_eq!(done.len(), 1);
    let (token, result) = done.remove(0);
    assert_eq!(token, 77);
    result
}

/// Writes bytes.
pub(crate) fn write(queue: &mut DiskQueue, start: u64, bytes: &[u8]) -> Result<(), IoError> {
    let memory = filled(bytes);
    ask(queue, request(Operation::Write, start, bytes.len() as u64, Buffers::whole(&memory)))
}

/// Reads bytes.
pub(crate) fn read(queue: &mut DiskQueue, start: u64, len: usize) -> Result<Vec<u8>, IoError> {
    // What was there before must not show.
    let mut memory = filled(&vec![0xa5; len]);
    ask(queue, request(Operation::Read, start, len as u64, Buffers::whole(&memory)))?;
    Ok(Arc::get_mut(&mut memory).expect("the request is over").bytes().to_vec())
}

/// A request without data.
pub(crate) fn erase(
    queue: &mut DiskQueue,
    operation: Operation,
    start: u64,
    len: u64,
) -> Result<(), IoError> {
    ask(queue, request(operation, start, len, Buffers::none()))
}

/// Makes all that was answered durable.
pub(crate) fn flush(queue: &mut DiskQueue) -> Result<(), IoError> {
    erase(queue, Operation::Flush, 0, 0)
}
