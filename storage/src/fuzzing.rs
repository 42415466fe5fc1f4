//! What fuzzers call: hostile images, opened and used as a disk's layers are.
//!
//! An input is a program that makes an image: patches of bytes here and there, so that a few
//! kilobytes make a file of megabytes; and whether checksums are made right, without which hardly
//! a mutated image would get past them.

use std::fs::File;
use std::os::unix::fs::FileExt;
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
use crate::layer::{FileId, Layer};
use crate::link::ParentLink;
use crate::request::{DiskRequest, Operation};
use crate::units::DiskRange;

/// The longest image an input can make, in bytes.
const IMAGE_MAX: u64 = 64 << 20;
/// The longest one that is checked, which takes time for each of its clusters.
const CHECKED_MAX: u64 = 4 << 20;
/// The bits of an input's first byte: make checksums right, open the image for writing, check it.
const MEND: u8 = 1;
const WRITE: u8 = 2;
const CHECK: u8 = 4;
/// The unit of the places of patches.
const UNIT: u64 = 8;

/// Opens the image that `input` makes as a layer of the format; reads, checks, changes and closes
/// it. Whatever is wrong with it must be an error.
pub fn open_input(format: Format, input: &[u8]) {
    let Some((&[flags, blocks_low, blocks_high], patches)) = input.split_first_chunk() else {
        return;
    };
    let Some(file) = image(patches) else { return };
    let len = u64::from(u16::from_le_bytes([blocks_low, blocks_high])) * 4096;
    let long = file.metadata().map(|facts| facts.len()).unwrap_or_default();
    if file.set_len(len.clamp(long, IMAGE_MAX)).is_err() {
        return;
    }
    if flags & MEND != 0 {
        mend_checksums(format, &file);
    }
    open_file(format, &file, flags & !WRITE);
    if flags & WRITE != 0 {
        open_file(format, &file, flags);
        // What it was made into must be no worse.
        open_file(format, &file, flags & !WRITE);
    }
}

/// Reads a chain's description of parents: whatever is wrong with it must be an error, and what is
/// understood must be written in a way that is understood.
pub fn read_link(input: &[u8]) {
    let Ok(link) = ParentLink::from_json(input) else { return };
    let Ok(text) = link.to_json() else { return };
    assert_eq!(ParentLink::from_json(&text).ok(), Some(link));
}

/// Inputs to begin with: images that cohort makes, fresh and used.
pub fn seeds(format: Format) -> Vec<Vec<u8>> {
    let link = ParentLink {
        relative: Some("parent.raw".into()),
        absolute: Some("/disks/parent.raw".into()),
        format: Format::Raw,
        identity: Some(Identity::Id(uuid::Uuid::from_bytes([7; 16]))),
        digest: None,
        overridden: None,
    };
    let mut seeds = Vec::new();
    for (size, parent) in [(3 << 20, None), (3 << 20, Some(link)), (5 << 30, None)] {
        for used in [false, true] {
            let new = NewLayer { size, sector: 512, parent: parent.clone(), fixed: false };
            let Ok(file) = sys::memory_file() else { continue };
            let Some(image) = layer_image(&file, true) else { continue };
            if formats::create(format, &image, &new).is_err() {
                continue;
            }
            drop(image);
            if used {
                open_file(format, &file, WRITE);
            }
            seeds.extend(input_for(&file, if used { MEND | WRITE } else { MEND | WRITE | CHECK }));
        }
    }
    seeds
}

/// Puts inputs to begin with into the folder that `COHORT_FUZZ_SEEDS` names, if it names one.
pub fn write_seeds(seeds: impl IntoIterator<Item = Vec<u8>>) {
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

/// The file that patches make: each is a place in units of 8 bytes (4 bytes), a length (2 bytes),
/// and as many bytes, or as many as are left.
fn image(mut patches: &[u8]) -> Option<File> {
    let file = sys::memory_file().ok()?;
    while let Some((head, rest)) = patches.split_first_chunk::<6>() {
        let place = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let len = usize::from(u16::from_le_bytes([head[4], head[5]])).min(rest.len());
        let (bytes, rest) = rest.split_at(len);
        let at = u64::from(place) * UNIT % (IMAGE_MAX - u64::from(u16::MAX));
        file.write_all_at(bytes, at).ok()?;
        patches = rest;
    }
    Some(file)
}

/// The input that makes this file and does with it what `flags` say; `None` if it is too long.
fn input_for(file: &File, flags: u8) -> Option<Vec<u8>> {
    let len = file.metadata().ok().filter(|facts| facts.len() <= IMAGE_MAX)?.len();
    let blocks = u16::try_from(len.div_ceil(4096)).unwrap_or(u16::MAX);
    let [low, high] = blocks.to_le_bytes();
    let mut input = vec![flags, low, high];
    let mut bytes = vec![0; usize::try_from(len).ok()?];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let mut at = 0;
    while let Some(first) = bytes[at..].iter().position(|&byte| byte != 0) {
        let start = (at + first) / 8 * 8;
        // A patch ends where 64 bytes are zero.
        let mut end = start;
        while end < bytes.len() && end - start < 4096 {
            let next = &bytes[end..bytes.len().min(end + 64)];
            match next.iter().rposition(|&byte| byte != 0) {
                Some(last) => end += last + 1,
                None => break,
            }
        }
        input.extend_from_slice(&u32::try_from(start / 8).ok()?.to_le_bytes());
        input.extend_from_slice(&u16::try_from(end - start).ok()?.to_le_bytes());
        input.extend_from_slice(&bytes[start..end]);
        at = end;
    }
    Some(input)
}

/// Makes the checksums of the image's structures right, wherever their lengths can be told.
fn mend_checksums(format: Format, file: &File) {
    match format {
        Format::Raw | Format::Qcow2 => {}
        Format::Layer => {
            for at in [64 << 10, 256 << 10] {
                let link = u64::from(number_at(file, at + 88)).min(64 << 10);
                mend(file, at, 4096 + link, 8);
            }
        }
        Format::Vhdx => {
            // MS-VHDX 2.2.2, 2.2.3.1 and 2.3.1.1: the field follows the signature.
            for at in [64 << 10, 128 << 10] {
                mend(file, at, 4096, 4);
            }
            for at in [192 << 10, 256 << 10] {
                mend(file, at, 64 << 10, 4);
            }
            for at in (1 << 20..3 << 20).step_by(4096) {
                if number_at(file, at) == u32::from_le_bytes(*b"loge") {
                    mend(file, at, u64::from(number_at(file, at + 8)).min(256 << 10), 4);
                }
            }
        }
    }
}

fn number_at(file: &File, at: u64) -> u32 {
    let mut bytes = [0; 4];
    let read = file.read_exact_at(&mut bytes, at);
    if read.is_ok() { u32::from_le_bytes(bytes) } else { 0 }
}

/// Puts the CRC-32C of a structure, computed with zeroes in its place, into its field.
fn mend(file: &File, at: u64, len: u64, field: usize) {
    let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
    if file.read_exact_at(&mut bytes, at).is_err() || bytes.len() < field + 4 {
        return;
    }
    bytes[field..field + 4].fill(0);
    let checksum = crc32c::crc32c(&bytes).to_le_bytes();
    let _ = file.write_all_at(&checksum, at + field as u64);
}

fn layer_image(file: &File, writable: bool) -> Option<Arc<ImageFile>> {
    Some(Arc::new(ImageFile::new(file.try_clone().ok()?, Path::new("image"), writable)))
}

/// Opens the layer without its parents, whose bytes are zero then, and uses it as a guest does.
fn open_file(format: Format, file: &File, flags: u8) {
    let writable = flags & WRITE != 0;
    let Some(image) = layer_image(file, writable) else { return };
    let layer = LayerFile { image: Arc::clone(&image), id: FileId(0) };
    let Ok(top) = formats::open(format, layer) else { return };
    let _ = top.identity();
    check(&*top, file, flags, false);
    let size = top.info().size;
    let options = DiskOptions {
        read_only: !writable,
        engine: EngineChoice::Positional,
        ..DiskOptions::default()
    };
    let chain = Chain::of_one(top.into());
    let Ok(disk) = Disk::assemble(chain, &[image], &options) else { return };
    let last = (size - 1) / 4096 * 4096;
    for (start, len) in [(0, 1 << 20), (size / 2 / 4096 * 4096, 65_536), (last, 4096)] {
        ask(&disk, Operation::Read, start, len);
    }
    if !writable {
        return;
    }
    ask(&disk, Operation::Write, 8192, 512);
    ask(&disk, Operation::Write, size / 2 / 4096 * 4096, 70 * 512);
    ask(&disk, Operation::Flush, 0, 0);
    ask(&disk, Operation::Discard, 4096, 2 << 20);
    ask(&disk, Operation::WriteZeroes { unmap: true }, 0, 65_536);
    ask(&disk, Operation::Write, last, 512);
    check(disk.state().chain.top(), file, flags, true);
}

/// Checks a layer, if that is wanted and cannot rightly take long.
fn check(layer: &dyn Layer, file: &File, flags: u8, repair: bool) {
    let len = file.metadata().map_or(u64::MAX, |facts| facts.len());
    if flags & CHECK != 0 && len <= CHECKED_MAX && layer.info().size <= 16 << 30 {
        let _ = layer.check(repair);
    }
}

/// One request, cut to the disk. Its answer does not matter, as long as there is one.
fn ask(disk: &Disk, operation: Operation, start: u64, len: u64) {
    let len = len.min(disk.size().get().saturating_sub(start)) / 512 * 512;
    let Some(range) = DiskRange::new(start, len) else { return };
    let buffers = match operation {
        Operation::Read | Operation::Write => {
            let mut memory = AlignedBuffer::new(usize::try_from(len).unwrap_or_default());
            memory.bytes().fill(0x5a);
            Buffers::whole(&Arc::new(memory))
        }
        _ => Buffers::none(),
    };
    let Ok(mut queue) = disk.queue(1) else { return };
    if queue.submit(0, DiskRequest { operation, range, buffers }).is_none() {
        let mut done = Vec::new();
        queue.drain(&mut done);
        assert_eq!(done.len(), 1, "one request has one answer");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_image_that_it_was_made_from() {
        let file = sys::memory_file().unwrap();
        file.set_len(1 << 20).unwrap();
        for (at, len) in [(3, 700), (8192, 1), (70_000, 9000), ((1 << 20) - 5, 5)] {
            file.write_all_at(&vec![9; len], at).unwrap();
        }
        let input = input_for(&file, 0).unwrap();
        let copy = image(&input[3..]).unwrap();
        let mut bytes = [vec![0; 1 << 20], vec![0; 1 << 20]];
        file.read_exact_at(&mut bytes[0], 0).unwrap();
        copy.read_exact_at(&mut bytes[1], 0).unwrap();
        assert!(bytes[0] == bytes[1]);
        assert!(input.len() < 10_000);
    }

    #[test]
    fn seeds_are_accepted() {
        for format in Format::ALL {
            for seed in seeds(format) {
                open_input(format, &seed);
                let file = image(&seed[3..]).unwrap();
                file.set_len(u64::from(u16::from_le_bytes([seed[1], seed[2]])) * 4096).unwrap();
                let layer = LayerFile { image: layer_image(&file, true).unwrap(), id: FileId(0) };
                formats::open(format, layer).unwrap();
            }
        }
        read_link(&link_seed());
        ParentLink::from_json(&link_seed()).unwrap();
    }
}
