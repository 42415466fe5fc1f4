//! Bytes that no engine carries: what a layer takes over from its parents, and what it keeps in a
//! form of its own. The queue's thread waits for them; they are rare where they matter.

use crate::disk::DiskState;
use crate::error::IoError;
use crate::file::BackingFile;
use crate::layer::{Extent, FileId, Source};
use crate::units::{DiskRange, FileOffset};

/// Bytes that are copied at a time.
const PIECE: u64 = 256 << 10;

/// Puts into `file` at `at` what `range` reads as without the top layer.
pub(super) fn copy_up(
    disk: &DiskState,
    range: DiskRange,
    file: FileId,
    at: FileOffset,
) -> Result<(), IoError> {
    let (mut extents, mut bytes, mut done) = (Vec::new(), Vec::new(), 0);
    while done < range.len() {
        let len = PIECE.min(range.len() - done);
        let Some(piece) = DiskRange::new(range.start() + done, len) else { break };
        extents.clear();
        disk.chain.resolve_below(piece, &mut extents)?;
        bytes.clear();
        for extent in &extents {
            append(disk, extent, &mut bytes)?;
        }
        let offset = at.get() + done;
        let image = disk.files[usize::from(file.0)].image();
        image.write_at(&bytes, offset).map_err(|source| IoError::Host {
            operation: "write (copy-up)",
            offset,
            source,
        })?;
        done += len;
    }
    Ok(())
}

/// Appends what an extent holds.
fn append(disk: &DiskState, extent: &Extent, bytes: &mut Vec<u8>) -> Result<(), IoError> {
    let start = bytes.len();
    bytes.resize(start + usize::try_from(extent.range.len()).unwrap_or_default(), 0);
    let bytes = &mut bytes[start..];
    match extent.source {
        Source::Zero | Source::Transparent => Ok(()),
        Source::Encoded { layer } => Ok(disk.chain.read_encoded(layer, extent.range, bytes)?),
        Source::Data { file, offset } => {
            read(&disk.files[usize::from(file.0)], offset.get(), bytes)
        }
    }
}

/// Reads through the page cache.
pub(super) fn read(file: &BackingFile, at: u64, bytes: &mut [u8]) -> Result<(), IoError> {
    file.image().read_at(bytes, at).map_err(|source| match source.kind() {
        std::io::ErrorKind::UnexpectedEof => IoError::UnexpectedEnd { offset: at },
        _ => IoError::Host { operation: "read (through the page cache)", offset: at, source },
    })
}
