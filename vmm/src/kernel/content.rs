//! The bytes of a kernel: a file, or the guest that is part of the binary.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use memshare::{GuestRam, Placed, Placement};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use super::error::RamFault;

/// The bytes of a kernel.
#[derive(Debug)]
pub(super) enum Content {
    /// A regular file and its length when it was opened.
    File { file: File, len: u64 },
    /// Part of this binary.
    Builtin(&'static [u8]),
}

impl Content {
    /// Opens a regular file for reading.
    pub(super) fn open(path: &Path) -> io::Result<Content> {
        open_regular(path).and_then(Content::of)
    }

    /// Takes a file that is open for reading.
    pub(super) fn of(file: File) -> io::Result<Content> {
        let len = file.metadata()?.len();
        Ok(Content::File { file, len })
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Content::File { len, .. } => *len,
            Content::Builtin(bytes) => bytes.len() as u64,
        }
    }

    /// Fills `buffer` from `offset`.
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Content::File { file, .. } => file.read_exact_at(buffer, offset),
            Content::Builtin(bytes) => {
                let range = usize::try_from(offset).ok().and_then(|at| {
                    let end = at.checked_add(buffer.len())?;
                    bytes.get(at..end)
                });
                buffer.copy_from_slice(range.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }

    /// Reads the beginning: less than `buffer` only where the content is shorter.
    pub(super) fn read_head<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let len = usize::try_from(self.len()).unwrap_or(usize::MAX).min(buffer.len());
        let head = &mut buffer[..len];
        self.read_at(head, 0)?;
        Ok(head)
    }

    /// Puts `len` bytes from `offset`, which the caller knows to be there, at `at`. Bytes of this
    /// binary are copied.
    pub(super) fn place(
        &self,
        ram: &GuestRam,
        (offset, len): (u64, u64),
        at: GuestAddress,
        how: Placement,
    ) -> Result<Placed, RamFault> {
        match self {
            Content::File { file, .. } => Ok(ram.place(file, offset, len, at, how)?),
            Content::Builtin(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let end = offset.saturating_add(len);
                let end = usize::try_from(end).unwrap_or(usize::MAX).clamp(start, bytes.len());
                ram.memory().memory().write_slice(&bytes[start..end], at)?;
                Ok(Placed { mapped: 0, copied: len })
            }
        }
    }
}

/// Opens a regular file for reading; a FIFO or terminal is refused instead of waited for.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !kind.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok(file)
}

/// Says what a file that is no kernel seems to be, from its first bytes.
pub(super) fn describe(head: &[u8]) -> &'static str {
    const KNOWN: [(&[u8], &str); 12] = [
        (b"", "an empty file"),
        (b"\x1f\x8b", "a gzip file: decompress it first"),
        (b"\xfd7zXZ", "an xz file: decompress it first"),
        (b"\x28\xb5\x2f\xfd", "a zstd file: decompress it first"),
        (b"\x02\x21\x4c\x18", "an lz4 file: decompress it first"),
        (b"BZh", "a bzip2 file: decompress it first"),
        (b"0707", "a cpio archive, perhaps the initrd"),
        (b"MZ", "an EFI program without a Linux setup header"),
        (b"#!", "a script"),
        (b"QFI\xfb", "a qcow2 disk image"),
        (b"!<arch>", "a package or library archive"),
        (b"conectix", "a VHD disk image"),
    ];
    let known = KNOWN.iter().find(|(magic, _)| match magic {
        [] => head.is_empty(),
        magic => head.starts_with(magic),
    });
    known.map_or("of an unknown format", |(_, what)| what)
}
