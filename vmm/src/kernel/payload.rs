//! A bzImage's payload: the vmlinux that the kernel's own decompressor would unpack in the guest.
//!
//! Linux builds it with `gzip`, `xz`, `lz4 -l`, `zstd` or `lzma`. Its last four bytes are always the
//! size of the vmlinux: gzip has them in its trailer, the others get them appended.

use std::io::{self, Read, Write};

use liblzma::read::XzDecoder;
use liblzma::stream::Stream;
use linux_loader::elf::ELFMAG;
use thiserror::Error;

/// Larger kernels than this are refused: x86-64 Linux maps at most 1 GiB of itself.
const SIZE_MAX: u64 = 1 << 30;
/// How much is decompressed at a time.
const CHUNK: usize = 256 << 10;
/// The legacy LZ4 frame's magic number, and the size of its blocks before compression.
const LZ4_MAGIC: u32 = 0x184c_2102;
const LZ4_BLOCK: usize = 8 << 20;
/// Memory that an xz or lzma decoder may use. Linux compresses with dictionaries up to 128 MiB.
const XZ_MEMORY: u64 = 256 << 20;
/// log2 of the largest zstd window. Linux compresses with windows of 128 MiB.
const ZSTD_WINDOW_LOG: u32 = 27;

/// How a payload is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Gzip,
    Xz,
    Lz4,
    Zstd,
    Lzma,
}

/// What is wrong with a payload.
#[derive(Debug, Error)]
pub enum PayloadError {
    /// The compressed data is damaged.
    #[error("its {format} payload is damaged")]
    Damaged {
        /// The compression.
        format: &'static str,
        /// What the decompressor said.
        source: io::Error,
    },
    /// The payload does not decompress to as much as its last four bytes say.
    #[error("its {format} payload decompresses to {} bytes, but should have {stated}", match .actual { Some(actual) => actual.to_string(), None => format!("more than {stated}") })]
    Size {
        /// The compression.
        format: &'static str,
        /// What the payload's last four bytes say.
        stated: u64,
        /// What there was; `None` if there was more than stated.
        actual: Option<u64>,
    },
    /// The payload claims an absurd size.
    #[error(
        "its {format} payload claims to be {stated} bytes decompressed, more than any kernel has"
    )]
    TooLarge {
        /// The compression.
        format: &'static str,
        /// What the payload's last four bytes say.
        stated: u64,
    },
    /// What comes out is no kernel.
    #[error("its {format} payload does not decompress to an ELF kernel")]
    NotElf {
        /// The compression.
        format: &'static str,
    },
    /// The decompressed kernel cannot be stored.
    #[error("the decompressed kernel cannot be written")]
    Write(#[source] io::Error),
}

impl PayloadError {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            PayloadError::Write(_) => None,
            _ => Some("the file is damaged: copy or build it again".to_owned()),
        }
    }
}

impl Format {
    /// Recognises a payload by its first bytes. bzip2, LZO and what is yet to come are left to the
    /// kernel's own decompressor.
    pub(super) fn of(payload: &[u8]) -> Option<Format> {
        match payload {
            [0x1f, 0x8b, ..] => Some(Format::Gzip),
            [0xfd, b'7', ..] => Some(Format::Xz),
            [0x02, 0x21, ..] => Some(Format::Lz4),
            [0x28, 0xb5, ..] => Some(Format::Zstd),
            [0x5d, 0x00, ..] => Some(Format::Lzma),
            _ => None,
        }
    }

    /// Whether damage shows when the payload is decompressed.
    pub(super) fn has_checksum(self) -> bool {
        !matches!(self, Format::Lz4 | Format::Lzma)
    }

    fn name(self) -> &'static str {
        match self {
            Format::Gzip => "gzip",
            Format::Xz => "xz",
            Format::Lz4 => "lz4",
            Format::Zstd => "zstd",
            Format::Lzma => "lzma",
        }
    }
}

/// Decompresses a payload, which must be an ELF file, into `out`. No more is written, and no more memory used, than a kernel
/// of the stated size justifies.
pub(super) fn decompress(
    format: Format,
    payload: &[u8],
    out: &mut dyn Write,
) -> Result<u64, PayloadError> {
    let Some((body, stated)) = payload.split_last_chunk() else {
        let source = io::ErrorKind::UnexpectedEof.into();
        return Err(PayloadError::Damaged { format: format.name(), source });
    };
    let stated = u64::from(u32::from_le_bytes(*stated));
    if stated > SIZE_MAX {
        return Err(PayloadError::TooLarge { format: format.name(), stated });
    }
    let mut sink = Sink { format, out, stated, written: 0, magic: Vec::new() };
    let damaged = |source| PayloadError::Damaged { format: format.name(), source };
    match format {
        // The size is a part of gzip's own trailer.
        Format::Gzip => sink.copy(flate2::bufread::GzDecoder::new(payload))?,
        Format::Xz => {
            let stream = Stream::new_stream_decoder(XZ_MEMORY, 0);
            let stream = stream.map_err(|source| damaged(source.into()))?;
            sink.copy(XzDecoder::new_stream(body, stream))?;
        }
        Format::Lzma => {
            let stream = Stream::new_lzma_decoder(XZ_MEMORY);
            let stream = stream.map_err(|source| damaged(source.into()))?;
            sink.copy(XzDecoder::new_stream(body, stream))?;
        }
        Format::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(body).map_err(damaged)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(damaged)?;
            sink.copy(decoder.single_frame())?;
        }
        Format::Lz4 => lz4_legacy(body, &mut sink)?,
    }
    sink.finish()
}

/// Takes what a decompressor gives, up to the stated size.
struct Sink<'a> {
    format: Format,
    out: &'a mut dyn Write,
    stated: u64,
    written: u64,
    /// The first bytes.
    magic: Vec<u8>,
}

impl Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), PayloadError> {
        self.written = self.written.saturating_add(bytes.len() as u64);
        if self.written > self.stated {
            return Err(self.wrong_size(None));
        }
        let missing = ELFMAG.len() - self.magic.len();
        self.magic.extend(bytes.iter().take(missing));
        self.out.write_all(bytes).map_err(PayloadError::Write)
    }

    fn copy(&mut self, mut from: impl Read) -> Result<(), PayloadError> {
        let mut chunk = vec![0; CHUNK];
        loop {
            match from.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(len) => self.write(&chunk[..len])?,
                Err(source) if source.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.damaged(source)),
            }
        }
    }

    fn finish(self) -> Result<u64, PayloadError> {
        if self.written != self.stated {
            return Err(self.wrong_size(Some(self.written)));
        }
        if self.magic != ELFMAG {
            return Err(PayloadError::NotElf { format: self.format.name() });
        }
        Ok(self.written)
    }

    fn damaged(&self, source: io::Error) -> PayloadError {
        PayloadError::Damaged { format: self.format.name(), source }
    }

    fn wrong_size(&self, actual: Option<u64>) -> PayloadError {
        PayloadError::Size { format: self.format.name(), stated: self.stated, actual }
    }
}

/// The legacy LZ4 frame: a magic number, then blocks, each behind its compressed length, each
/// but the last 8 MiB long when decompressed. There is no end mark and no checksum.
fn lz4_legacy(mut body: &[u8], sink: &mut Sink<'_>) -> Result<(), PayloadError> {
    let cut_off = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let mut block = vec![0; LZ4_BLOCK];
    while !body.is_empty() {
        let (word, rest) = body.split_first_chunk().ok_or_else(|| sink.damaged(cut_off()))?;
        let word = u32::from_le_bytes(*word);
        body = rest;
        // At the start, and between frames where several are joined.
        if word == LZ4_MAGIC {
            continue;
        }
        let (compressed, rest) = usize::try_from(word)
            .ok()
            .and_then(|len| body.split_at_checked(len))
            .ok_or_else(|| sink.damaged(cut_off()))?;
        body = rest;
        let len = lz4_flex::block::decompress_into(compressed, &mut block)
            .map_err(|error| sink.damaged(io::Error::new(io::ErrorKind::InvalidData, error)))?;
        sink.write(&block[..len])?;
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "lengths of small test data")]
mod tests;
