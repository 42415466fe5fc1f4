//! Compressed clusters, which can only be read.

use std::io::{self, Read};

use super::{damaged, index};
use crate::formats::FormatError;
use crate::image::ImageFile;

/// How to decompress an image's clusters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Codec {
    /// zstd, or else deflate.
    pub(super) zstd: bool,
    /// Bytes of a cluster.
    pub(super) cluster: u64,
}

impl Codec {
    /// The bytes of a cluster whose stream starts at `at` and has at most `len` bytes.
    pub(super) fn decompress(
        self,
        image: &ImageFile,
        at: u64,
        len: u64,
    ) -> Result<Vec<u8>, FormatError> {
        // The length counts whole sectors, and the last one need not be there in full.
        let end = image.len().map_err(FormatError::host("find the size of", at))?;
        let mut stream = vec![0; index(len.min(end.saturating_sub(at)))];
        image.read_at(&mut stream, at).map_err(FormatError::host("read", at))?;
        let mut bytes = vec![0; index(self.cluster)];
        let result = if self.zstd {
            zstd_into(&stream, &mut bytes)
        } else {
            flate2::read::DeflateDecoder::new(&stream[..]).read_exact(&mut bytes)
        };
        match result {
            Ok(()) => Ok(bytes),
            Err(error) => Err(damaged(at, format!("a compressed cluster: {error}"))),
        }
    }
}

fn zstd_into(stream: &[u8], bytes: &mut [u8]) -> io::Result<()> {
    zstd::stream::read::Decoder::with_buffer(stream)?.single_frame().read_exact(bytes)
}
