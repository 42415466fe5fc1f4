//! What can go wrong with guest RAM.

use std::io;

use thiserror::Error;
use vm_memory::GuestAddress;
use vm_memory::mmap::MmapRegionError;

/// Why RAM could not be made, or a file not be placed in it.
#[derive(Debug, Error)]
pub enum RamError {
    /// The sizes given to [`super::GuestRam::new`] make no layout.
    #[error(
        "guest memory of {size:#x} bytes below {low_end:#x} and from {high_start:#x} is no layout \
         of whole 4 KiB pages"
    )]
    Layout {
        /// Bytes of RAM.
        size: u64,
        /// End of the low region.
        low_end: u64,
        /// Start of the high region.
        high_start: u64,
    },
    /// The host refused the memfd.
    #[error("cannot create {size} bytes of guest memory (memfd, {step})")]
    Create {
        /// Bytes asked for.
        size: u64,
        /// The call that failed.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The host refused to map the memfd.
    #[error("cannot map {len} bytes of guest memory")]
    Map {
        /// Bytes asked for.
        len: usize,
        /// Why.
        #[source]
        source: MmapRegionError,
    },
    /// A window would lie where RAM or another window is, or beyond all addresses.
    #[error(
        "a window of {len:#x} bytes cannot be at guest address {:#x}, where other memory is",
        .start.0
    )]
    WindowOverlap {
        /// First guest address asked for.
        start: GuestAddress,
        /// Bytes of the window.
        len: u64,
    },
    /// The range is not, or not as a whole, in one region of RAM.
    #[error("guest addresses {:#x} to {:#x} are not all in guest memory", .at.0, .at.0.saturating_add(*.len))]
    OutsideRam {
        /// First guest address asked for.
        at: GuestAddress,
        /// Bytes asked for.
        len: u64,
    },
    /// Another file's bytes are there already.
    #[error(
        "guest addresses {:#x} to {:#x} overlap what was placed at {:#x} to {:#x}",
        .at.0, .at.0.saturating_add(*.len), .taken.0, .taken.0.saturating_add(*.taken_len)
    )]
    Overlap {
        /// First guest address asked for.
        at: GuestAddress,
        /// Bytes asked for.
        len: u64,
        /// First guest address of the earlier placement.
        taken: GuestAddress,
        /// Bytes of the earlier placement.
        taken_len: u64,
    },
    /// The file ends before the range does.
    #[error("bytes {offset} to {} of a file of {size} bytes", .offset.saturating_add(*.len))]
    BeyondFile {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        len: u64,
        /// Size of the file.
        size: u64,
    },
    /// Only regular files have pages that can be mapped, and a size that can be trusted.
    #[error("not a regular file")]
    NotRegular,
    /// The file could not be examined.
    #[error("cannot examine the file")]
    Stat(#[source] io::Error),
    /// The file could not be read.
    #[error("cannot read {len} bytes at {offset} of the file")]
    Read {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        len: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file's pages could not be mapped.
    #[error("cannot map {len} bytes at {offset} of the file")]
    MapFile {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        len: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
}
