//! The guest's kernel: from a file the user names to an entry point in guest memory.
//!
//! ```text
//! Kernel::open   file ─► ELF vmlinux ───────────────────────────┐
//!                     └► bzImage ─► payload ─► cache: vmlinux ──┤   elf, bzimage, payload, cache
//!                                └► cannot be used: its own entry ┤
//! Kernel::load   segments mapped copy-on-write, initrd above them, command line,
//!                start info (PVH) or boot_params (64-bit entry) ─► Entry
//! ```
//!
//! Opening reads headers and notes only. What the guest runs is mapped from the page cache, so a
//! start costs the same for a small kernel and a large one, and guests that run the same kernel
//! share the pages that they do not write. **A kernel or initrd file must not be changed in place
//! while a guest runs from it** (as for every program that maps files); replacing it by rename, as
//! package managers do, is fine.
//!
//! Specifications: System V ABI and its AMD64 supplement (ELF), `xen/include/public/elfnote.h` and
//! `arch-x86/hvm/start_info.h` (PVH), `Documentation/arch/x86/boot.rst` of Linux (bzImage,
//! `boot_params`, 64-bit entry).

mod boot_params;
mod bzimage;
mod cache;
mod cmdline;
mod content;
mod elf;
mod error;
mod initrd;
mod payload;
mod pvh;
mod room;
mod unpack;

use std::path::Path;

use memshare::{GuestRam, Placement};
use vm_memory::GuestAddress;

use crate::spec::KernelSource;

pub use bzimage::BzImageError;
pub use cmdline::CmdlineError;
pub use elf::ElfError;
pub use error::{KernelError, RamFault};
pub use initrd::InitrdError;
pub use payload::PayloadError;
pub use room::{MemoryKind, MemoryRange, Misfit};

use bzimage::BzImage;
use cache::Cache;
use content::Content;
use elf::Elf;
use room::Room;

/// A kernel, recognised and ready to be loaded into any number of guests. It keeps its file open.
#[derive(Debug)]
pub struct Kernel {
    name: String,
    content: Content,
    image: Image,
    /// Bytes of command line that the kernel takes, where it says so.
    cmdline_max: Option<u64>,
    /// First address that no byte of the initrd may have.
    initrd_end: u64,
}

#[derive(Debug)]
enum Image {
    Elf(Elf),
    BzImage(BzImage),
}

/// What a kernel is loaded with.
#[derive(Clone, Copy)]
pub struct Boot<'a> {
    /// The guest's memory, fresh: what no segment covers reads as zeroes.
    pub ram: &'a GuestRam,
    /// Map kernel and initrd, or copy them.
    pub placement: Placement,
    /// Initial RAM disk.
    pub initrd: Option<&'a Path>,
    /// Kernel command line, without a closing NUL.
    pub cmdline: &'a str,
    /// What the guest is told about its memory. Kernel and initrd go into its RAM above 1 MiB.
    pub memory_map: &'a [MemoryRange],
    /// The ACPI root pointer.
    pub rsdp: GuestAddress,
}

/// Where the first processor starts and what it finds there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// PVH: 32-bit protected mode without paging, `ebx` pointing to `hvm_start_info`.
    Pvh {
        /// First instruction, below 4 GiB.
        rip: u64,
        /// For `ebx`.
        start_info: GuestAddress,
    },
    /// Linux's 64-bit entry: long mode, memory identity-mapped, `rsi` pointing to `boot_params`.
    Long {
        /// First instruction.
        rip: u64,
        /// For `rsi`.
        boot_params: GuestAddress,
    },
}

/// How a loaded image wants to be entered, before its parameters are in memory.
enum Start {
    Pvh { rip: u64 },
    Long { rip: u64 },
}

impl Kernel {
    /// Opens and recognises a kernel: an ELF vmlinux is used as it is, a bzImage's payload is
    /// decompressed into the user's cache unless it is there already.
    ///
    /// # Errors
    /// The file cannot be read, is no kernel, is damaged, or is for another machine.
    pub fn open(source: &KernelSource) -> Result<Kernel, KernelError> {
        match source {
            KernelSource::Builtin => {
                let name = "builtin".to_owned();
                Kernel::from_elf(name, Content::Builtin(resources::BUILTIN_GUEST))
            }
            KernelSource::Path(path) => Kernel::open_path(path, Cache::of_user),
        }
    }

    /// `cache` is asked for only when there is something to decompress.
    fn open_path(
        path: &Path,
        cache: impl FnOnce() -> Option<Cache>,
    ) -> Result<Kernel, KernelError> {
        let name = path.display().to_string();
        let content = Content::open(path)
            .map_err(|source| KernelError::Open { kernel: name.clone(), source })?;
        let mut head = [0; bzimage::HEAD];
        let head = content
            .read_head(&mut head)
            .map_err(|source| KernelError::Read { kernel: name.clone(), source })?;
        if elf::recognises(head) {
            return Kernel::from_elf(name, content);
        }
        if !bzimage::recognises(head) {
            return Err(KernelError::NotAKernel { kernel: name, what: content::describe(head) });
        }
        let image = BzImage::parse(head, content.len())
            .map_err(|source| KernelError::BzImage { kernel: name.clone(), source })?;
        let (cmdline_max, initrd_end) = (Some(image.cmdline_max()), image.initrd_end());
        let kernel = match unpack::vmlinux(&name, &content, &image, cache().as_ref())? {
            Some(vmlinux) => Kernel::from_elf(name, vmlinux)?,
            None => {
                let image = Image::BzImage(image);
                Kernel { name, content, image, cmdline_max: None, initrd_end: 0 }
            }
        };
        Ok(Kernel { cmdline_max, initrd_end, ..kernel })
    }

    fn from_elf(name: String, content: Content) -> Result<Kernel, KernelError> {
        match Elf::parse(&content) {
            Ok(elf) => Ok(Kernel {
                name,
                content,
                image: Image::Elf(elf),
                cmdline_max: None,
                initrd_end: initrd::LINUX_END,
            }),
            Err(source) => Err(KernelError::Elf { kernel: name, source }),
        }
    }

    /// Puts the kernel, its initrd, command line and parameters into guest memory.
    ///
    /// # Errors
    /// Something does not fit the guest's memory or cannot be read. The memory may then be partly
    /// filled.
    pub fn load(&self, boot: &Boot<'_>) -> Result<Entry, KernelError> {
        cmdline::write(boot.ram, boot.cmdline, self.cmdline_max)?;
        let mut room = Room::new(boot.memory_map);
        let start = match &self.image {
            Image::Elf(elf) => elf.load(&self.name, &self.content, boot, &mut room)?,
            Image::BzImage(image) => image.load(&self.name, &self.content, boot, &mut room)?,
        };
        let initrd = match boot.initrd {
            Some(path) => Some(initrd::load(path, boot, &mut room, self.initrd_end)?),
            None => None,
        };
        match start {
            Start::Pvh { rip } => {
                let start_info = pvh::write(boot, initrd)?;
                Ok(Entry::Pvh { rip, start_info })
            }
            Start::Long { rip } => {
                let header = match &self.image {
                    Image::Elf(_) => None,
                    Image::BzImage(image) => Some(image.header()),
                };
                let boot_params = boot_params::write(boot, header, initrd)?;
                Ok(Entry::Long { rip, boot_params })
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "lengths of small test data")]
mod fixtures;
#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "lengths of small test data")]
mod tests;
