//! The content of a file in pages that are not the file's: where nobody can change it, or where
//! nobody else sees which of it are in use.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};

use super::{FileIdentity, ShareError, SharedRegion};

/// Bytes that are copied at a time.
const CHUNK: usize = 1 << 20;
/// What keeps everybody from changing a memfd.
const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// A copy of the content in memory that nobody can change: a memfd with seals. Its identity is
/// that of the file, with the content's digest.
///
/// # Errors
/// The file cannot be read to the end, or there is no room.
pub fn sealed_copy(of: &SharedRegion) -> Result<Arc<SharedRegion>, ShareError> {
    let copy = in_memory(of, true)?;
    let digest = fill(&copy, of).map_err(ShareError::host("copy", of.path()))?;
    fcntl_add_seals(&copy, SEALS).map_err(|error| cannot_seal(of, error))?;
    let identity = FileIdentity { digest: Some(digest), ..of.identity().clone() };
    SharedRegion::of(copy, of.path().to_path_buf(), identity, None)
}

/// A sealed copy that another process made of the file `path` with this identity.
///
/// # Errors
/// It lacks seals, or has another size.
pub fn from_sealed(
    copy: OwnedFd,
    path: PathBuf,
    identity: FileIdentity,
) -> Result<Arc<SharedRegion>, ShareError> {
    let copy = File::from(copy);
    let has_size = copy.metadata().is_ok_and(|metadata| metadata.len() == identity.size);
    if !has_size || !fcntl_get_seals(&copy).is_ok_and(|seals| seals.contains(SEALS)) {
        return Err(ShareError::NotSealed(path));
    }
    SharedRegion::of(copy, path, identity, None)
}

/// A copy of the content in pages of its own, for a guest that must not share any with others who
/// use the file: in a file without a name that shares the blocks, where the file system can do
/// that (they are in the page cache once for each file), else in memory.
///
/// # Errors
/// The file cannot be read to the end, or there is no room.
pub fn private_copy(of: &SharedRegion) -> Result<Arc<SharedRegion>, ShareError> {
    let copy = match reflink(of) {
        Some(copy) => copy,
        None => {
            let copy = in_memory(of, false)?;
            fill(&copy, of).map_err(ShareError::host("copy", of.path()))?;
            copy
        }
    };
    SharedRegion::new(copy, of.path().to_path_buf(), None)
}

fn in_memory(of: &SharedRegion, sealable: bool) -> Result<File, ShareError> {
    let mut flags = MemfdFlags::CLOEXEC;
    if sealable {
        flags |= MemfdFlags::ALLOW_SEALING;
    }
    let cannot = ShareError::host("make room in memory for", of.path());
    // Kernels before 6.3 do not know the flag against execution, which a later one may insist on.
    let made = memfd_create(c"cohort-copy", flags | MemfdFlags::NOEXEC_SEAL)
        .or_else(|_| memfd_create(c"cohort-copy", flags));
    Ok(File::from(made.map_err(|error| cannot(error.into()))?))
}

fn cannot_seal(of: &SharedRegion, error: rustix::io::Errno) -> ShareError {
    ShareError::host("seal a copy of", of.path())(error.into())
}

/// Another name for the blocks of the file, in a file without a name beside it.
fn reflink(of: &SharedRegion) -> Option<File> {
    use rustix::fs::{Mode, OFlags, ioctl_ficlone, open};
    let folder = of.path().parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(std::path::Path::new("."));
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let copy = open(folder, flags, Mode::RUSR | Mode::WUSR).ok()?;
    ioctl_ficlone(&copy, of.file()).ok()?;
    Some(copy.into())
}

/// Copies the content, holes as holes; its digest.
fn fill(copy: &File, of: &SharedRegion) -> io::Result<String> {
    let (size, mut from) = (of.len(), of.file());
    copy.set_len(size)?;
    let mut digest = blake3::Hasher::new();
    let mut buffer = vec![0; CHUNK];
    let zeroes = vec![0; CHUNK];
    let mut at = 0;
    while at < size {
        // A file system that does not know of holes says that all of it is data.
        let data = match from.seek(SeekFrom::Start(at)).and_then(|_| seek_data(from, at)) {
            Ok(data) => data.min(size),
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => size,
            Err(_) => at,
        };
        while at < data {
            let now = chunk(data - at);
            digest.update(zeroes.get(..now).unwrap_or_default());
            at += now as u64;
        }
        if at >= size {
            break;
        }
        let now = chunk(size - at);
        let part = buffer.get_mut(..now).unwrap_or_default();
        of.file().read_exact_at(part, at)?;
        copy.write_all_at(part, at)?;
        digest.update(part);
        at += now as u64;
    }
    Ok(digest.finalize().to_hex().to_string())
}

fn seek_data(file: &File, at: u64) -> io::Result<u64> {
    Ok(rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at))?)
}

fn chunk(left: u64) -> usize {
    usize::try_from(left).unwrap_or(CHUNK).min(CHUNK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn region(content: &[u8]) -> (tempfile::NamedTempFile, Arc<SharedRegion>) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        let opened = File::open(file.path()).unwrap();
        let region = SharedRegion::new(opened, file.path().to_path_buf(), None).unwrap();
        (file, region)
    }

    fn content(region: &SharedRegion) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(region.len()).unwrap()];
        region.file().read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn a_sealed_copy_stays_as_it_is() {
        let bytes: Vec<u8> = (0..3_000_001u32).map(|at| (at % 251) as u8).collect();
        let (file, region) = region(&bytes);
        let sealed = sealed_copy(&region).unwrap();
        file.as_file().set_len(0).unwrap();
        assert_eq!(content(&sealed), bytes);
        let digest = blake3::hash(&bytes).to_hex().to_string();
        assert_eq!(sealed.identity().digest.as_deref(), Some(digest.as_str()));
        assert!(sealed.identity().is_same_file(region.identity()));
        assert!(sealed.file().write_at(b"x", 0).is_err());
        assert!(sealed.file().set_len(0).is_err());
        assert_eq!(sealed.check().unwrap(), None);
        // What another process hands over is believed only with its seals.
        let again = sealed.file().try_clone().unwrap().into();
        from_sealed(again, file.path().into(), sealed.identity().clone()).unwrap();
        let open = File::open(file.path()).unwrap().into();
        let refused = from_sealed(open, file.path().into(), sealed.identity().clone());
        assert!(matches!(refused, Err(ShareError::NotSealed(_))));
    }

    #[test]
    fn holes_stay_holes() {
        let (file, _) = region(b"");
        file.as_file().set_len(64 << 20).unwrap();
        file.as_file().write_all_at(b"here", 32 << 20).unwrap();
        let region = SharedRegion::new(file.reopen().unwrap(), file.path().into(), None).unwrap();
        let sealed = sealed_copy(&region).unwrap();
        assert_eq!(content(&sealed), content(&region));
        let digest = blake3::hash(&content(&region)).to_hex().to_string();
        assert_eq!(sealed.identity().digest.as_deref(), Some(digest.as_str()));
    }

    #[test]
    fn a_private_copy_is_another_file_with_the_same_content() {
        let (_file, region) = region(&[7; 10_000]);
        let copy = private_copy(&region).unwrap();
        assert_eq!(content(&copy), content(&region));
        assert!(!copy.identity().is_same_file(region.identity()));
    }

    #[test]
    fn a_file_that_shrinks_meanwhile_is_an_error() {
        let (file, region) = region(&[7; 10_000]);
        file.as_file().set_len(10).unwrap();
        assert!(sealed_copy(&region).is_err());
        assert!(private_copy(&region).is_err());
    }
}
