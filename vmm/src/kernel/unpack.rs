//! From a bzImage to the vmlinux inside it, by way of the cache.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use super::bzimage::BzImage;
use super::cache::{Cache, Identity};
use super::content::Content;
use super::error::KernelError;
use super::payload::{self, Format, PayloadError};

/// The payload of a larger bzImage is left to its own decompressor rather than read into memory.
const IMAGE_MAX: u64 = 512 << 20;

/// The vmlinux of a bzImage; `None` if its payload is of a kind that only the image's own
/// decompressor, in the guest, can unpack.
pub(super) fn vmlinux(
    name: &str,
    content: &Content,
    image: &BzImage,
    cache: Option<&Cache>,
) -> Result<Option<Content>, KernelError> {
    let read = |source| KernelError::Read { kernel: name.to_owned(), source };
    let Content::File { file, .. } = content else { return Ok(None) };
    let Some((format, payload)) = recognise(content, image).map_err(read)? else {
        image
            .check_entry()
            .map_err(|source| KernelError::BzImage { kernel: name.to_owned(), source })?;
        tracing::debug!(kernel = name, "payload left to the image's own decompressor");
        return Ok(None);
    };
    let identity = Identity::of(file).map_err(read)?;
    if let Some(vmlinux) = cache.and_then(|cache| cache.get(&cache.digest_of(&identity)?)) {
        return Content::of(vmlinux).map(Some).map_err(read);
    }

    let bytes = read_all(content).map_err(read)?;
    let payload = usize::try_from(payload.start)
        .ok()
        .zip(usize::try_from(payload.end).ok())
        .and_then(|(start, end)| bytes.get(start..end));
    let unchanged = Identity::of(file).map_err(read)? == identity;
    let (Some(payload), true) = (payload, unchanged) else {
        return Err(KernelError::Changed { kernel: name.to_owned() });
    };
    if !format.has_checksum() {
        image
            .check_sum(&bytes)
            .map_err(|source| KernelError::BzImage { kernel: name.to_owned(), source })?;
    }
    let damaged = |source| KernelError::Payload { kernel: name.to_owned(), source };
    if let Some(cache) = cache {
        let digest = blake3::hash(&bytes);
        let build = |out: &mut dyn Write| payload::decompress(format, payload, out);
        match cache.get_or_build(&digest, build) {
            Ok(vmlinux) => {
                cache.remember(&identity, &digest);
                return Content::of(vmlinux).map(Some).map_err(read);
            }
            Err(PayloadError::Write(error)) => {
                tracing::debug!(kernel = name, %error, "cache cannot be used, decompressing to memory");
            }
            Err(source) => return Err(damaged(source)),
        }
    } else {
        tracing::debug!(kernel = name, "no cache, decompressing to memory");
    }
    let vmlinux = in_memory(format, payload).map_err(damaged)?;
    Content::of(vmlinux).map(Some).map_err(read)
}

/// The payload's format and place; `None` if it cannot be used here.
fn recognise(content: &Content, image: &BzImage) -> io::Result<Option<(Format, Range<u64>)>> {
    let Some(payload) = image.payload() else { return Ok(None) };
    let mut magic = [0; 4];
    if payload.end - payload.start < magic.len() as u64 || content.len() > IMAGE_MAX {
        return Ok(None);
    }
    content.read_at(&mut magic, payload.start)?;
    Ok(Format::of(&magic).map(|format| (format, payload)))
}

fn read_all(content: &Content) -> io::Result<Vec<u8>> {
    let len = usize::try_from(content.len()).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    content.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Decompresses into a file that exists in memory only and cannot be changed any more.
fn in_memory(format: Format, payload: &[u8]) -> Result<File, PayloadError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let write = |error: rustix::io::Errno| PayloadError::Write(error.into());
    let mut file = File::from(memfd_create("cohort-vmlinux", flags).map_err(write)?);
    payload::decompress(format, payload, &mut file)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&file, seals).map_err(write)?;
    Ok(file)
}
