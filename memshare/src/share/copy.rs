//! The content of a file in pages that are not the file's: where nobody can change it, or where
//! nobody else sees which of it are in use.

use std::fs::File;
use std::io;
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
/// The file cannot be read to the end, was written to since it was opened, or there is no room.
pub fn sealed_copy(of: &SharedRegion) -> Result<Arc<SharedRegion>, ShareError> {
    let copy = in_memory(of, true)?;
    let digest = fill(&copy, of).map_err(ShareError::host("copy", of.path()))?;
    // Its identity says that it is the file as it was when it was opened.
    if let Some(changed) = of.check()? {
        let changed = io::Error::other(changed.to_string());
        return Err(ShareError::host("copy", of.path())(changed));
    }
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
            let digest = fill(&copy, of).map_err(ShareError::host("copy", of.path()))?;
            let identity =
                FileIdentity::of(&copy).map_err(ShareError::host("look at", of.path()))?;
            // By the digest, a record of it is found to be true while the file has this content.
            let identity = FileIdentity { digest: Some(digest), ..identity };
            return SharedRegion::of(copy, of.path().to_path_buf(), identity, None);
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
    let (size, from) = (of.len(), of.file());
    copy.set_len(size)?;
    let mut digest = blake3::Hasher::new();
    let mut buffer = vec![0; CHUNK];
    let zeroes = vec![0; CHUNK];
    let mut at = 0;
    while at < size {
        // A file system that does not know of holes says that all of it is data.
        let data = match seek_data(from, at) {
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
        // Where the file changes meanwhile, there may be a hole again.
        let hole = rustix::fs::seek(from, rustix::fs::SeekFrom::Hole(at));
        let end = hole.ok().filter(|hole| (at + 1..size).contains(hole)).unwrap_or(size);
        while at < end {
            let now = chunk(end - at);
            let part = buffer.get_mut(..now).unwrap_or_default();
            from.read_exact_at(part, at)?;
            copy.write_all_at(part, at)?;
            digest.update(part);
            at += now as u64;
        }
    }
    // What a file has lost looks like a hole at its end.
    if from.metadata()?.len() < size {
        return Err(io::ErrorKind::UnexpectedEof.into());
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
    fn scattered_data_does_not_fill_the_holes_between() {
        use std::os::unix::fs::MetadataExt;
        let (file, _) = region(b"");
        file.as_file().set_len(16 << 20).unwrap();
        for at in 0..32 {
            file.as_file().write_all_at(b"here", at << 19).unwrap();
        }
        file.as_file().sync_all().unwrap();
        let region = SharedRegion::new(file.reopen().unwrap(), file.path().into(), None).unwrap();
        let sealed = sealed_copy(&region).unwrap();
        assert_eq!(content(&sealed), content(&region));
        let (copy, original) =
            (sealed.file().metadata().unwrap(), region.file().metadata().unwrap());
        // A file system that knows of no holes has none to keep.
        if original.blocks() * 512 < 1 << 20 {
            assert!(copy.blocks() * 512 < 1 << 20, "{} bytes in use", copy.blocks() * 512);
        }
    }

    #[test]
    fn a_sealed_copy_cannot_be_mapped_for_writing() {
        let (file, region) = region(&[7; 5000]);
        let sealed = sealed_copy(&region).unwrap();
        let window = crate::Window::reserve("test", 8192, 4096).unwrap();
        let all = window.range(0, 8192).unwrap();
        let refused = window.map(all, &sealed, 0, crate::Access::Write);
        assert!(matches!(refused, Err(ShareError::Host { .. })), "{refused:?}");
        window.map(all, &sealed, 0, crate::Access::Read).unwrap();
        // What the guest has is known by the file that it is a copy of.
        let record = window.record(0);
        assert!(record[0].file.is_same_file(region.identity()) && record[0].path == file.path());
        assert!(sealed.file().set_len(1 << 20).is_err());
        let weaker = memfd_create(c"weaker", MemfdFlags::ALLOW_SEALING).unwrap();
        File::from(weaker.try_clone().unwrap()).set_len(5000).unwrap();
        fcntl_add_seals(&weaker, SEALS.difference(SealFlags::WRITE)).unwrap();
        let refused = from_sealed(weaker, file.path().into(), sealed.identity().clone());
        assert!(matches!(refused, Err(ShareError::NotSealed(_))));
        // As many bytes as it is said to have.
        let larger = FileIdentity { size: 5001, ..sealed.identity().clone() };
        let again = sealed.file().try_clone().unwrap().into();
        assert!(from_sealed(again, file.path().into(), larger).is_err());
    }

    #[test]
    fn a_file_that_was_written_to_is_not_copied_as_what_it_was() {
        let (file, region) = region(&[7; 10_000]);
        file.as_file().write_all_at(b"other", 0).unwrap();
        // The time is that of a clock that ticks slowly on older kernels.
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(2);
        file.as_file().set_modified(later).unwrap();
        let error = sealed_copy(&region).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("was written to"), "{source}");
        // A private copy does not say that it is the file.
        assert_eq!(content(&private_copy(&region).unwrap()), content(&region));
    }

    #[test]
    fn a_private_copy_is_another_file_with_the_same_content() {
        let (_file, region) = region(&[7; 10_000]);
        let copy = private_copy(&region).unwrap();
        assert_eq!(content(&copy), content(&region));
        assert!(!copy.identity().is_same_file(region.identity()));
        // A record of it, in memory, is true as long as the file has the content.
        if let Some(digest) = &copy.identity().digest {
            assert_eq!(*digest, blake3::hash(&[7; 10_000]).to_hex().to_string());
        }
    }

    #[test]
    fn a_file_that_shrinks_meanwhile_is_an_error() {
        let (file, region) = region(&[7; 10_000]);
        file.as_file().set_len(10).unwrap();
        assert!(sealed_copy(&region).is_err());
        assert!(private_copy(&region).is_err());
    }
}
