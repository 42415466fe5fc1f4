//! Compressed clusters, which can only be read.

use std::io::{self, Read};

use super::map::Map;
use super::{damaged, index};
use crate::formats::FormatError;

impl Map {
    /// The bytes of a cluster whose stream starts at `at` and has at most `len` bytes.
    pub(super) fn decompress(&self, at: u64, len: u64) -> Result<Vec<u8>, FormatError> {
        // The length counts whole sectors, and the last one need not be there in full.
        let len = len.min(self.refcounts.file_len.saturating_sub(at));
        let mut stream = vec![0; index(len)];
        self.image.read_at(&mut stream, at).map_err(FormatError::host("read", at))?;
        let mut bytes = vec![0; index(self.header.cluster())];
        let result = if self.header.zstd {
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
