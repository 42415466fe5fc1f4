//! A layer's file, as its format reads and writes metadata in it: positional, buffered, waiting.
//!
//! Payload does not come this way: an engine carries it. Everything that changes a file passes
//! through here or through an engine, so a test can record both and replay a crash.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};

#[cfg(test)]
use self::fault::{Call, Fault, Faults};
#[cfg(test)]
use crate::crash::{Change, Recorder};
use crate::engine::sys;
use crate::file;
use crate::lock::ImageLock;
use crate::transfer::SpaceChange;

#[cfg(test)]
pub(crate) mod fault;

/// An open file that holds a layer.
#[derive(Debug)]
pub(crate) struct ImageFile {
    file: File,
    path: PathBuf,
    writable: bool,
    /// Given up with the file.
    lock: Option<ImageLock>,
    /// The error of a sync here that no flush has told of; 0: none.
    failed_sync: AtomicI32,
    #[cfg(test)]
    recorder: Option<Recorder>,
    #[cfg(test)]
    faults: Option<Faults>,
}

impl Drop for ImageFile {
    /// Gives the lock up now: a ring that is being torn down may keep the file open for a while.
    fn drop(&mut self) {
        if let Some(lock) = self.lock.take() {
            lock.release(&self.file);
        }
    }
}

impl ImageFile {
    /// Takes a file that was opened without `O_DIRECT`; `path` is what messages call it.
    pub(crate) fn new(file: File, path: &Path, writable: bool) -> ImageFile {
        ImageFile {
            file,
            path: path.to_owned(),
            writable,
            lock: None,
            failed_sync: AtomicI32::new(0),
            #[cfg(test)]
            recorder: Recorder::installed(),
            #[cfg(test)]
            faults: Faults::installed().filter(|_| writable),
        }
    }

    /// Keeps the lock that was taken on the file.
    pub(crate) fn locked(mut self, lock: Option<ImageLock>) -> ImageFile {
        self.lock = lock;
        self
    }

    /// The file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The name by which messages call it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it was opened for writing.
    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    /// Bytes in the file.
    pub(crate) fn len(&self) -> io::Result<u64> {
        // A block device has its size at its end, not in its metadata.
        let facts = self.file.metadata()?;
        if facts.is_file() {
            Ok(facts.len())
        } else {
            io::Seek::seek(&mut &self.file, io::SeekFrom::End(0))
        }
    }

    /// Fills `bytes` from the file at `at`; a file that ends before is an error of kind
    /// [`io::ErrorKind::UnexpectedEof`].
    pub(crate) fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, at)
    }

    /// Writes all of `bytes` at `at`.
    pub(crate) fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        #[cfg(test)]
        if let Some(fault) = self.fault(Call::Write) {
            let bytes = fault.part(at, bytes);
            self.record(Change::Write { at, bytes: bytes.to_vec() });
            self.file.write_all_at(bytes, at)?;
            return Err(fault.error(Call::Write));
        }
        #[cfg(test)]
        self.record(Change::Write { at, bytes: bytes.to_vec() });
        self.file.write_all_at(bytes, at)
    }

    /// Changes the file's length.
    pub(crate) fn set_len(&self, len: u64) -> io::Result<()> {
        #[cfg(test)]
        self.change(Call::SetLen, Change::SetLen(len))?;
        self.file.set_len(len)
    }

    /// Takes space for a range within the file that will be written later, so that this cannot fail
    /// for want of space. Where the file system cannot do that, does nothing.
    pub(crate) fn reserve(&self, at: u64, len: u64) -> io::Result<()> {
        const ALLOCATE: libc::c_int = 0;
        #[cfg(test)]
        self.may(Call::Reserve)?;
        match sys::fallocate(&self.file, ALLOCATE, at, len) {
            Err(error) if file::is_refusal(&error) => Ok(()),
            result => result,
        }
    }

    /// Makes a range of the file read as zeroes, giving its space back where the file system can.
    pub(crate) fn punch(&self, at: u64, len: u64) -> io::Result<()> {
        #[cfg(test)]
        self.change(Call::Punch, Change::Punch { at, len })?;
        let mode = SpaceChange::Punch { for_zeroes: true }.mode();
        match sys::fallocate(&self.file, mode, at, len) {
            Err(error) if file::is_refusal(&error) => self.write_zeroes(at, len),
            result => result,
        }
    }

    fn write_zeroes(&self, at: u64, len: u64) -> io::Result<()> {
        const PIECE: u64 = 1 << 20;
        let zeroes = vec![0; usize::try_from(len.min(PIECE)).unwrap_or_default()];
        let mut done = 0;
        while done < len {
            let count = usize::try_from((len - done).min(PIECE)).unwrap_or(zeroes.len());
            self.file.write_all_at(&zeroes[..count], at + done)?;
            done += count as u64;
        }
        Ok(())
    }

    /// Makes all that was written durable (`fdatasync`).
    pub(crate) fn sync(&self) -> io::Result<()> {
        let sync = || {
            #[cfg(test)]
            self.change(Call::Sync, Change::Sync)?;
            self.file.sync_data()
        };
        match sync() {
            // File systems that are never written to (squashfs, EROFS) do not know this call.
            Err(error) if !self.writable && error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            result => result.inspect_err(|error| self.note_failed_sync(error)),
        }
    }

    /// Changes the times of a file to now, durably.
    pub(crate) fn renew_times(&self) -> io::Result<()> {
        // A device keeps times of its node, which say nothing of what is on it; the kernel counts
        // what is written to it.
        if !self.file.metadata()?.is_file() {
            return Ok(());
        }
        #[cfg(test)]
        self.change(Call::Renew, Change::Renew)?;
        sys::renew_times(&self.file)?;
        self.sync_all()
    }

    /// Makes all that was written durable, and the file's times (`fsync`).
    pub(crate) fn sync_all(&self) -> io::Result<()> {
        let sync = || {
            #[cfg(test)]
            self.change(Call::SyncAll, Change::SyncAll)?;
            self.file.sync_all()
        };
        sync().inspect_err(|error| self.note_failed_sync(error))
    }

    fn note_failed_sync(&self, error: &io::Error) {
        self.failed_sync.store(error.raw_os_error().unwrap_or(libc::EIO), Ordering::Release);
    }

    /// The error of a sync by the format since this was last asked. The kernel may have dropped
    /// what it could not write, payload too, and tells of it once: the next sync finds nothing
    /// amiss.
    pub(crate) fn take_failed_sync(&self) -> io::Result<()> {
        match self.failed_sync.swap(0, Ordering::AcqRel) {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Appends the parts of `at..at + len` that hold written bytes, in order: neither holes nor
    /// space that was allocated and never written. What is in the page cache only counts as
    /// written where the file was synced before, or where the file system has no such space.
    pub(crate) fn written(&self, at: u64, len: u64, out: &mut Vec<(u64, u64)>) -> io::Result<()> {
        sys::written_ranges(&self.file, at, len, out)
    }

    #[cfg(test)]
    fn record(&self, change: Change) {
        if let Some(recorder) = &self.recorder {
            recorder.push(&self.path, change);
        }
    }

    /// How a call is to fail, if it is.
    #[cfg(test)]
    fn fault(&self, call: Call) -> Option<Fault> {
        let time = self.recorder.as_ref().map_or(0, Recorder::len);
        self.faults.as_ref()?.next(call, time)
    }

    /// Whether a call is let through.
    #[cfg(test)]
    fn may(&self, call: Call) -> io::Result<()> {
        self.fault(call).map_or(Ok(()), |fault| Err(fault.error(call)))
    }

    /// Takes note of the change that a call makes, if it is let through.
    #[cfg(test)]
    fn change(&self, call: Call, change: Change) -> io::Result<()> {
        self.may(call)?;
        self.record(change);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As on squashfs, this file has no operation to sync it.
    #[test]
    fn where_nothing_can_be_written_there_is_nothing_to_sync() {
        let path = Path::new("/proc/self/status");
        let file = File::open(path).unwrap();
        assert_eq!(file.sync_data().unwrap_err().kind(), io::ErrorKind::InvalidInput);
        ImageFile::new(file, path, false).sync().unwrap();
    }
}
