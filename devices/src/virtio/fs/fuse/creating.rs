//! Making files: CREATE, MKNOD, MKDIR, SYMLINK, LINK, TMPFILE.

use std::fs::File;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, linkat, mkdirat, mknodat, openat, symlinkat};
use rustix::io::Errno;

use super::attributes::device;
use super::handles::Handle;
use super::inodes::look;
use super::messages::{Body, Fields, Header, Result};
use super::names::name;
use super::reading::open_flags;
use super::server::Server;
use super::sys::clear_umask;

/// Bytes of what a link says at most (`PATH_MAX` with its NUL).
const TARGET_MAX: usize = 4095;
/// How often CREATE tries when others make and remove the file meanwhile.
const CREATE_TRIES: u32 = 16;

/// The bits of a mode that are permissions. The guest's kernel has applied the umask.
fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}

impl Server {
    /// CREATE: makes a file unless there is one, and opens it.
    pub(super) fn create(&self, header: &Header, mut fields: Fields<'_>) -> Result<Body> {
        let folder = self.inodes.get(header.node)?;
        let (flags, mode, _umask, _) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
        let name = name(&mut fields)?;
        let exclusive = OFlags::from_bits_retain(flags).contains(OFlags::EXCL);
        let at = self.inodes.descriptor(&folder)?;
        clear_umask()?;
        let make = open_flags(flags) | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        for _ in 0..CREATE_TRIES {
            let made = {
                let _acting = self.ids.act_as(header.uid, header.gid)?;
                openat(&at, name, make, permissions(mode))
            };
            // The node is that of what was made, whatever has the name by now.
            let (inode, file) = match made {
                Ok(file) => {
                    let pinned = self.pinned(&file)?;
                    let status = look(&pinned)?;
                    (self.inodes.enter(pinned, &status)?, file)
                }
                Err(Errno::EXIST) if !exclusive => {
                    let found = match self.find(&folder, name) {
                        Err(Errno::NOENT) => continue,
                        found => found?,
                    };
                    let status = look(&found)?;
                    let inode = self.inodes.enter(found, &status)?;
                    match self.reopen(&inode, open_flags(flags)) {
                        Ok(file) => (inode, file),
                        Err(error) => {
                            self.inodes.forget(inode.node, 1);
                            return Err(error);
                        }
                    }
                }
                Err(error) => return Err(error),
            };
            let mut body = Body::default();
            let opened = look(&file).and_then(|status| {
                self.put_entry(&inode, &status, &mut body);
                self.handles.add(Handle::File(Arc::new(File::from(file))))
            });
            let handle = opened.inspect_err(|_| self.inodes.forget(inode.node, 1))?;
            self.put_open(handle, &mut body);
            return Ok(body);
        }
        Err(Errno::AGAIN)
    }

    /// TMPFILE: an open file without a name.
    pub(super) fn tmp_file(&self, header: &Header, mut fields: Fields<'_>) -> Result<Body> {
        let folder = self.inodes.get(header.node)?;
        let (flags, mode) = (fields.u32()?, fields.u32()?);
        let at = self.inodes.descriptor(&folder)?;
        clear_umask()?;
        let flags = (open_flags(flags) - OFlags::TRUNC) | OFlags::TMPFILE;
        let file = {
            let _acting = self.ids.act_as(header.uid, header.gid)?;
            openat(&at, c".", flags, permissions(mode))?
        };
        let pinned = self.pinned(&file)?;
        let status = look(&pinned)?;
        let inode = self.inodes.enter(pinned, &status)?;
        let mut body = Body::default();
        self.put_entry(&inode, &status, &mut body);
        let handle = self.handles.add(Handle::File(Arc::new(File::from(file))));
        let handle = handle.inspect_err(|_| self.inodes.forget(inode.node, 1))?;
        self.put_open(handle, &mut body);
        Ok(body)
    }

    /// MKNOD. Devices would be the host's: they are refused, but for the one of overlay file
    /// systems that stands for a removed file.
    pub(super) fn mk_nod(&self, header: &Header, mut fields: Fields<'_>) -> Result<Body> {
        let folder = self.inodes.get(header.node)?;
        let (mode, number, _umask, _) =
            (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
        let name = name(&mut fields)?;
        let kind = FileType::from_raw_mode(mode);
        match kind {
            FileType::RegularFile | FileType::Fifo | FileType::Socket => {}
            FileType::CharacterDevice if number == 0 => {}
            FileType::CharacterDevice | FileType::BlockDevice => return Err(Errno::PERM),
            _ => return Err(Errno::INVAL),
        }
        let at = self.inodes.descriptor(&folder)?;
        clear_umask()?;
        {
            let _acting = self.ids.act_as(header.uid, header.gid)?;
            mknodat(&at, name, kind, permissions(mode), device(number))?;
        }
        let mut body = Body::default();
        self.entry(&folder, name, &mut body)?;
        Ok(body)
    }

    /// MKDIR.
    pub(super) fn mk_dir(&self, header: &Header, mut fields: Fields<'_>) -> Result<Body> {
        let folder = self.inodes.get(header.node)?;
        let (mode, _umask) = (fields.u32()?, fields.u32()?);
        let name = name(&mut fields)?;
        let at = self.inodes.descriptor(&folder)?;
        clear_umask()?;
        {
            let _acting = self.ids.act_as(header.uid, header.gid)?;
            mkdirat(&at, name, permissions(mode))?;
        }
        let mut body = Body::default();
        self.entry(&folder, name, &mut body)?;
        Ok(body)
    }

    /// SYMLINK: a link that says whatever the guest wants; the host never follows it.
    pub(super) fn sym_link(&self, header: &Header, mut fields: Fields<'_>) -> Result<Body> {
        let folder = self.inodes.get(header.node)?;
        let name = name(&mut fields)?;
        let target = fields.text()?;
        if target.count_bytes() > TARGET_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        let at = self.inodes.descriptor(&folder)?;
        {
            let _acting = self.ids.act_as(header.uid, header.gid)?;
            symlinkat(target, &at, name)?;
        }
        let mut body = Body::default();
        self.entry(&folder, name, &mut body)?;
        Ok(body)
    }

    /// LINK: one more name of a file.
    pub(super) fn link_node(&self, header: &Header, mut fields: Fields<'_>) -> Result<Body> {
        let folder = self.inodes.get(header.node)?;
        let inode = self.inodes.get(fields.u64()?)?;
        let name = name(&mut fields)?;
        let (file, at) = (self.inodes.descriptor(&inode)?, self.inodes.descriptor(&folder)?);
        linkat(&self.proc, self.link(&file), &at, name, AtFlags::SYMLINK_FOLLOW)?;
        let mut body = Body::default();
        self.entry(&folder, name, &mut body)?;
        Ok(body)
    }
}
