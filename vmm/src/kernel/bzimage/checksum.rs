//! The CRC-32 at the end of a bzImage.
//!
//! LZ4 and lzma payloads have no checksum of their own, and damage to them mostly decompresses to
//! a damaged kernel. Linux from 2.6.26 (protocol 2.08) up to 6.15 ends the image with a CRC-32 over
//! all of it, so that the CRC of the whole leaves no remainder. Signing for Secure Boot comes after
//! that and fills in fields of the PE header, which count as zero here.

use std::ops::Range;

use flate2::Crc;

/// The setup code's file offset that `kernel_version` counts from.
const KERNEL_VERSION_BASE: usize = 0x200;
/// The first Linux without a CRC.
const VERSION_WITHOUT: (u32, u32) = (6, 16);
/// Where in an image with a PE header the pointer to it is.
const PE_POINTER: usize = 0x3c;
/// What may be changed by signing is before this offset.
const HEAD: usize = 4096;

/// Whether an image that must have a CRC has another one. `version_at` is the setup header's
/// `kernel_version`; images that do not say their version are not judged.
pub(super) fn is_wrong(image: &[u8], version_at: u16) -> bool {
    let version = version(image, usize::from(version_at));
    if version.is_none_or(|version| version >= VERSION_WITHOUT) {
        return false;
    }
    let (head, rest) = image.split_at(image.len().min(HEAD));
    let mut head = head.to_vec();
    for field in signature_fields(&head).into_iter().flatten() {
        if let Some(field) = head.get_mut(field) {
            field.fill(0);
        }
    }
    let mut crc = Crc::new();
    crc.update(&head);
    crc.update(rest);
    // The remainder is 0; the customary final complement is not a part of the kernel's CRC.
    crc.sum() != !0
}

/// Major and minor number of the kernel's version.
fn version(image: &[u8], version_at: usize) -> Option<(u32, u32)> {
    let at = KERNEL_VERSION_BASE + version_at;
    let text = image.get(at..).filter(|_| version_at > 0)?;
    let text = str::from_utf8(text.get(..text.len().min(16))?).ok()?;
    let (major, rest) = text.split_once('.')?;
    let minor = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The PE header's checksum and the place of its certificates.
fn signature_fields(head: &[u8]) -> Option<[Range<usize>; 2]> {
    let pe = u32::from_le_bytes(*head.get(PE_POINTER..)?.first_chunk()?);
    let pe = usize::try_from(pe).ok().filter(|pe| *pe < HEAD)?;
    if !head.starts_with(b"MZ") || !head.get(pe..)?.starts_with(b"PE\0\0") {
        return None;
    }
    let optional = pe + 24;
    // Data directories start after 112 bytes of a PE32+ header, 96 of a PE32 header.
    let directories = match head.get(optional..)?.first_chunk()? {
        [0x0b, 0x02] => optional + 112,
        [0x0b, 0x01] => optional + 96,
        _ => return None,
    };
    let certificates = directories + 4 * 8;
    Some([optional + 64..optional + 68, certificates..certificates + 8])
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "lengths of small test data")]
mod tests;
