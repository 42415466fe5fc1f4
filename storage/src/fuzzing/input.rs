//! Inputs: patches that make files, and checksums that are made right.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::engine::sys;
use crate::format::Format;

/// The longest file an input can make, in bytes.
const FILE_MAX: u64 = 256 << 20;
/// The unit of the places of patches, and of the lengths of files.
const UNIT: u64 = 8;
const BLOCK: u64 = 4096;
const BLOCK_BYTES: usize = 4096;
/// Where in a patch's place the number of its file begins.
const NUMBER: u32 = 30;

/// Makes empty files into what an input says: their lengths in blocks (2 bytes each), then patches.
/// Each of these is a place (4 bytes: the number of the file, and units from its start), a length
/// (2 bytes), and as many bytes, or as many as are left.
pub(super) fn fill<const N: usize>(files: &[File; N], input: &[u8]) -> Option<()> {
    let (lengths, mut patches) = input.split_at_checked(2 * N)?;
    while let Some((head, rest)) = patches.split_first_chunk::<6>() {
        let place = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let len = usize::from(u16::from_le_bytes([head[4], head[5]])).min(rest.len());
        let (bytes, rest) = rest.split_at(len);
        let number = usize::try_from(place >> NUMBER).ok()? % N;
        let at = u64::from(place % (1 << NUMBER)) * UNIT % (FILE_MAX - u64::from(u16::MAX));
        files[number].write_all_at(bytes, at).ok()?;
        patches = rest;
    }
    for (file, length) in files.iter().zip(lengths.chunks_exact(2)) {
        let blocks = u16::from_le_bytes([length[0], length[1]]);
        let written = file.metadata().ok()?.len();
        file.set_len((u64::from(blocks) * BLOCK).clamp(written, FILE_MAX)).ok()?;
    }
    Some(())
}

/// The input of [`fill`] that makes these files, which are images of these formats; `None` if one
/// is too long.
pub(super) fn of<'f>(files: impl IntoIterator<Item = (&'f File, Format)>) -> Option<Vec<u8>> {
    let (mut lengths, mut patches) = (Vec::new(), Vec::new());
    for (number, (file, format)) in (0..).zip(files) {
        let len = file.metadata().ok().filter(|facts| facts.len() <= FILE_MAX)?.len();
        let blocks = u16::try_from(len.div_ceil(BLOCK)).unwrap_or(u16::MAX);
        lengths.extend_from_slice(&blocks.to_le_bytes());
        let mut written = Vec::new();
        sys::written_ranges(file, 0, len, &mut written).ok()?;
        for (start, len) in written {
            let mut bytes = vec![0; usize::try_from(len).ok()?];
            file.read_exact_at(&mut bytes, start).ok()?;
            patches_of(number, start, &bytes, &mut patches)?;
            let blocks = (start..).step_by(BLOCK_BYTES).zip(bytes.chunks(BLOCK_BYTES));
            for (at, _) in blocks.filter(|(_, block)| block.iter().all(|&byte| byte == 0)) {
                // Only this format cares that a block of zeroes has been written.
                if format == Format::Layer {
                    patch(number, at, &[0], &mut patches)?;
                }
            }
        }
    }
    Some([lengths, patches].concat())
}

/// Appends the patches that make a file's bytes from `first` on.
fn patches_of(number: u32, first: u64, bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut at = 0;
    while let Some(found) = bytes[at..].iter().position(|&byte| byte != 0) {
        let start = (at + found) / 8 * 8;
        // A patch ends where 64 bytes are zero.
        let mut end = start;
        while end < bytes.len() && end - start < BLOCK_BYTES {
            let next = &bytes[end..bytes.len().min(end + 64)];
            match next.iter().rposition(|&byte| byte != 0) {
                Some(last) => end += last + 1,
                None => break,
            }
        }
        patch(number, first + start as u64, &bytes[start..end], out)?;
        at = end;
    }
    Some(())
}

fn patch(number: u32, at: u64, bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let place = u32::try_from(at / UNIT).ok()? | number << NUMBER;
    out.extend_from_slice(&place.to_le_bytes());
    out.extend_from_slice(&u16::try_from(bytes.len()).ok()?.to_le_bytes());
    out.extend_from_slice(bytes);
    Some(())
}

/// Makes the checksums of the image's structures right, wherever their lengths can be told.
pub(super) fn mend_checksums(format: Format, file: &File) {
    match format {
        Format::Raw => {}
        Format::Qcow2 => mend_records(file),
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

/// The same of cohort's extension of qcow2 headers (`docs/qcow2-extension.md`), which has two slots.
fn mend_records(file: &File) {
    const KIND: [u8; 4] = [0x9d, 0x3b, 0x52, 0xc7];
    let mut header = [0; 4096];
    if file.read_exact_at(&mut header, 0).is_err() {
        return;
    }
    let places = (104..header.len()).step_by(8);
    for at in places.filter(|&at| header[at..].starts_with(&KIND)) {
        let len =
            u32::from_be_bytes([header[at + 4], header[at + 5], header[at + 6], header[at + 7]]);
        let mut slot = vec![0; usize::try_from(len / 2).unwrap_or_default().min(8192)];
        for at in [at + 8, at + 8 + slot.len()] {
            let read = file.read_exact_at(&mut slot, at as u64);
            // A slot of zeroes was never written.
            if read.is_ok() && slot.iter().any(|&byte| byte != 0) {
                let checksum = crc32c::crc32c(slot.get(4..).unwrap_or_default()).to_be_bytes();
                let _ = file.write_all_at(&checksum, at as u64);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_makes_the_files_that_it_was_made_from() {
        let files = [sys::memory_file().unwrap(), sys::memory_file().unwrap()];
        for (file, places) in files.iter().zip([
            [(3, 700), (8192, 1), (70_000, 9000), ((1 << 20) - 5, 5)],
            [(0, 1), (8, 64), (4095, 2), (65_536, 512)],
        ]) {
            file.set_len(1 << 20).unwrap();
            for (at, len) in places {
                file.write_all_at(&vec![9; len], at).unwrap();
            }
        }
        let input = of(files.iter().map(|file| (file, Format::Raw))).unwrap();
        assert!(input.len() < 11_000);
        let copies = [sys::memory_file().unwrap(), sys::memory_file().unwrap()];
        fill(&copies, &input).unwrap();
        for (file, copy) in files.iter().zip(copies) {
            let mut bytes = [vec![0; 1 << 20], vec![0; 1 << 20]];
            file.read_exact_at(&mut bytes[0], 0).unwrap();
            copy.read_exact_at(&mut bytes[1], 0).unwrap();
            assert!(bytes[0] == bytes[1]);
        }
    }
}
