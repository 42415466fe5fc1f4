//! bzImage: the setup header, and the ordinary 64-bit entry for images whose payload cannot be
//! booted directly.
//!
//! ```text
//! file:  boot sector + setup code │ protected-mode code: decompressor … payload … decompressor │ …
//!        0        0x1f1: header   │ ▲ (setup_sects+1)*512     ▲ + payload_offset, payload_length
//!                                 └ runs from pref_address, 64-bit entry at +0x200
//! ```

mod checksum;

use std::ops::Range;

use linux_loader::bootparam::setup_header;
use thiserror::Error;
use vm_memory::{ByteValued, GuestAddress};

use super::content::Content;
use super::error::KernelError;
use super::room::Room;
use super::{Boot, Start};
use crate::machine::layout;

/// How much of a file is read to recognise it and to parse the setup header.
pub(super) const HEAD: usize = 0x400;
/// Where the setup header starts, in the file and in `boot_params`.
pub(super) const HEADER: usize = 0x1f1;
/// Where `boot_params` stops taking the setup header.
pub(super) const HEADER_END_MAX: usize = 0x290;

/// Byte that holds the distance from 0x202 to the end of the setup header.
const HEADER_LENGTH: usize = 0x201;
pub(super) const BOOT_FLAG: u16 = 0xaa55;
pub(super) const MAGIC: [u8; 4] = *b"HdrS";

/// Protocol 2.08 (Linux 2.6.26) brought `payload_offset`.
const VERSION_MIN: u16 = 0x208;
/// End of `payload_length`, the last field of protocol 2.08 that is needed here.
const HEADER_END_MIN: usize = 0x250;
/// Protocol 2.10 brought `pref_address` and `init_size`.
const VERSION_PREF_ADDRESS: u16 = 0x20a;
/// Protocol 2.12 brought `xloadflags`.
const VERSION_XLOADFLAGS: u16 = 0x20c;
const LOADED_HIGH: u8 = 1;
const XLF_KERNEL_64: u16 = 1;
/// The 64-bit entry's distance from the start of the protected-mode code.
const ENTRY_64: u64 = 0x200;

/// What is wrong with a bzImage.
#[derive(Debug, Error)]
pub enum BzImageError {
    /// The boot protocol is too old.
    #[error("its boot protocol is {}.{:02}, but cohort needs 2.08 (Linux 2.6.26)", .version >> 8, .version & 0xff)]
    TooOld {
        /// The protocol's version, major in the high byte.
        version: u16,
    },
    /// A zImage, loaded below 1 MiB.
    #[error("it is a zImage, to be loaded below 1 MiB")]
    ZImage,
    /// The setup header ends before the fields that its version has.
    #[error("its setup header ends at {end:#x}, before the fields of its version")]
    ShortHeader {
        /// Where it ends in the file.
        end: u64,
    },
    /// The file ends before something that the header announces.
    #[error("its {what} ends at byte {end}, but the file has only {len} bytes")]
    Truncated {
        /// What the header announces.
        what: &'static str,
        /// Where it would end in the file.
        end: u64,
        /// The file's length.
        len: u64,
    },
    /// The image is not what was built.
    #[error("its checksum (CRC-32) does not match")]
    Checksum,
    /// The payload cannot be used and there is no 64-bit entry to fall back on.
    #[error("it has neither a payload that cohort can decompress nor a 64-bit entry")]
    NoEntry,
}

impl BzImageError {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        let help = match self {
            BzImageError::TooOld { .. } | BzImageError::ZImage => {
                "use a 64-bit kernel from this century, or its vmlinux"
            }
            BzImageError::ShortHeader { .. }
            | BzImageError::Truncated { .. }
            | BzImageError::Checksum => "the file is damaged or incomplete: copy or build it again",
            BzImageError::NoEntry => "cohort boots 64-bit x86-64 kernels only",
        };
        Some(help.to_owned())
    }
}

/// A bzImage, understood and checked against its file.
#[derive(Debug)]
pub(super) struct BzImage {
    /// The setup header as the file has it.
    header: Vec<u8>,
    /// File offset of the protected-mode code, which goes on to the end.
    code: Range<u64>,
    payload: Option<Range<u64>>,
    /// What the checksum covers ends here.
    sum_end: u64,
    version_at: u16,
    /// Where the protected-mode code is loaded.
    start: u64,
    init_size: u64,
    entry_64: bool,
    cmdline_max: u64,
    initrd_end: u64,
}

/// Whether this is the beginning of a Linux boot image, of whatever version.
pub(super) fn recognises(head: &[u8]) -> bool {
    let header = header(head, HEADER_END_MIN);
    header.boot_flag == BOOT_FLAG && header.header.to_le_bytes() == MAGIC
}

/// The setup header up to `end`; what the file does not have is zero.
fn header(head: &[u8], end: usize) -> setup_header {
    let mut header = setup_header::default();
    let bytes = head.get(HEADER..end.min(head.len())).unwrap_or_default();
    let len = bytes.len().min(size_of::<setup_header>());
    header.as_mut_slice()[..len].copy_from_slice(&bytes[..len]);
    header
}

impl BzImage {
    /// Parses the setup header. `head` is the file's beginning, up to [`HEAD`] bytes.
    pub(super) fn parse(head: &[u8], file_len: u64) -> Result<BzImage, BzImageError> {
        let version = header(head, HEADER_END_MIN).version;
        if version < VERSION_MIN {
            return Err(BzImageError::TooOld { version });
        }
        let end = 0x202 + head.get(HEADER_LENGTH).map_or(0, |&len| usize::from(len));
        if end < HEADER_END_MIN || head.len() < end {
            return Err(BzImageError::ShortHeader { end: end as u64 });
        }
        let end = end.min(HEADER_END_MAX);
        let header = header(head, end);
        if header.loadflags & LOADED_HIGH == 0 {
            return Err(BzImageError::ZImage);
        }
        let setup_sects = if header.setup_sects == 0 { 4 } else { u64::from(header.setup_sects) };
        let code = (setup_sects + 1) * 512..file_len;
        let payload_start = code.start + u64::from(header.payload_offset);
        let payload = payload_start..payload_start + u64::from(header.payload_length);
        let code_end = code.start + u64::from(header.syssize) * 16;
        for (what, end) in [("protected-mode code", code_end), ("payload", payload.end)] {
            if end > file_len {
                return Err(BzImageError::Truncated { what, end, len: file_len });
            }
        }
        let has_pref_address = version >= VERSION_PREF_ADDRESS && header.pref_address > 0;
        Ok(BzImage {
            header: head[HEADER..end].to_vec(),
            code,
            sum_end: code_end,
            version_at: header.kernel_version,
            payload: (header.payload_offset > 0 && !payload.is_empty()).then_some(payload),
            start: if has_pref_address { header.pref_address } else { layout::KERNEL_START.0 },
            init_size: if has_pref_address { header.init_size.into() } else { 0 },
            entry_64: version >= VERSION_XLOADFLAGS && header.xloadflags & XLF_KERNEL_64 != 0,
            cmdline_max: header.cmdline_size.into(),
            initrd_end: u64::from(header.initrd_addr_max) + 1,
        })
    }

    /// The setup header as the file has it, for `boot_params`.
    pub(super) fn header(&self) -> &[u8] {
        &self.header
    }

    /// Where in the file the compressed kernel is.
    pub(super) fn payload(&self) -> Option<Range<u64>> {
        self.payload.clone()
    }

    /// Longest command line that the kernel takes, without the closing NUL.
    pub(super) fn cmdline_max(&self) -> u64 {
        self.cmdline_max
    }

    /// First address that no byte of the initrd may have.
    pub(super) fn initrd_end(&self) -> u64 {
        self.initrd_end
    }

    /// Fails if the image has a checksum that is wrong. `image` is the whole file.
    pub(super) fn check_sum(&self, image: &[u8]) -> Result<(), BzImageError> {
        let end = usize::try_from(self.sum_end).unwrap_or(usize::MAX).min(image.len());
        let wrong = checksum::is_wrong(&image[..end], self.version_at);
        if wrong { Err(BzImageError::Checksum) } else { Ok(()) }
    }

    /// Fails if there is no 64-bit entry to boot the image by when its payload cannot be used.
    pub(super) fn check_entry(&self) -> Result<(), BzImageError> {
        if self.entry_64 { Ok(()) } else { Err(BzImageError::NoEntry) }
    }

    /// Puts the protected-mode code into guest memory, which decompresses the kernel in the guest
    /// and may use `init_size` bytes from its start for that.
    pub(super) fn load(
        &self,
        name: &str,
        content: &Content,
        boot: &Boot<'_>,
        room: &mut Room,
    ) -> Result<Start, KernelError> {
        let len = self.code.end - self.code.start;
        let end = self.start.saturating_add(len.max(self.init_size));
        room.take("the bzImage".to_owned(), self.start..end)
            .map_err(|source| KernelError::Misfit { kernel: name.to_owned(), source })?;
        content
            .place(boot.ram, (self.code.start, len), GuestAddress(self.start), boot.placement)
            .map_err(|source| KernelError::Place { what: name.to_owned(), source })?;
        Ok(Start::Long { rip: self.start + ENTRY_64 })
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "lengths of small test data")]
mod tests;
