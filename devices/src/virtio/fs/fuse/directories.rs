//! Reading folders: OPENDIR, READDIR, READDIRPLUS, RELEASEDIR, FSYNCDIR.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use rustix::fs::{FileType, Mode, OFlags, RawDir, SeekFrom, openat, seek};
use rustix::io::Errno;

use super::handles::{Folder, Handle};
use super::inodes::look;
use super::messages::{Body, Fields, Header, ROOT, Result};
use super::server::Server;
use crate::sync::lock;

/// Bytes of entries asked of the host at a time.
const ENTRIES: usize = 32 << 10;
/// Bytes of an answer at most, whatever room the guest offers.
const ANSWER_MAX: usize = 1 << 20;
/// Bytes of `fuse_dirent` without its name.
const ENTRY: usize = 24;
/// Bytes of `fuse_entry_out`.
const ENTRY_OUT: usize = 128;
/// `FUSE_FSYNC_FDATASYNC`.
const FDATASYNC: u32 = 1 << 0;

impl Server {
    /// OPENDIR.
    pub(super) fn open_dir(&self, header: &Header) -> Result<Body> {
        let inode = self.inodes.get(header.node)?;
        if inode.kind != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let file = openat(&*self.inodes.descriptor(&inode)?, c".", flags, Mode::empty())?;
        let folder = Folder { node: inode.node, file: Mutex::new(file.into()) };
        let handle = self.handles.add(Handle::Folder(Arc::new(folder)))?;
        let mut body = Body::default();
        self.put_open_folder(handle, &mut body);
        Ok(body)
    }

    /// READDIR, and READDIRPLUS, which looks each name up at once. `room` is what the answer may
    /// have.
    pub(super) fn read_dir(&self, mut fields: Fields<'_>, room: u64, plus: bool) -> Result<Body> {
        let (handle, offset, size) = (fields.u64()?, fields.u64()?, fields.u32()?);
        let folder = self.handles.folder(handle)?;
        let inode = self.inodes.get(folder.node)?;
        let room = usize::try_from(room.min(size.into())).unwrap_or(ANSWER_MAX).min(ANSWER_MAX);
        let mut body = Body(Vec::with_capacity(room.min(ENTRIES)));
        let device = {
            let status = look(self.inodes.descriptor(&inode)?)?;
            rustix::fs::makedev(status.stx_dev_major, status.stx_dev_minor)
        };
        let file = lock(&folder.file);
        // From wherever the guest says: offsets are the host's own cookies.
        seek(&*file, SeekFrom::Start(offset))?;
        let mut memory = [MaybeUninit::uninit(); ENTRIES];
        let mut entries = RawDir::new(file.as_fd(), &mut memory);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            let head = if plus { ENTRY_OUT } else { 0 };
            let len = (head + ENTRY + name.count_bytes()).next_multiple_of(8);
            if body.0.len() + len > room {
                if body.0.is_empty() {
                    return Err(Errno::INVAL);
                }
                break;
            }
            let dots = matches!(name.to_bytes(), b"." | b"..");
            let mut number = self.inodes.number(device, entry.ino());
            if inode.node == ROOT && dots {
                // What is above the share is nobody's business.
                number = inode.number;
            }
            if plus {
                let start = body.0.len();
                if dots || self.entry(&inode, name, &mut body).is_err() {
                    // Node 0: the guest looks the name up by itself if it needs to.
                    body.0.resize(start, 0);
                    body.bytes(&[0; ENTRY_OUT]);
                }
            }
            put_entry(&mut body, number, entry.next_entry_cookie(), entry.file_type(), name);
        }
        Ok(body)
    }

    /// RELEASEDIR.
    pub(super) fn release_dir(&self, mut fields: Fields<'_>) -> Result<Body> {
        let handle = fields.u64()?;
        self.handles.folder(handle)?;
        self.handles.close(handle)?;
        Ok(Body::empty())
    }

    /// FSYNCDIR.
    pub(super) fn f_sync_dir(&self, mut fields: Fields<'_>) -> Result<Body> {
        let (handle, flags) = (fields.u64()?, fields.u32()?);
        let folder = self.handles.folder(handle)?;
        // A descriptor of its own, so that nobody who reads the folder waits.
        let file =
            lock(&folder.file).try_clone().map_err(|error| super::messages::errno(&error))?;
        let result = if flags & FDATASYNC == 0 { file.sync_all() } else { file.sync_data() };
        result.map_err(|error| super::messages::errno(&error))?;
        Ok(Body::empty())
    }
}

/// Appends `fuse_dirent`.
fn put_entry(body: &mut Body, number: u64, next: u64, kind: FileType, name: &CStr) {
    let len = u32::try_from(name.count_bytes()).unwrap_or(u32::MAX);
    // `DT_…` are the upper bits of a mode.
    let kind = if kind == FileType::Unknown { 0 } else { kind.as_raw_mode() >> 12 };
    body.u64(number).u64(next).u32(len).u32(kind).bytes(name.to_bytes()).pad();
}
