//! One disk, read and written from start to end by one thread that waits.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ToolError;
use crate::buffers::{AlignedBuffer, Buffers};
use crate::disk::{Disk, DiskOptions, EngineChoice};
use crate::error::{DiskError, IoError};
use crate::format::Format;
use crate::queue::DiskQueue;
use crate::request::{DiskRequest, Operation};
use crate::units::DiskRange;

/// Bytes that are moved at a time.
pub(super) const PIECE: u64 = 1 << 20;

/// A disk with a queue of its own.
pub(super) struct DiskIo {
    pub(super) path: PathBuf,
    pub(super) disk: Disk,
    queue: DiskQueue,
    memory: Arc<AlignedBuffer>,
}

/// How tools open a disk.
pub(super) fn options(format: Option<Format>, read_only: bool) -> DiskOptions {
    DiskOptions { read_only, format, engine: EngineChoice::Positional, ..DiskOptions::default() }
}

impl DiskIo {
    /// Opens the disk at `path` with its whole chain.
    pub(super) fn open(
        path: &Path,
        format: Option<Format>,
        read_only: bool,
    ) -> Result<DiskIo, DiskError> {
        let options = options(format, read_only);
        DiskIo::new(path, Disk::open(path, &options)?)
    }

    /// Takes a disk that was opened with [`options`].
    pub(super) fn new(path: &Path, disk: Disk) -> Result<DiskIo, DiskError> {
        let queue = disk.queue(1)?;
        let size = usize::try_from(PIECE).unwrap_or(usize::MAX);
        let memory = Arc::new(AlignedBuffer::new(size));
        Ok(DiskIo { path: path.to_owned(), disk, queue, memory })
    }

    /// Bytes of the disk.
    pub(super) fn size(&self) -> u64 {
        self.disk.size().get()
    }

    /// The bytes of a range of at most [`PIECE`] bytes.
    pub(super) fn read(&mut self, range: DiskRange) -> Result<&[u8], ToolError> {
        self.ask(Operation::Read, range, self.lent(range))?;
        Ok(self.bytes(range))
    }

    /// Stores `bytes`, at most [`PIECE`] of them.
    pub(super) fn write(&mut self, range: DiskRange, bytes: &[u8]) -> Result<(), ToolError> {
        self.bytes(range).copy_from_slice(bytes);
        self.ask(Operation::Write, range, self.lent(range))
    }

    /// Makes a range of any length read as zeroes.
    pub(super) fn zero(&mut self, range: DiskRange) -> Result<(), ToolError> {
        let most = self.disk.limits().max_write_zeroes.get().max(PIECE);
        let most = most - most % PIECE;
        for part in parts(range, most) {
            self.ask(Operation::WriteZeroes { unmap: true }, part, Buffers::none())?;
        }
        Ok(())
    }

    /// Makes everything durable and leaves the disk in order, as far as that can be done: nothing
    /// may be written any more, also after an error. The disk stays locked while it lives.
    pub(super) fn settle(&mut self) -> Result<(), ToolError> {
        let flushed = self.ask(Operation::Flush, DiskRange::EMPTY, Buffers::none());
        // What goes wrong is told here, and not once more when the disk goes.
        let closed = self.disk.state().chain.close().inspect_err(|_| self.abandon());
        flushed?;
        closed.map_err(|source| DiskError::Layer { path: self.path.clone(), source }.into())
    }

    /// Leaves the disk as it is, whose file is to be removed.
    pub(super) fn abandon(&self) {
        self.disk.state().chain.abandon();
    }

    /// A request that failed on this disk.
    pub(super) fn failed(&self, source: impl Into<IoError>) -> ToolError {
        ToolError::Io { path: self.path.clone(), source: source.into() }
    }

    /// The memory for a range; empty while the kernel has it, which it never has between calls.
    fn bytes(&mut self, range: DiskRange) -> &mut [u8] {
        let len = usize::try_from(range.len()).unwrap_or(usize::MAX);
        let bytes = Arc::get_mut(&mut self.memory).map(AlignedBuffer::bytes).unwrap_or_default();
        let len = len.min(bytes.len());
        &mut bytes[..len]
    }

    fn lent(&self, range: DiskRange) -> Buffers {
        Buffers::whole(&self.memory).split_to(range.len())
    }

    fn ask(
        &mut self,
        operation: Operation,
        range: DiskRange,
        buffers: Buffers,
    ) -> Result<(), ToolError> {
        let answer = match self.queue.submit(0, DiskRequest { operation, range, buffers }) {
            Some(answer) => answer,
            None => {
                let mut done = Vec::new();
                self.queue.drain(&mut done);
                done.pop().map_or(Ok(()), |(_, answer)| answer)
            }
        };
        answer.map_err(|source| self.failed(source))
    }
}

/// Cuts a range at multiples of `unit`.
pub(super) fn parts(range: DiskRange, unit: u64) -> impl Iterator<Item = DiskRange> {
    let mut at = range.start();
    std::iter::from_fn(move || {
        let end = (at - at % unit).saturating_add(unit).min(range.end());
        let part = DiskRange::new(at, end.checked_sub(at)?).filter(|part| !part.is_empty())?;
        at = end;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_at_multiples() {
        let cut = |start, len| -> Vec<(u64, u64)> {
            let range = DiskRange::new(start, len).unwrap();
            parts(range, 100).map(|part| (part.start(), part.end())).collect()
        };
        assert_eq!(cut(50, 200), [(50, 100), (100, 200), (200, 250)]);
        assert_eq!(cut(100, 100), [(100, 200)]);
        assert!(cut(100, 0).is_empty());
    }
}
