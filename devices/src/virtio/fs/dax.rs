//! The window for direct access, filled as the driver asks.

use std::io;
use std::sync::Arc;

use memshare::{Access, ShareError, SharedRegion, Window};

use super::fuse::DaxWindow;

/// A window that a driver fills.
#[derive(Debug)]
pub struct Dax {
    window: Arc<Window>,
}

impl Dax {
    /// Fills `window`, the device's shared memory.
    pub fn new(window: Arc<Window>) -> Dax {
        Dax { window }
    }
}

impl DaxWindow for Dax {
    fn len(&self) -> u64 {
        self.window.len()
    }

    /// Files can grow after they were mapped, and the driver asks for whole ranges of 2 MiB, so
    /// that all of the range is mapped, be the file shorter or not.
    fn map(
        &self,
        moffset: u64,
        len: u64,
        file: &Arc<SharedRegion>,
        foffset: u64,
        write: bool,
    ) -> io::Result<()> {
        let range = self.window.range(moffset, len).ok_or(io::ErrorKind::InvalidInput)?;
        let access = if write { Access::Write } else { Access::Read };
        self.window.map_ahead(range, file, foffset, access).map_err(number)
    }

    fn unmap(&self, moffset: u64, len: u64) -> io::Result<()> {
        let range = self.window.range(moffset, len).ok_or(io::ErrorKind::InvalidInput)?;
        self.window.unmap(range).map_err(number)
    }
}

/// What a driver is told.
fn number(error: ShareError) -> io::Error {
    let code = match &error {
        ShareError::TooMany { .. } => libc::ENOMEM,
        ShareError::Host { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
        _ => libc::EINVAL,
    };
    tracing::debug!(%error, "a range of a file was not mapped");
    io::Error::from_raw_os_error(code)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const PAGE: u64 = memshare::PAGE_SIZE;

    fn dax() -> (Dax, Arc<Window>) {
        let window = Window::reserve("test", 2 << 20, 1 << 21).unwrap();
        (Dax::new(window.clone()), window)
    }

    fn file(content: &[u8]) -> Arc<SharedRegion> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        SharedRegion::new(file.reopen().unwrap(), file.path().into(), None).unwrap()
    }

    #[test]
    fn ranges_are_recorded_as_they_were_asked_for() {
        let (dax, window) = dax();
        let file = file(&[7; 10_000]);
        dax.map(PAGE, 4 * PAGE, &file, 0, true).unwrap();
        dax.map(3 * PAGE, PAGE, &file, PAGE, false).unwrap();
        dax.unmap(PAGE, PAGE).unwrap();
        let record: Vec<_> =
            window.record(0).iter().map(|r| (r.guest, r.len, r.offset, r.access)).collect();
        let (read, write) = (Access::Read, Access::Write);
        let wanted = [
            (2 * PAGE, PAGE, PAGE, write),
            (3 * PAGE, PAGE, PAGE, read),
            (4 * PAGE, PAGE, 3 * PAGE, write),
        ];
        assert_eq!(record, wanted);
    }

    #[test]
    fn what_is_outside_of_the_window_is_refused() {
        let (dax, window) = dax();
        let file = file(&[7; 10_000]);
        let len = dax.len();
        for (at, len) in
            [(len, PAGE), (0, len + PAGE), (u64::MAX - PAGE + 1, 2 * PAGE), (1, PAGE), (0, 0)]
        {
            let error = dax.map(at, len, &file, 0, false).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(dax.unmap(at, len).is_err());
        }
        let error = dax.map(0, PAGE, &file, 1, false).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        assert!(window.record(0).is_empty());
    }
}
