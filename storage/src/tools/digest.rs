//! BLAKE3 of all that a disk reads as.

use super::io::{DiskIo, PIECE, parts};
use super::map::{MapState, Places};
use super::{Progress, ToolError, step};
use crate::disk::Disk;
use crate::identity::Digest;
use crate::units::DiskRange;

/// The digest of the disk that `disk` has open. What is known to be zero is not read.
pub fn digest(disk: &Disk, progress: &dyn Progress) -> Result<Digest, ToolError> {
    let mut io = DiskIo::new(disk.path(), disk.clone())?;
    let places = Places::of(disk);
    let (size, zeroes) = (io.size(), vec![0; usize::try_from(PIECE).unwrap_or_default()]);
    let mut hasher = blake3::Hasher::new();
    let mut entries = Vec::new();
    for part in DiskRange::new(0, size).into_iter().flat_map(|all| parts(all, PIECE)) {
        step(progress, part.start(), size)?;
        entries.clear();
        places.entries(&io, part, &mut entries)?;
        if entries.iter().all(|entry| entry.state == MapState::Zero) {
            hasher.update(&zeroes[..usize::try_from(part.len()).unwrap_or_default()]);
        } else {
            hasher.update(io.read(part)?);
        }
    }
    step(progress, size, size)?;
    Ok(Digest(*hasher.finalize().as_bytes()))
}
