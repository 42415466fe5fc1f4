//! Files that a measurement needs and nobody else shall see.
//!
//! They have no name in any file system (`O_TMPFILE`, else `memfd_create`): other processes open
//! them as `/proc/PID/fd/N` of this process, and when it ends, however it ends, they are gone.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, memfd_create};

use super::BenchError;

/// How much is written at once.
const CHUNK: usize = 1 << 20;

/// A file without a name.
#[derive(Debug)]
pub struct Scratch {
    file: File,
}

impl Scratch {
    /// An empty file in memory: on `/dev/shm`, or where that is missing, a memfd.
    ///
    /// # Errors
    /// The host has neither.
    pub fn in_ram() -> Result<Scratch, BenchError> {
        let shm = Path::new("/dev/shm");
        match unnamed_in(shm) {
            Ok(file) => Ok(Scratch { file }),
            Err(_) => memfd().map(|file| Scratch { file }).map_err(|source| BenchError::File {
                what: "make a file in",
                path: shm.into(),
                source,
            }),
        }
    }

    /// An empty file on the file system of `folder`.
    ///
    /// # Errors
    /// That file system has no unnamed files, or the folder cannot be written.
    pub fn on_disk(folder: &Path) -> Result<Scratch, BenchError> {
        unnamed_in(folder).map(|file| Scratch { file }).map_err(|source| BenchError::File {
            what: "make a file in",
            path: folder.into(),
            source,
        })
    }

    /// A file in memory that holds `content`.
    ///
    /// # Errors
    /// No room.
    pub fn holding(content: &[u8]) -> Result<Scratch, BenchError> {
        let scratch = Scratch::in_ram()?;
        scratch.write(0, content)?;
        Ok(scratch)
    }

    /// Writes `content` at `offset`.
    ///
    /// # Errors
    /// No room.
    pub fn write(&self, offset: u64, content: &[u8]) -> Result<(), BenchError> {
        self.file.write_all_at(content, offset).map_err(|source| self.failed("write to", source))
    }

    /// Fills the `len` bytes from `offset` with words that differ from each other, so that no layer
    /// below may take them for zeroes, and hands them to the medium.
    ///
    /// # Errors
    /// No room.
    pub fn fill(&self, offset: u64, len: u64) -> Result<(), BenchError> {
        let mut chunk = vec![0u8; CHUNK];
        // An odd multiplier makes consecutive words differ in all their bytes.
        let mut word = 0x9E37_79B9_7F4A_7C15u64;
        let mut at = offset;
        let end = offset.saturating_add(len);
        while at < end {
            for bytes in chunk.chunks_exact_mut(8) {
                word = word.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
                bytes.copy_from_slice(&word.to_le_bytes());
            }
            let now = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            self.write(at, &chunk[..now])?;
            at += now as u64;
        }
        self.file.sync_data().map_err(|source| self.failed("write out", source))
    }

    /// Where other processes find the file while this process runs.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// The name that the memory map of a process shows for the file.
    pub fn mapped_name(&self) -> String {
        std::fs::read_link(self.path())
            .map_or_else(|_| String::new(), |path| path.display().to_string())
    }

    fn failed(&self, what: &'static str, source: io::Error) -> BenchError {
        BenchError::File { what, path: self.path(), source }
    }
}

fn unnamed_in(folder: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(folder)
}

fn memfd() -> io::Result<File> {
    Ok(File::from(memfd_create(c"cohort-bench", MemfdFlags::CLOEXEC)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_file_is_found_by_its_path_and_holds_what_was_written() {
        let scratch = Scratch::holding(b"abc").expect("memory has room");
        scratch.fill(4096, 10_000).expect("memory has room");
        let content = std::fs::read(scratch.path()).expect("the path opens");
        assert_eq!(content.len(), 14_096);
        assert_eq!(&content[..3], b"abc");
        assert!(content[4096..].chunks(512).all(|sector| sector.iter().any(|byte| *byte != 0)));
    }

    #[test]
    fn memfds_serve_as_well() {
        let scratch = Scratch { file: memfd().expect("the host has memfds") };
        scratch.write(1, b"x").expect("memory has room");
        assert_eq!(std::fs::read(scratch.path()).expect("the path opens"), b"\0x");
    }
}
