//! The initial RAM disk: as high as the kernel permits, so that the memory around the kernel stays
//! in one piece.

use std::io;
use std::ops::Range;
use std::path::Path;

use thiserror::Error;
use vm_memory::GuestAddress;

use super::Boot;
use super::content::Content;
use super::error::KernelError;
use super::room::{Room, advise_memory};

/// First address that no byte of the initrd may have, for Linux kernels whose file does not say
/// (`initrd_addr_max` has been 2 GiB - 1 since Linux 3.7).
pub(super) const LINUX_END: u64 = 1 << 31;
const PAGE: u64 = 4096;

/// What is wrong with an initrd.
#[derive(Debug, Error)]
pub enum InitrdError {
    /// The file cannot be opened.
    #[error("the file cannot be opened")]
    Open(#[source] io::Error),
    /// The file is empty.
    #[error("the file is empty")]
    Empty,
    /// There is no free memory of that size.
    #[error("it has {len} bytes, but the longest free range of guest memory has {free}")]
    TooLarge {
        /// Its length.
        len: u64,
        /// Longest range of guest memory, below the kernel's limit, that the kernel leaves.
        free: u64,
        /// Where the memory that the kernel needs ends.
        kernel_end: u64,
    },
}

impl InitrdError {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            InitrdError::Open(_) => None,
            InitrdError::Empty => Some("leave it out, or name a cpio archive".to_owned()),
            InitrdError::TooLarge { len, kernel_end, .. } => {
                let end = kernel_end.saturating_add(*len);
                let advice = if end <= LINUX_END { advise_memory(end) } else { None };
                advice.or_else(|| Some("put the files on a disk instead".to_owned()))
            }
        }
    }
}

/// Puts the initrd into guest memory: page-aligned, its last byte below `end`.
pub(super) fn load(
    path: &Path,
    boot: &Boot<'_>,
    room: &mut Room,
    end: u64,
) -> Result<Range<u64>, KernelError> {
    let name = || path.display().to_string();
    let fail = |source| KernelError::Initrd { initrd: name(), source };
    let content = Content::open(path).map_err(|source| fail(InitrdError::Open(source)))?;
    let len = content.len();
    if len == 0 {
        return Err(fail(InitrdError::Empty));
    }
    let Some(start) = room.highest(len, PAGE, end) else {
        let (free, kernel_end) = (room.longest(end), room.used_end());
        return Err(fail(InitrdError::TooLarge { len, free, kernel_end }));
    };
    let range = start..start + len;
    room.take("the initrd".to_owned(), range.clone())
        .map_err(|source| KernelError::Misfit { kernel: name(), source })?;
    let placed = content
        .place(boot.ram, (0, len), GuestAddress(start), boot.placement)
        .map_err(|source| KernelError::Place { what: name(), source })?;
    tracing::debug!(initrd = %path.display(), addr = start, placed.mapped, placed.copied, "initrd loaded");
    Ok(range)
}
