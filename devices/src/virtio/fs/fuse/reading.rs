//! Opening files and reading them: OPEN, READ, LSEEK, READLINK, FLUSH, RELEASE.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, SeekFrom, openat, readlinkat, seek};
use rustix::io::Errno;
use storage::Buffers;

use super::Caching;
use super::handles::Handle;
use super::inodes::Inode;
use super::messages::{Body, Fields, Header, Result, errno};
use super::server::Server;

/// `FOPEN_KEEP_CACHE`.
const KEEP_CACHE: u32 = 1 << 1;
/// `FOPEN_CACHE_DIR`.
const CACHE_DIR: u32 = 1 << 3;
/// `FUSE_RELEASE_FLOCK_UNLOCK`.
const RELEASE_FLOCK_UNLOCK: u32 = 1 << 1;

/// What of a guest's open flags the host is asked for. Appending is done at each write, since the
/// guest writes back pages through any handle; memory of a guest has no alignment for
/// `O_DIRECT`.
pub(super) fn open_flags(flags: u32) -> OFlags {
    let kept = OFlags::ACCMODE | OFlags::TRUNC | OFlags::SYNC | OFlags::DSYNC;
    (OFlags::from_bits_retain(flags) & kept) | OFlags::CLOEXEC
}

impl Server {
    /// Opens a node's file through the descriptor that pins it. Regular files only: opening
    /// others acts on the host.
    pub(super) fn reopen(&self, inode: &Arc<Inode>, flags: OFlags) -> Result<OwnedFd> {
        match inode.kind {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Errno::ISDIR),
            FileType::Symlink => return Err(Errno::LOOP),
            _ => return Err(Errno::NXIO),
        }
        let changes = flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC);
        if changes && !self.options.writable {
            return Err(Errno::ROFS);
        }
        let file = self.inodes.descriptor(inode)?;
        openat(&self.proc, self.link(&file), flags | OFlags::CLOEXEC, Mode::empty())
    }

    /// OPEN.
    pub(super) fn open(&self, header: &Header, mut fields: Fields<'_>) -> Result<Body> {
        let inode = self.inodes.get(header.node)?;
        let file = self.reopen(&inode, open_flags(fields.u32()?))?;
        let handle = self.handles.add(Handle::File(Arc::new(File::from(file))))?;
        let mut body = Body::default();
        self.put_open(handle, &mut body);
        Ok(body)
    }

    /// Appends `fuse_open_out`.
    pub(super) fn put_open(&self, handle: u64, body: &mut Body) {
        let flags = if self.options.caching == Caching::Always { KEEP_CACHE } else { 0 };
        body.u64(handle).u32(flags).u32(0);
    }

    /// The same for a folder.
    pub(super) fn put_open_folder(&self, handle: u64, body: &mut Body) {
        let always = self.options.caching == Caching::Always;
        body.u64(handle).u32(if always { KEEP_CACHE | CACHE_DIR } else { 0 }).u32(0);
    }

    /// READ: straight into the answer's memory. Says how many bytes.
    pub(super) fn read(&self, mut fields: Fields<'_>, output: &mut Buffers) -> Result<u64> {
        let (handle, offset, size) = (fields.u64()?, fields.u64()?, fields.u32()?);
        let file = self.handles.file(handle)?;
        let mut room = output.split_to(size.into());
        room.read_from(&file, offset).map_err(|error| errno(&error))
    }

    /// LSEEK: where data or a hole is.
    pub(super) fn l_seek(&self, mut fields: Fields<'_>) -> Result<Body> {
        let (handle, offset, whence) = (fields.u64()?, fields.u64()?, fields.u32()?);
        let file = self.handles.file(handle)?;
        let to = match i32::try_from(whence) {
            Ok(libc::SEEK_DATA) => SeekFrom::Data(offset),
            Ok(libc::SEEK_HOLE) => SeekFrom::Hole(offset),
            Ok(libc::SEEK_END) => SeekFrom::End(offset.cast_signed()),
            Ok(libc::SEEK_SET) => SeekFrom::Start(offset),
            // The position is the guest's own business.
            _ => return Err(Errno::INVAL),
        };
        // It moves the descriptor's position, which nothing else uses.
        Ok(Body::default().u64(seek(&*file, to)?).take())
    }

    /// READLINK: what a link says. It is the guest that follows it.
    pub(super) fn read_link(&self, header: &Header) -> Result<Body> {
        let inode = self.inodes.get(header.node)?;
        if inode.kind != FileType::Symlink {
            return Err(Errno::INVAL);
        }
        let target = readlinkat(&*self.inodes.descriptor(&inode)?, c"", Vec::new())?;
        Ok(Body(target.into_bytes()))
    }

    /// FLUSH: the guest closes a descriptor, which ends the closing process' locks on the file.
    pub(super) fn flush(&self, header: &Header, mut fields: Fields<'_>) -> Result<Body> {
        let (handle, _, _, owner) = (fields.u64()?, fields.u32()?, fields.u32()?, fields.u64()?);
        self.handles.file(handle)?;
        self.locks.release(header.node, owner);
        self.waiting.retry();
        Ok(Body::empty())
    }

    /// RELEASE: nobody has the handle any more.
    pub(super) fn release(&self, mut fields: Fields<'_>) -> Result<Body> {
        let (handle, _, flags) = (fields.u64()?, fields.u32()?, fields.u32()?);
        let file = self.handles.file(handle)?;
        if flags & RELEASE_FLOCK_UNLOCK != 0 {
            // Others may hold the file for a moment longer.
            let _ = rustix::fs::flock(&*file, rustix::fs::FlockOperation::NonBlockingUnlock);
        }
        drop(file);
        self.handles.close(handle)?;
        self.waiting.retry();
        Ok(Body::empty())
    }
}
