//! Compressed clusters, which can only be read.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use super::{damaged, index};
use crate::formats::FormatError;
use crate::image::ImageFile;

/// Bytes of decompressed clusters that are kept: small reads come one after the other.
const KEPT: u64 = 8 << 20;

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

/// The clusters that were decompressed last, by their number as the guest counts.
#[derive(Debug, Default)]
pub(super) struct Decompressed(Mutex<VecDeque<(u64, Arc<[u8]>)>>);

impl Decompressed {
    /// A cluster, if it is kept.
    pub(super) fn get(&self, cluster: u64) -> Option<Arc<[u8]>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|(number, _)| *number == cluster).map(|(_, bytes)| Arc::clone(bytes))
    }

    /// Keeps a cluster, and lets the oldest go.
    pub(super) fn put(&self, cluster: u64, bytes: &Arc<[u8]>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while kept.len() >= index(KEPT / bytes.len().max(1) as u64).clamp(1, 128) {
            kept.pop_front();
        }
        kept.push_back((cluster, Arc::clone(bytes)));
    }

    /// Forgets a cluster, which is not what it was.
    pub(super) fn forget(&self, cluster: u64) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(number, _)| *number != cluster);
    }
}
