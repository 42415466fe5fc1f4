//! What a file is, whatever it is called.
#![expect(unsafe_code, reason = "an ioctl that has no wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

/// What tells one state of one file from others: the same values, the same content, unless
/// somebody writes through a mapping and never closes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    /// Number of the device that its file system is on.
    pub device: u64,
    /// Its number in the file system.
    pub inode: u64,
    /// How often that number was given away before, where the file system counts it
    /// (`FS_IOC_GETVERSION`).
    pub generation: Option<u32>,
    /// Bytes.
    pub size: u64,
    /// Last change of the content: seconds since 1970, nanoseconds.
    pub modified: (i64, i64),
    /// Last change of anything.
    pub changed: (i64, i64),
    /// BLAKE3 of the content in hexadecimal digits, where it is known.
    pub digest: Option<String>,
}

impl FileIdentity {
    /// That of an open file, now.
    ///
    /// # Errors
    /// The host does not tell.
    pub fn of(file: &File) -> io::Result<FileIdentity> {
        let metadata = file.metadata()?;
        Ok(FileIdentity {
            device: metadata.dev(),
            inode: metadata.ino(),
            generation: if metadata.is_file() { generation(file) } else { None },
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            digest: None,
        })
    }

    /// Whether both are one file, in whatever state.
    pub fn is_same_file(&self, other: &FileIdentity) -> bool {
        (self.device, self.inode, self.generation) == (other.device, other.inode, other.generation)
    }

    /// Whether both are one content, as far as this tells: a digest decides where both have one.
    /// Names, links and permissions do not count.
    pub fn is_same_content(&self, other: &FileIdentity) -> bool {
        match (&self.digest, &other.digest) {
            (Some(one), Some(other)) => one == other,
            _ => {
                self.is_same_file(other)
                    && (self.size, self.modified) == (other.size, other.modified)
            }
        }
    }
}

fn generation(file: &File) -> Option<u32> {
    /// `_IOR('v', 1, long)`; what is written is an `int` (`ioctl_fs`).
    const FS_IOC_GETVERSION: libc::c_ulong = 0x8008_7601;
    let mut version: libc::c_long = 0;
    // SAFETY: the kernel writes at most a `long` to where the pointer says.
    let got = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_GETVERSION, &raw mut version) };
    // The upper half is not written, and 0.
    (got == 0).then_some(version).and_then(|version| u32::try_from(version).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_written_file_is_the_same_with_other_content() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"one").unwrap();
        let before = FileIdentity::of(&file).unwrap();
        assert!(before.is_same_content(&FileIdentity::of(&file).unwrap()));
        file.write_all(b"two").unwrap();
        let after = FileIdentity::of(&file).unwrap();
        assert!(before.is_same_file(&after) && !before.is_same_content(&after));
        let other = FileIdentity::of(&tempfile::tempfile().unwrap()).unwrap();
        assert!(!before.is_same_file(&other));
        // A digest decides, wherever the bytes are.
        let digest = |identity: &FileIdentity| FileIdentity {
            digest: Some("ab".into()),
            ..identity.clone()
        };
        assert!(digest(&before).is_same_content(&digest(&other)));
    }

    #[test]
    fn it_is_saved_and_read_back() {
        let identity = FileIdentity::of(&tempfile::tempfile().unwrap()).unwrap();
        let text = serde_json::to_string(&identity).unwrap();
        assert_eq!(serde_json::from_str::<FileIdentity>(&text).unwrap(), identity);
    }
}
