//! Changing what is in files: WRITE, FALLOCATE, FSYNC, COPY_FILE_RANGE, SYNCFS.

use rustix::fs::{FallocateFlags, Mode, OFlags, copy_file_range, fallocate, openat, syncfs};
use rustix::io::Errno;
use storage::Buffers;

use super::messages::{Body, Fields, Result, errno};
use super::server::Server;

/// `FUSE_WRITE_CACHE`: the guest writes back pages, and the handle is any.
const WRITE_CACHE: u32 = 1 << 0;
/// `FUSE_FSYNC_FDATASYNC`.
const FDATASYNC: u32 = 1 << 0;
/// Bytes that one request copies at most: a guest asks again for the rest.
const COPY_MAX: u64 = 64 << 20;

impl Server {
    /// WRITE: straight from the request's memory.
    pub(super) fn write(&self, mut fields: Fields<'_>, input: &mut Buffers) -> Result<Body> {
        let fields = &mut fields;
        let (handle, offset, size) = (fields.u64()?, fields.u64()?, fields.u32()?);
        let (write_flags, _owner, flags) = (fields.u32()?, fields.u64()?, fields.u32()?);
        let file = self.handles.file(handle)?;
        if u64::from(size) > input.len() {
            return Err(Errno::INVAL);
        }
        let mut data = input.split_to(size.into());
        let append = OFlags::from_bits_retain(flags).contains(OFlags::APPEND);
        let written = if append && write_flags & WRITE_CACHE == 0 {
            data.append_to(&file)
        } else {
            data.write_to(&file, offset)
        };
        let written = written.map_err(|error| errno(&error))?;
        Ok(written_out(written))
    }

    /// FALLOCATE.
    pub(super) fn f_allocate(&self, mut fields: Fields<'_>) -> Result<Body> {
        let (handle, offset, len) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let mode = FallocateFlags::from_bits_retain(fields.u32()?);
        let file = self.handles.file(handle)?;
        let known = FallocateFlags::KEEP_SIZE
            | FallocateFlags::PUNCH_HOLE
            | FallocateFlags::ZERO_RANGE
            | FallocateFlags::COLLAPSE_RANGE
            | FallocateFlags::INSERT_RANGE;
        if !known.contains(mode) {
            return Err(Errno::OPNOTSUPP);
        }
        fallocate(&*file, mode, offset, len)?;
        Ok(Body::empty())
    }

    /// FSYNC.
    pub(super) fn f_sync(&self, mut fields: Fields<'_>) -> Result<Body> {
        let (handle, flags) = (fields.u64()?, fields.u32()?);
        let file = self.handles.file(handle)?;
        let result = if flags & FDATASYNC == 0 { file.sync_all() } else { file.sync_data() };
        result.map_err(|error| errno(&error))?;
        Ok(Body::empty())
    }

    /// COPY_FILE_RANGE: from one open file to another, without the guest.
    pub(super) fn copy_file_range(&self, mut fields: Fields<'_>) -> Result<Body> {
        let fields = &mut fields;
        let (from, mut from_at, _node) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let (to, mut to_at, len, flags) =
            (fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?);
        let (from, to) = (self.handles.file(from)?, self.handles.file(to)?);
        if flags != 0 {
            return Err(Errno::INVAL);
        }
        let len = usize::try_from(len.min(COPY_MAX)).map_err(|_| Errno::INVAL)?;
        let copied = copy_file_range(&*from, Some(&mut from_at), &*to, Some(&mut to_at), len)?;
        Ok(written_out(copied as u64))
    }

    /// SYNCFS.
    pub(super) fn sync_fs(&self) -> Result<Body> {
        if self.options.writable {
            let root = self.inodes.get(super::messages::ROOT)?;
            let root = self.inodes.descriptor(&root)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            syncfs(openat(&*root, c".", flags, Mode::empty())?)?;
        }
        Ok(Body::empty())
    }
}

/// `fuse_write_out`. A request has fewer bytes than 4 GiB.
fn written_out(bytes: u64) -> Body {
    Body::default().u32(u32::try_from(bytes).unwrap_or(u32::MAX)).u32(0).take()
}
