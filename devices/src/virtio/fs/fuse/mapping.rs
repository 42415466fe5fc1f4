//! Files mapped into the window for direct access: SETUPMAPPING and REMOVEMAPPING.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};

use memshare::SharedRegion;
use rustix::fs::{OFlags, readlinkat};
use rustix::io::Errno;

use super::inodes::Inode;
use super::messages::{Body, Fields, Header, Result, errno};
use super::server::Server;
use crate::sync::lock;

/// Where a guest reaches files without asking: a range of its physical memory. Offsets and
/// lengths are multiples of 4096.
pub trait DaxWindow: Send + Sync {
    /// Bytes in it.
    fn len(&self) -> u64;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts `len` bytes of `file` from `foffset` on at `moffset` of the window, in place of what
    /// is there; the guest's writes change the file if `write`.
    ///
    /// # Errors
    /// The guest is told the error's number, `EIO` when it has none.
    fn map(
        &self,
        moffset: u64,
        len: u64,
        file: &Arc<SharedRegion>,
        foffset: u64,
        write: bool,
    ) -> io::Result<()>;

    /// Takes away what is mapped there.
    ///
    /// # Errors
    /// As [`DaxWindow::map`].
    fn unmap(&self, moffset: u64, len: u64) -> io::Result<()>;
}

/// `FUSE_SETUPMAPPING_FLAG_WRITE`.
const FLAG_WRITE: u64 = 1 << 0;
/// `FUSE_SETUPMAPPING_FLAG_READ`.
const FLAG_READ: u64 = 1 << 1;
/// What offsets and lengths are multiples of: pages, as INIT says.
const ALIGNMENT: u64 = 4096;

/// The files that are mapped, so that there are not too many.
#[derive(Default)]
pub(super) struct Mapped(Mutex<Vec<Weak<SharedRegion>>>);

impl Mapped {
    /// Counts one more, unless there are `max`.
    fn add(&self, region: &Arc<SharedRegion>, max: usize) -> Result<()> {
        let mut regions = lock(&self.0);
        if regions.len() >= max {
            regions.retain(|region| region.strong_count() > 0);
        }
        if regions.len() >= max {
            return Err(Errno::NFILE);
        }
        regions.push(Arc::downgrade(region));
        Ok(())
    }
}

/// Whether there are such bytes of the window.
fn check(window: &dyn DaxWindow, moffset: u64, len: u64) -> Result<()> {
    let inside = moffset.checked_add(len).is_some_and(|end| end <= window.len());
    let aligned = moffset.is_multiple_of(ALIGNMENT) && len.is_multiple_of(ALIGNMENT);
    if inside && aligned && len > 0 { Ok(()) } else { Err(Errno::INVAL) }
}

impl Server {
    fn window(&self) -> Result<&dyn DaxWindow> {
        self.options.window.as_deref().ok_or(Errno::NOSYS)
    }

    /// SETUPMAPPING. The file is that of the node: Linux gives no handle.
    pub(super) fn setup_mapping(&self, header: &Header, mut fields: Fields<'_>) -> Result<Body> {
        let window = self.window()?;
        let fields = &mut fields;
        let (_handle, foffset, len) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let (flags, moffset) = (fields.u64()?, fields.u64()?);
        check(window, moffset, len)?;
        let end = foffset.checked_add(len).and_then(|end| i64::try_from(end).ok());
        if end.is_none() || !foffset.is_multiple_of(ALIGNMENT) {
            return Err(Errno::INVAL);
        }
        if flags & !(FLAG_READ | FLAG_WRITE) != 0 {
            return Err(Errno::INVAL);
        }
        let write = flags & FLAG_WRITE != 0;
        let inode = self.inodes.get(header.node)?;
        let region = self.region(&inode, write)?;
        window.map(moffset, len, &region, foffset, write).map_err(|error| errno(&error))?;
        Ok(Body::empty())
    }

    /// A node's file, opened for mapping: once, for as long as some of it is mapped.
    fn region(&self, inode: &Arc<Inode>, write: bool) -> Result<Arc<SharedRegion>> {
        let mut regions = lock(&inode.regions);
        let [read, writable] = &mut *regions;
        let known = if write { writable } else { read };
        if let Some(region) = known.upgrade() {
            return Ok(region);
        }
        let file = self.reopen(inode, if write { OFlags::RDWR } else { OFlags::RDONLY })?;
        let path = readlinkat(&self.proc, self.link(&file), Vec::new());
        let path = path.map_or_else(
            |_| self.options.folder.clone(),
            |path| PathBuf::from(OsString::from_vec(path.into_bytes())),
        );
        let region = SharedRegion::new(File::from(file), path, None).map_err(|_| Errno::IO)?;
        self.mapped.add(&region, self.options.limits.mapped)?;
        *known = Arc::downgrade(&region);
        Ok(region)
    }

    /// REMOVEMAPPING: any number of ranges. All are checked before the first is removed.
    pub(super) fn remove_mapping(&self, mut fields: Fields<'_>) -> Result<Body> {
        let window = self.window()?;
        let count = fields.u32()?;
        let mut ranges = Vec::new();
        for _ in 0..count {
            let (moffset, len) = (fields.u64()?, fields.u64()?);
            check(window, moffset, len)?;
            ranges.push((moffset, len));
        }
        for (moffset, len) in ranges {
            window.unmap(moffset, len).map_err(|error| errno(&error))?;
        }
        Ok(Body::empty())
    }
}
