//! The sealed copies of files that a lab's guests share: one for each content, made by the
//! supervisor, inherited by the guests' processes.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use memshare::{FileIdentity, ShareError, SharedRegion, sealed_copy};

use crate::spec::{SealedCopy, VmSpec};

/// Copies that were made, each with the file that it was made of.
#[derive(Debug, Default)]
pub(super) struct SealedCopies(Vec<(FileIdentity, Arc<SharedRegion>)>);

impl SealedCopies {
    /// Sees that there is a copy of every file that `spec` wants sealed, and writes into it where
    /// the guest's process finds them. What is returned are the descriptors for it to inherit.
    pub(super) fn hand_over(&mut self, spec: &mut VmSpec) -> io::Result<Vec<OwnedFd>> {
        let mut descriptors = Vec::new();
        for pmem in spec.pmem.iter_mut().filter(|pmem| pmem.seal) {
            let file = File::open(&pmem.path)
                .map_err(|error| wrap(&format!("cannot open {}", pmem.path.display()), &error))?;
            let file = SharedRegion::new(file, pmem.path.clone(), None).map_err(told)?;
            let copy = self.of(&file).map_err(told)?;
            let descriptor = OwnedFd::from(copy.file().try_clone()?);
            pmem.sealed = Some(SealedCopy {
                descriptor: descriptor.as_raw_fd(),
                identity: copy.identity().clone(),
            });
            descriptors.push(descriptor);
        }
        Ok(descriptors)
    }

    fn of(&mut self, file: &SharedRegion) -> Result<Arc<SharedRegion>, ShareError> {
        let known = self.0.iter().find(|(made_of, _)| made_of.is_same_content(file.identity()));
        if let Some((_, copy)) = known {
            return Ok(Arc::clone(copy));
        }
        let made = sealed_copy(file)?;
        // Another file with the same bytes.
        let same = self.0.iter().find(|(_, copy)| copy.identity().digest == made.identity().digest);
        let copy = same.map_or(made, |(_, copy)| Arc::clone(copy));
        self.0.push((file.identity().clone(), Arc::clone(&copy)));
        Ok(copy)
    }
}

fn told(error: ShareError) -> io::Error {
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
    io::Error::other(format!("{error}{}", cause.unwrap_or_default()))
}

fn wrap(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_content_is_copied_once_whatever_its_files_are_called() {
        let folder = tempfile::tempdir().unwrap();
        let region = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            SharedRegion::new(File::open(&path).unwrap(), path, None).unwrap()
        };
        let (one, same, other) =
            (region("a", &[1; 5000]), region("b", &[1; 5000]), region("c", &[2; 5000]));
        let mut copies = SealedCopies::default();
        let first = copies.of(&one).unwrap();
        assert!(Arc::ptr_eq(&first, &copies.of(&one).unwrap()));
        assert!(Arc::ptr_eq(&first, &copies.of(&same).unwrap()));
        assert!(!Arc::ptr_eq(&first, &copies.of(&other).unwrap()));
    }
}
