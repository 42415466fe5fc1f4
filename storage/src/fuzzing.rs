//! What fuzzers call: hostile images, opened and used as a disk's layers are.
//!
//! An input is a program that makes an image: patches of bytes here and there, so that a few
//! kilobytes make a file of megabytes; and whether checksums are made right, without which hardly
//! a mutated image would get past them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::buffers::{AlignedBuffer, Buffers};
use crate::chain::Chain;
use crate::disk::{Disk, DiskOptions, EngineChoice};
use crate::engine::sys;
use crate::format::Format;
use crate::formats::{self, LayerFile, NewLayer};
use crate::identity::Identity;
use crate::image::ImageFile;
use crate::layer::Layer;
use crate::link::ParentLink;
use crate::request::{DiskRequest, Operation};
use crate::units::DiskRange;

mod chain;
mod compressed;
mod input;
mod script;
mod signals;

pub use chain::{chain_seeds, open_chain};
pub use script::Script;

/// The longest image that is checked, which takes time for each of its clusters.
const CHECKED_MAX: u64 = 8 << 20;
/// The bits of an input's first byte: make checksums right, open the image for writing, check it.
const MEND: u8 = 1;
const WRITE: u8 = 2;
const CHECK: u8 = 4;

/// Opens the image that `input` makes as a layer of the format; reads, checks, changes and closes
/// it. Whatever is wrong with it must be an error.
pub fn open_input(format: Format, input: &[u8]) {
    let Some((&flags, rest)) = input.split_first() else { return };
    let Ok(files) = sys::memory_file().map(|file| [file]) else { return };
    let Some(()) = input::fill(&files, rest) else { return };
    let [file] = files;
    if flags & MEND != 0 {
        input::mend_checksums(format, &file);
    }
    use_file(format, &file, flags & !WRITE);
    if flags & WRITE != 0 {
        use_file(format, &file, flags);
        // What it was made into must be no worse.
        use_file(format, &file, flags & !WRITE);
    }
}

/// Reads a chain's description of parents: whatever is wrong with it must be an error, and what is
/// understood must be written in a way that is understood.
pub fn read_link(input: &[u8]) {
    let Ok(link) = ParentLink::from_json(input) else { return };
    let Ok(text) = link.to_json() else { return };
    assert_eq!(ParentLink::from_json(&text).ok(), Some(link));
}

/// Has initiators send a target commands and task management functions.
pub fn scsi(input: &[u8]) {
    let _ = crate::scsi::fuzzing::run(input);
}

/// Inputs of [`scsi`] to begin with.
pub fn scsi_seeds() -> Vec<Vec<u8>> {
    crate::scsi::fuzzing::seeds::seeds()
}

/// Has the iSCSI server take what an initiator sends.
pub fn iscsi_target(input: &[u8]) {
    let _ = crate::iscsi::fuzzing::run(input);
}

/// Inputs of [`iscsi_target`] to begin with.
pub fn iscsi_target_seeds() -> Vec<Vec<u8>> {
    crate::iscsi::fuzzing::seeds()
}

/// Has the iSCSI initiator take what a target sends.
pub fn iscsi_initiator(input: &[u8]) {
    let _ = crate::iscsi::initiator_fuzzing::run(input);
}

/// Inputs of [`iscsi_initiator`] to begin with.
pub fn iscsi_initiator_seeds() -> Vec<Vec<u8>> {
    crate::iscsi::initiator_fuzzing::seeds()
}

/// What QEMU may have in images and cohort only uses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Foreign {
    Version2,
    Deflate,
    Zstd,
}

/// Inputs to begin with: images that cohort makes, fresh, used, and left while in use.
pub fn seeds(format: Format) -> Vec<Vec<u8>> {
    let link = |format| ParentLink {
        relative: Some("parent".into()),
        absolute: Some("/disks/parent".into()),
        ..ParentLink::new(format, Some(Identity::Id(uuid::Uuid::from_bytes([7; 16]))))
    };
    let base = NewLayer { size: 3 << 20, sector: 512, parent: None, fixed: false, traits: None };
    let mut seeds = Vec::new();
    for (new, foreign) in [
        (base.clone(), None),
        (base.clone(), Some(Foreign::Version2)),
        (base.clone(), Some(Foreign::Deflate)),
        (base.clone(), Some(Foreign::Zstd)),
        (NewLayer { size: 5 << 30, ..base.clone() }, None),
        (NewLayer { sector: 4096, ..base.clone() }, None),
        // Records of parents that the format was not made for, and of one that it was.
        (NewLayer { parent: Some(link(Format::Raw)), ..base.clone() }, None),
        (NewLayer { parent: Some(link(format)), ..base }, None),
    ] {
        if foreign.is_some() && format != Format::Qcow2 {
            continue;
        }
        let Ok(file) = sys::memory_file() else { continue };
        let Some(image) = layer_image(&file, true) else { continue };
        if formats::create(format, &image, &new).is_err() {
            continue;
        }
        let changed = match foreign {
            None => Ok(()),
            Some(Foreign::Version2) => image.write_at(&[2], 7),
            Some(kind) => compressed::add(&image, kind == Foreign::Zstd),
        };
        if changed.is_err() {
            continue;
        }
        drop(image);
        seeds.push(input::of([(&file, format)]));
        let disk = use_file(format, &file, WRITE);
        // What a crash would leave now, such as a log to be replayed.
        seeds.push(input::of([(&file, format)]));
        drop(disk);
        seeds.push(input::of([(&file, format)]));
    }
    let flags = vec![MEND | WRITE | CHECK];
    seeds.into_iter().flatten().map(|image| [flags.clone(), image].concat()).collect()
}

/// Sets a fuzzer up, and puts inputs to begin with into the folder that `COHORT_FUZZ_SEEDS` names, if it names one.
pub fn write_seeds(seeds: impl IntoIterator<Item = Vec<u8>>) {
    signals::outlive_broken_pipes();
    let Some(folder) = std::env::var_os("COHORT_FUZZ_SEEDS").map(PathBuf::from) else { return };
    for (number, seed) in seeds.into_iter().enumerate() {
        let path = folder.join(format!("seed-{number}"));
        if let Err(error) = std::fs::write(&path, seed) {
            tracing::error!(%error, path = %path.display(), "a seed was not written");
        }
    }
}

/// The link that a child may hold, as an input of [`read_link`].
pub fn link_seed() -> Vec<u8> {
    br#"{"relative":"a/b.vhdx","absolute":"/a/b","format":"vhdx","identity":{"id":
"01020304-0506-0708-090a-0b0c0d0e0f10"},"overridden":{"file":{"device":1,"inode":2,"size":3,
"mtime":4,"ctime":5}}}"#
        .to_vec()
}

fn layer_image(file: &File, writable: bool) -> Option<Arc<ImageFile>> {
    Some(Arc::new(ImageFile::new(file.try_clone().ok()?, Path::new("image"), writable)))
}

/// Opens the layer without its parents, whose bytes are zero then, and uses it as a guest does.
fn use_file(format: Format, file: &File, flags: u8) -> Option<Disk> {
    let writable = flags & WRITE != 0;
    let image = layer_image(file, writable)?;
    let layer = LayerFile::alone(Arc::clone(&image), 32 << 20);
    let top = formats::open(format, layer).ok()?;
    let _ = top.identity();
    check(&*top, file, flags, false);
    let size = top.info().size;
    let options = DiskOptions {
        read_only: !writable,
        engine: EngineChoice::Positional,
        ..DiskOptions::default()
    };
    let disk = Disk::assemble(Chain::of_one(top.into()), &[image], &options).ok()?;
    for (start, len) in [(0, 1 << 20), (size / 2 / 4096 * 4096, 65_536), (last(size), 4096)] {
        ask(&disk, Operation::Read, start, len);
    }
    if writable {
        change(&disk);
        let top = disk.state().chain.top();
        if let Some(parent) = &top.info().parent {
            let _ = top.set_parent(parent);
        }
        check(top, file, flags, true);
    }
    Some(disk)
}

/// Changes a disk as guests do; says whether any of it was done.
fn change(disk: &Disk) -> bool {
    let size = disk.size().get();
    let border = size / 2 / 65_536 * 65_536;
    let zeroes = Operation::WriteZeroes { unmap: true };
    let done = [
        ask(disk, Operation::Write, 8192, 4096),
        ask(disk, Operation::Write, border.saturating_sub(4096), 8192),
        ask(disk, Operation::Flush, 0, 0).and(None),
        ask(disk, Operation::Discard, 4096, 2 << 20),
        ask(disk, zeroes, 0, 65_536),
        ask(disk, Operation::Write, last(size), 4096),
    ];
    done.iter().any(Option::is_some)
}

/// Where the last page of a disk begins.
fn last(size: u64) -> u64 {
    (size - 1) / 4096 * 4096
}

/// Checks a layer, if that is wanted and cannot rightly take long.
fn check(layer: &dyn Layer, file: &File, flags: u8, repair: bool) {
    let len = file.metadata().map_or(u64::MAX, |facts| facts.len());
    if flags & CHECK != 0 && len <= CHECKED_MAX && layer.info().size <= 16 << 30 {
        let _ = layer.check(repair);
    }
}

/// One request, cut to the disk. Its answer does not matter, as long as there is one; if it is a
/// good one, gives a checksum of what was read or written.
fn ask(disk: &Disk, operation: Operation, start: u64, len: u64) -> Option<u32> {
    let unit = u64::from(disk.logical_block_size());
    let len = len.min(disk.size().get().saturating_sub(start)) / unit * unit;
    let range = DiskRange::new(start, len)?;
    let mut memory = AlignedBuffer::new(usize::try_from(len).ok()?);
    memory.bytes().fill(0x5a);
    let mut memory = Arc::new(memory);
    let buffers = match operation {
        Operation::Read | Operation::Write => Buffers::whole(&memory),
        _ => Buffers::none(),
    };
    let mut queue = disk.queue(1).ok()?;
    let answer = match queue.submit(0, DiskRequest { operation, range, buffers }) {
        Some(answer) => answer,
        None => {
            let mut done = Vec::new();
            queue.drain(&mut done);
            assert_eq!(done.len(), 1, "one request has one answer");
            done.remove(0).1
        }
    };
    answer.ok()?;
    let bytes = Arc::get_mut(&mut memory).expect("a request that is over has no memory");
    Some(crc32c::crc32c(bytes.bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_accepted() {
        for format in Format::ALL {
            let seeds = seeds(format);
            let images = match format {
                // No parents, and nothing as long as 5 GiB.
                Format::Raw => 2,
                // Nothing as long.
                Format::Layer => 4,
                // No sectors of 4096 bytes, and what is foreign.
                Format::Qcow2 => 7,
                Format::Vhdx => 5,
            };
            assert_eq!(seeds.len(), 3 * images, "{format}");
            for seed in seeds {
                assert!(seed.len() <= 32_768, "{format}: {}", seed.len());
                let files = [sys::memory_file().unwrap()];
                input::fill(&files, &seed[1..]).unwrap();
                use_file(format, &files[0], 0).unwrap();
                use_file(format, &files[0], WRITE).unwrap();
                open_input(format, &seed);
            }
        }
        read_link(&link_seed());
        ParentLink::from_json(&link_seed()).unwrap();
    }
}
