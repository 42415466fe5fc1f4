//! Where a mapping of a guest's process comes from.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::smaps::{FileId, Mapping};
use crate::machine::layout::LOW_RAM_END;
use crate::spec::{KernelSource, VmSpec};

#[cfg(test)]
pub(super) mod tests;

/// Where memory that a guest's process maps comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The guest's RAM, without what is mapped into it from files.
    Memory,
    /// Pages of the kernel in the guest's RAM, the guest's copies of them included.
    Kernel,
    /// Pages of the initial RAM disk, likewise.
    Initrd,
    /// A file that the guest has as persistent memory.
    Pmem,
    /// A file of a folder that the guest shares with the host.
    Share,
    /// A disk's file.
    Disk,
    /// The program and its libraries.
    Program,
    /// The program's heap, stacks, and other memory without a file.
    Heap,
    /// Anything else that is mapped.
    Other,
}

impl Origin {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Origin::Memory => "guest memory",
            Origin::Kernel => "kernel",
            Origin::Initrd => "initrd",
            Origin::Pmem => "pmem",
            Origin::Share => "share",
            Origin::Disk => "disk",
            Origin::Program => "program",
            Origin::Heap => "heap, stacks",
            Origin::Other => "other",
        }
    }

    /// Whether guests share it because cohort maps it where others copy. The program is shared
    /// too, by all processes that run it, as any program is.
    pub fn is_shareable(self) -> bool {
        match self {
            Origin::Kernel | Origin::Initrd | Origin::Pmem | Origin::Share | Origin::Disk => true,
            Origin::Memory | Origin::Program | Origin::Heap | Origin::Other => false,
        }
    }
}

/// What a guest was given that can show up among the mappings of its process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// Bytes of RAM.
    pub memory: u64,
    /// Files.
    pub files: Vec<GivenFile>,
    /// Folders, any file of which it can map.
    pub folders: Vec<GivenFolder>,
}

/// A file that a guest was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenFile {
    /// As what.
    pub origin: Origin,
    /// Where it was.
    pub path: PathBuf,
    /// Which file that was, if there was one.
    pub file: Option<FileId>,
}

/// A folder that a guest was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenFolder {
    /// As what.
    pub origin: Origin,
    /// Where it was.
    pub path: PathBuf,
}

impl Given {
    /// What `spec` gives, its files as they are now.
    pub fn of(spec: &VmSpec) -> Given {
        let mut files = Vec::new();
        let mut add = |origin, path: &Path| files.push(GivenFile::new(origin, path));
        if let KernelSource::Path(path) = &spec.kernel {
            add(Origin::Kernel, path);
        }
        if let Some(path) = &spec.initrd {
            add(Origin::Initrd, path);
        }
        for (path, _) in spec.disks.iter().filter_map(|disk| disk.file()) {
            add(Origin::Disk, path);
        }
        for pmem in &spec.pmem {
            let file = GivenFile::new(Origin::Pmem, &pmem.path);
            // What is mapped in its place, if this process has it.
            let copy = pmem.sealed.as_ref().map(|copy| copy.descriptor);
            let copy =
                copy.and_then(|number| FileId::at(Path::new(&format!("/proc/self/fd/{number}"))));
            files.push(GivenFile { file: copy.or(file.file), ..file });
        }
        // As memory maps say it: without links.
        let folder = |path: &PathBuf| fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        let folder = |path| GivenFolder { origin: Origin::Share, path: folder(path) };
        let folders = spec.shares.iter().map(|share| folder(&share.folder)).collect();
        Given { memory: spec.memory, files, folders }
    }
}

impl GivenFile {
    /// The file that is at `path` now.
    pub fn new(origin: Origin, path: &Path) -> GivenFile {
        // As memory maps say it: without links.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let file = FileId::at(&path);
        GivenFile { origin, path, file }
    }

    fn is(&self, mapped: FileId, name: &str) -> bool {
        self.file.is_some_and(|file| {
            file == mapped
                || file.inode == mapped.inode && self.path == Path::new(still_there(name))
        })
    }
}

impl GivenFile {
    /// Whether a copy of it, made by the guest's own process, can be mapped as `name`: in memory,
    /// or as a file beside it that never had a name, which is called after its number.
    fn may_be_copied_as(&self, name: &str) -> bool {
        let beside = || {
            let path = Path::new(name.strip_suffix(" (deleted)")?);
            let number = path.file_name()?.to_str()?.strip_prefix('#')?;
            let digits = number.bytes().all(|byte| byte.is_ascii_digit());
            Some(digits && path.parent() == self.path.parent())
        };
        self.origin == Origin::Pmem && (name == COPY || beside() == Some(true))
    }
}

impl FileId {
    /// The file at `path`, if there is one.
    pub fn at(path: &Path) -> Option<FileId> {
        let facts = fs::metadata(path).ok()?;
        let (major, minor) = (rustix::fs::major(facts.dev()), rustix::fs::minor(facts.dev()));
        Some(FileId { major, minor, inode: facts.ino() })
    }
}

/// What the memfd of guest RAM is called among mappings (memshare's `ram/place.rs`).
const RAM: &str = "/memfd:cohort-ram (deleted)";
/// More than any program is long in memory.
const PROGRAM_LEN: u64 = 1 << 30;
/// What a copy of a file in memory is called (memshare's `share/copy.rs`).
const COPY: &str = "/memfd:cohort-copy (deleted)";

/// Tells the origins of the mappings of one process.
pub(super) struct Classifier<'a> {
    given: &'a Given,
    /// The file of the program.
    program: Option<FileId>,
    /// Where its code is.
    code: Vec<u64>,
    /// Where guest RAM is mapped.
    ram: Vec<Range<u64>>,
}

impl<'a> Classifier<'a> {
    /// For the process that has `mappings` and runs the program in the file `program`.
    pub(super) fn new(
        given: &'a Given,
        program: Option<FileId>,
        mappings: &[Mapping],
    ) -> Classifier<'a> {
        let mut ram: Vec<Range<u64>> = Vec::new();
        let (low, high) = (given.memory.min(LOW_RAM_END), given.memory.saturating_sub(LOW_RAM_END));
        for mapping in mappings.iter().filter(|mapping| mapping.name == RAM) {
            // What is left of the memfd between files that were placed in it tells where the two
            // regions begin.
            let (in_region, len) = match mapping.offset.checked_sub(LOW_RAM_END) {
                Some(in_region) => (in_region, high),
                None => (mapping.offset, low),
            };
            let start = mapping.start.saturating_sub(in_region);
            let range = start..start.saturating_add(len);
            if !ram.contains(&range) {
                ram.push(range);
            }
        }
        let code = mappings.iter().filter(|mapping| mapping.executable && mapping.file == program);
        let code = code.map(|mapping| mapping.start).collect();
        Classifier { given, program, code, ram }
    }

    /// What the file of `mapping` is called: as it was given, where it is a copy in memory.
    pub(super) fn name(&self, mapping: &Mapping) -> String {
        let known = |file: FileId| {
            let copied = |given: &&GivenFile| given.may_be_copied_as(&mapping.name);
            let mut candidates = self.given.files.iter().filter(copied);
            match (
                self.given.files.iter().find(|given| given.file == Some(file)),
                candidates.next(),
            ) {
                (Some(given), _) => Some(given),
                // Of several, nothing tells which one it is.
                (None, only) => only.filter(|_| candidates.next().is_none()),
            }
        };
        match mapping.file.filter(|_| mapping.name == COPY).and_then(known) {
            Some(given) => given.path.display().to_string(),
            None => mapping.name.clone(),
        }
    }

    /// What was given that `file`, the file of `mapping`, is, or is a copy of.
    fn given(&self, file: FileId, mapping: &Mapping) -> Option<&GivenFile> {
        let mut files = self.given.files.iter();
        let known = files.clone().find(|given| given.is(file, &mapping.name));
        known.or_else(|| files.find(|given| given.may_be_copied_as(&mapping.name)))
    }

    /// Where `mapping` comes from.
    pub(super) fn origin(&self, mapping: &Mapping) -> Origin {
        let given = |file| self.given(file, mapping);
        let in_ram =
            self.ram.iter().any(|ram| ram.contains(&mapping.start) && mapping.end <= ram.end);
        match mapping.file {
            _ if mapping.name == RAM => Origin::Memory,
            None if in_ram => Origin::Memory,
            // The kernel's mapped file is another than the one given where that was unpacked.
            Some(file) if in_ram => given(file).map_or(Origin::Kernel, |given| given.origin),
            // Its file can be given to the guest as well, which is mapped elsewhere.
            Some(file) if self.program == Some(file) && self.is_by_code(mapping) => Origin::Program,
            Some(file) => match given(file) {
                Some(given) => given.origin,
                None => self.file(file, mapping),
            },
            None if mapping.name.starts_with("[v") => Origin::Program,
            None => Origin::Heap,
        }
    }

    /// Whether a mapping of the program's file is where the program is. The kernel puts programs
    /// far from everything else that is mapped.
    fn is_by_code(&self, mapping: &Mapping) -> bool {
        self.code.iter().any(|code| code.abs_diff(mapping.start) < PROGRAM_LEN)
    }

    fn file(&self, file: FileId, mapping: &Mapping) -> Origin {
        let path = Path::new(still_there(&mapping.name));
        let folder = self.given.folders.iter().find(|folder| path.starts_with(&folder.path));
        let library = path.file_name().is_some_and(|name| {
            let name = name.to_string_lossy();
            name.ends_with(".so") || name.contains(".so.")
        });
        match folder {
            Some(folder) => folder.origin,
            None if self.program == Some(file) || library => Origin::Program,
            None => Origin::Other,
        }
    }
}

/// The path of a mapping, without what the kernel adds when it leads to the file no more.
pub(super) fn still_there(name: &str) -> &str {
    name.strip_suffix(" (deleted)").unwrap_or(name)
}
