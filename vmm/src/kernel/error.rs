//! What can be wrong with a kernel or with loading it.

use std::io;

use memshare::RamError;
use thiserror::Error;
use vm_memory::GuestMemoryError;

use super::bzimage::BzImageError;
use super::cmdline::CmdlineError;
use super::elf::ElfError;
use super::initrd::InitrdError;
use super::payload::PayloadError;
use super::room::Misfit;

/// Why a kernel cannot be opened or loaded. The source says what exactly is wrong.
#[derive(Debug, Error)]
pub enum KernelError {
    /// The file cannot be opened.
    #[error("kernel {kernel} cannot be opened")]
    Open {
        /// The kernel's path.
        kernel: String,
        /// The host's reason.
        source: io::Error,
    },
    /// The file cannot be read.
    #[error("kernel {kernel} cannot be read")]
    Read {
        /// The kernel's path.
        kernel: String,
        /// The host's reason.
        source: io::Error,
    },
    /// The file is neither ELF nor bzImage.
    #[error("{kernel} is no kernel, but {what}")]
    NotAKernel {
        /// The file's path.
        kernel: String,
        /// What it seems to be.
        what: &'static str,
    },
    /// The file changed while it was read.
    #[error("kernel {kernel} was changed while cohort read it")]
    Changed {
        /// The kernel's path.
        kernel: String,
    },
    /// An ELF kernel, or the ELF kernel in a bzImage, is malformed or for another machine.
    #[error("kernel {kernel} cannot be booted")]
    Elf {
        /// The kernel's path.
        kernel: String,
        /// What is wrong.
        source: ElfError,
    },
    /// A bzImage is malformed or for another machine.
    #[error("bzImage {kernel} cannot be booted")]
    BzImage {
        /// The kernel's path.
        kernel: String,
        /// What is wrong.
        source: BzImageError,
    },
    /// A bzImage cannot be decompressed.
    #[error("bzImage {kernel} cannot be decompressed")]
    Payload {
        /// The kernel's path.
        kernel: String,
        /// What is wrong.
        source: PayloadError,
    },
    /// The kernel does not fit the guest's memory.
    #[error("kernel {kernel} does not fit the guest's memory")]
    Misfit {
        /// The kernel's path.
        kernel: String,
        /// Which part does not fit, and where.
        source: Misfit,
    },
    /// The initrd cannot be loaded.
    #[error("initrd {initrd} cannot be loaded")]
    Initrd {
        /// The initrd's path.
        initrd: String,
        /// What is wrong.
        source: InitrdError,
    },
    /// The command line cannot be passed to this kernel.
    #[error("the kernel command line cannot be used")]
    Cmdline(#[from] CmdlineError),
    /// There are more ranges of memory than a boot protocol can tell the guest.
    #[error("the memory map has {ranges} ranges, but the boot protocol takes at most {max}")]
    MemoryMap {
        /// How many there are.
        ranges: usize,
        /// How many fit.
        max: usize,
    },
    /// The host cannot put a file into guest memory.
    #[error("{what} cannot be put into guest memory")]
    Place {
        /// The kernel's or initrd's path.
        what: String,
        /// The host's reason.
        source: RamFault,
    },
    /// The host cannot put boot parameters into guest memory.
    #[error("the {what} cannot be put into guest memory")]
    Parameters {
        /// Which parameters.
        what: &'static str,
        /// The host's reason.
        source: RamFault,
    },
}

impl KernelError {
    /// What to do about it, where cohort knows.
    pub fn help(&self) -> Option<String> {
        match self {
            KernelError::NotAKernel { .. } => {
                Some("name an ELF vmlinux or an x86-64 bzImage (vmlinuz)".to_owned())
            }
            KernelError::Changed { .. } => Some("start again once the file is complete".to_owned()),
            KernelError::Elf { source, .. } => source.help(),
            KernelError::BzImage { source, .. } => source.help(),
            KernelError::Payload { source, .. } => source.help(),
            KernelError::Misfit { source, .. } => source.help(),
            KernelError::Initrd { source, .. } => source.help(),
            KernelError::Cmdline(source) => source.help(),
            KernelError::Open { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => Some("check the path".to_owned()),
                io::ErrorKind::PermissionDenied => {
                    Some("make the file readable for the user who runs cohort".to_owned())
                }
                _ => None,
            },
            KernelError::Read { .. }
            | KernelError::MemoryMap { .. }
            | KernelError::Place { .. }
            | KernelError::Parameters { .. } => None,
        }
    }
}

/// A failure to fill guest memory.
#[derive(Debug, Error)]
pub enum RamFault {
    /// A file cannot be mapped or copied.
    #[error(transparent)]
    Place(#[from] RamError),
    /// Bytes cannot be written.
    #[error(transparent)]
    Write(#[from] GuestMemoryError),
}
