//! Hostile chains: files of any formats in a folder of their own, whose links may name each other.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{CHECK, CHECKED_MAX, MEND, WRITE, ask, change, input, last};
use crate::chain::open;
use crate::disk::{Disk, DiskOptions, EngineChoice, MapMemory};
use crate::engine::sys;
use crate::format::Format;
use crate::formats::{self, NewLayer};
use crate::identity::Identity;
use crate::image::ImageFile;
use crate::link::ParentLink;
use crate::lock::Use;
use crate::request::Operation;
use crate::tools::{self, Unwatched};

/// Files of an input. Their names are their numbers; 0 is the top layer.
const FILES: usize = 4;
/// More bits of an input's first byte: make what each layer records of its parent right, open the
/// chain although it is not, keep next to nothing of its map.
const RELINK: u8 = 8;
const ALLOW: u8 = 16;
const FORGET: u8 = 32;
/// The largest disk whose map is asked for as a whole.
const MAPPED_MAX: u64 = 1 << 30;

/// Opens the chain that `input` makes, for reading and for writing, and uses it. Whatever is wrong
/// with it must be an error; nothing but the top layer may change; and however it is opened, it
/// must read the same.
pub fn open_chain(input: &[u8]) {
    let Some((&[flags, formats], rest)) = input.split_first_chunk() else { return };
    let Some(folder) = Folder::new() else { return };
    let Some(()) = input::fill(&folder.files, rest) else { return };
    let formats = [0, 2, 4, 6].map(|shift| Format::ALL[usize::from(formats >> shift & 3)]);
    if flags & MEND != 0 {
        formats.iter().zip(&folder.files).for_each(|(&f, file)| input::mend_checksums(f, file));
    }
    let top = formats[0];
    if flags & RELINK != 0 {
        relink(&folder, top);
    }
    let parents = folder.parents();
    let before = visit(&folder, top, flags & !WRITE);
    if flags & WRITE != 0 {
        let writable = visit(&folder, top, flags);
        compare(&before, &writable);
        // What it was made into must be no worse.
        visit(&folder, top, flags & !WRITE);
    }
    assert!(parents == folder.parents(), "a parent has changed");
    let names = fs::read_dir(&folder.path).map(Iterator::count);
    assert_eq!(names.unwrap_or(FILES), FILES, "a file has come or gone");
}

/// Inputs to begin with: chains of all formats that cohort makes, and some that do not fit.
pub fn chain_seeds() -> Vec<Vec<u8>> {
    use Format::{Layer, Qcow2, Raw, Vhdx};
    let all = MEND | WRITE | CHECK | RELINK;
    let mut seeds = Vec::new();
    for top in [Layer, Qcow2, Vhdx] {
        for base in Format::ALL {
            seeds.push(seed(&[top, base], None, all));
            seeds.push(seed(&[top, base], None, MEND | WRITE | ALLOW | FORGET));
        }
        // A parent that is another than it was, one that is its own ancestor, one that is missing.
        seeds.push(seed(&[top, Layer], Some((2, Raw)), MEND));
        seeds.push(seed(&[Layer, top], Some((0, Layer)), all));
        seeds.push(seed(&[Qcow2, top], Some((7, Raw)), all));
    }
    for chain in [
        [Layer, Qcow2, Vhdx, Raw],
        [Qcow2, Vhdx, Layer, Qcow2],
        [Vhdx, Layer, Qcow2, Layer],
        [Vhdx, Vhdx, Vhdx, Vhdx],
        [Layer, Layer, Layer, Raw],
    ] {
        seeds.push(seed(&chain, None, all));
        seeds.push(seed(&chain, None, MEND | WRITE | ALLOW | FORGET));
    }
    seeds.into_iter().flatten().collect()
}

/// A chain of these formats, top first; `last` is what the base names as its parent, if it does.
fn seed(chain: &[Format], last: Option<(usize, Format)>, flags: u8) -> Option<Vec<u8>> {
    let folder = Folder::new()?;
    let made = |files: &[File]| {
        input::of(files.iter().zip(chain.iter().copied().chain(std::iter::repeat(Format::Raw))))
    };
    let stranger = || Identity::Id(uuid::Uuid::from_bytes([7; 16]));
    let mut parent = last.map(|(number, format)| link(number, format, stranger()));
    let mut formats = 0;
    for (number, &format) in chain.iter().enumerate().rev() {
        let place = Format::ALL.iter().position(|&known| known == format)?;
        formats |= u8::try_from(place).ok()? << (2 * number);
        let size = if number == 0 { 3 << 20 } else { 2 << 20 };
        let new = NewLayer { size, sector: 512, parent: parent.take(), fixed: false, traits: None };
        let path = folder.name(number);
        let image = Arc::new(ImageFile::new(folder.files[number].try_clone().ok()?, &path, true));
        formats::create(format, &image, &new).ok()?;
        let options = options(format, WRITE | ALLOW);
        let disk = Disk::open(&path, &options).ok();
        if let Some(disk) = &disk {
            ask(disk, Operation::Write, 65_536 * number as u64 + 512, 512);
            ask(disk, Operation::WriteZeroes { unmap: true }, (1 << 20) - 4096, 8192);
            ask(disk, Operation::Flush, 0, 0);
        }
        if number == 0 && flags & ALLOW != 0 {
            // What a crash would leave now, such as a log to be replayed.
            return Some([vec![flags, formats], made(&folder.files)?].concat());
        }
        drop(disk);
        let identity =
            open::open_layer(format, &image, 0, &MapMemory::default()).ok()?.identity().ok()?;
        parent = Some(link(number, format, identity));
    }
    Some([vec![flags, formats], made(&folder.files)?].concat())
}

fn link(number: usize, format: Format, identity: Identity) -> ParentLink {
    ParentLink {
        relative: Some(number.to_string().into()),
        ..ParentLink::new(format, Some(identity))
    }
}

/// A folder in memory, with the files of an input. It goes when it is dropped.
struct Folder {
    path: PathBuf,
    files: [File; FILES],
}

impl Folder {
    fn new() -> Option<Folder> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let memory = Path::new("/dev/shm");
        let under = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let path = under.join(format!("cohort-fuzz-{}-{count}", std::process::id()));
        fs::create_dir(&path).ok()?;
        let mut options = File::options();
        options.read(true).write(true).create_new(true);
        let open = |number: usize| options.open(path.join(number.to_string())).ok();
        let files = [open(0)?, open(1)?, open(2)?, open(3)?];
        Some(Folder { path, files })
    }

    fn name(&self, number: usize) -> PathBuf {
        self.path.join(number.to_string())
    }

    /// A digest of each file but the top layer's: its length, and all that was ever written to it.
    fn parents(&self) -> Vec<Option<blake3::Hash>> {
        let digest = |file: &File| {
            let len = file.metadata().ok()?.len();
            let (mut hasher, mut written) = (blake3::Hasher::new(), Vec::new());
            sys::written_ranges(file, 0, len, &mut written).ok()?;
            hasher.update(&len.to_le_bytes());
            for (start, len) in written {
                let mut bytes = vec![0; usize::try_from(len).ok()?];
                std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, start).ok()?;
                hasher.update(&start.to_le_bytes()).update(&bytes);
            }
            Some(hasher.finalize())
        };
        self.files.iter().skip(1).map(digest).collect()
    }

    /// Whether all files can be checked in a short time.
    fn is_short(&self) -> bool {
        let len = |file: &File| file.metadata().map_or(u64::MAX, |facts| facts.len());
        self.files.iter().all(|file| len(file) <= CHECKED_MAX)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A fuzzer that finds something leaves it behind for a look.
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Records in each layer what its parent is, from the top down, as far as both can be opened.
fn relink(folder: &Folder, top: Format) -> Option<()> {
    let (mut path, mut format) = (folder.name(0), top);
    for _ in 0..FILES {
        // Nothing outside of the folder may be changed.
        if path.parent() != Some(&folder.path) {
            return None;
        }
        let image = ImageFile::new(open::open_file(&path, Use::Write).ok()?, &path, true);
        let layer = open::open_layer(format, &Arc::new(image), 0, &MapMemory::default()).ok()?;
        let link = layer.info().parent.clone()?;
        let (file, parent) = open::find_parent(&link, &path).ok()?;
        let image = ImageFile::new(file, &parent, false);
        let identity = open::open_layer(link.format, &Arc::new(image), 0, &MapMemory::default())
            .ok()?
            .identity()
            .ok();
        format = link.format;
        layer.set_parent(&ParentLink { identity, overridden: None, ..link }).ok()?;
        layer.close().ok()?;
        path = parent;
    }
    Some(())
}

fn options(format: Format, flags: u8) -> DiskOptions {
    DiskOptions {
        read_only: flags & WRITE == 0,
        engine: EngineChoice::Positional,
        format: Some(format),
        allow_mismatch: flags & ALLOW != 0,
        map_memory: (flags & FORGET != 0).then_some(4096),
        ..DiskOptions::default()
    }
}

/// Opens the chain and uses it as guests and tools do; says what it read as at first.
fn visit(folder: &Folder, format: Format, flags: u8) -> Vec<Option<u32>> {
    let top = folder.name(0);
    let _ = tools::info(&top, Some(format));
    if flags & CHECK != 0 && folder.is_short() {
        let _ = tools::check(&top, Some(format), flags & WRITE != 0, false, &Unwatched);
    }
    let Ok(disk) = Disk::open(&top, &options(format, flags)) else { return Vec::new() };
    let parents = disk.state().files.iter().skip(1);
    assert!(parents.map(|file| file.image()).all(|image| !image.is_writable()));
    let size = disk.size().get();
    if size <= MAPPED_MAX
        && let Ok(entries) = tools::map(&disk, &Unwatched)
    {
        let end = entries.iter().fold(0, |end, entry| {
            assert_eq!(entry.start, end, "the map has a gap or overlap");
            end + entry.length
        });
        assert_eq!(end, size, "the map ends elsewhere than the disk");
    }
    let middle = size / 2 / 4096 * 4096;
    let read = || {
        [(0, 1 << 20), ((1 << 20) - 8192, 65_536), (middle, 65_536), (last(size), 4096)]
            .map(|(start, len)| ask(&disk, Operation::Read, start, len))
            .to_vec()
    };
    let first = read();
    if flags & WRITE != 0 {
        let top = disk.state().chain.top();
        let before = top.identity().ok();
        let changed = change(&disk);
        let after = top.identity().ok();
        // The times of a file may not have moved on.
        if changed && !matches!(after, Some(Identity::File(_))) {
            assert_ne!(before, after, "contents changed, and the identity did not");
        }
        read();
    }
    first
}

/// What was read for the first time must be the same, as far as it was read both times.
fn compare(one: &[Option<u32>], other: &[Option<u32>]) {
    for (one, other) in one.iter().zip(other) {
        if let (Some(one), Some(other)) = (one, other) {
            assert_eq!(one, other, "a chain reads as something else when it can be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_chains_of_all_kinds() {
        let seeds = chain_seeds();
        assert_eq!(seeds.len(), 3 * (2 * 4 + 3) + 5 * 2);
        let opens = |seed: &Vec<u8>| {
            let folder = Folder::new().unwrap();
            input::fill(&folder.files, &seed[2..]).unwrap();
            let format = Format::ALL[usize::from(seed[1] & 3)];
            if seed[0] & RELINK != 0 {
                relink(&folder, format);
            }
            Disk::open(&folder.name(0), &options(format, seed[0] | WRITE)).is_ok()
        };
        // All but those that do not fit.
        assert_eq!(seeds.iter().filter(|seed| opens(seed)).count(), seeds.len() - 3 * 3);
        let longest = seeds.iter().map(Vec::len).max().unwrap();
        assert!(longest <= 32_768, "{longest}");
        seeds.iter().for_each(|seed| open_chain(seed));
    }
}
