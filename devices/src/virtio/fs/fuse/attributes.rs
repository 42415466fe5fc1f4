//! What a file is: LOOKUP, FORGET, GETATTR, SETATTR, STATFS, ACCESS.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Statx, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT, Uid, chmodat, chownat, fchmod, fstatvfs, ftruncate, makedev, openat2, utimensat,
};
use rustix::io::Errno;

use super::Mounts;
use super::init::Feature;
use super::inodes::{Inode, look};
use super::messages::{Body, Fields, Header, Result};
use super::names::{NAME_MAX, name};
use super::server::Server;

/// `FATTR_…`: the fields of SETATTR that count.
mod valid {
    pub(super) const MODE: u32 = 1 << 0;
    pub(super) const UID: u32 = 1 << 1;
    pub(super) const GID: u32 = 1 << 2;
    pub(super) const SIZE: u32 = 1 << 3;
    pub(super) const ATIME: u32 = 1 << 4;
    pub(super) const MTIME: u32 = 1 << 5;
    pub(super) const FH: u32 = 1 << 6;
    pub(super) const ATIME_NOW: u32 = 1 << 7;
    pub(super) const MTIME_NOW: u32 = 1 << 8;
}

/// `FUSE_ATTR_DAX`.
const ATTR_DAX: u32 = 1 << 1;
/// How often a name is looked up when others rename meanwhile.
const FIND_TRIES: u32 = 64;
/// `FUSE_GETATTR_FH`.
const GETATTR_FH: u32 = 1 << 0;

impl Server {
    /// LOOKUP.
    pub(super) fn lookup(&self, header: &Header, mut fields: Fields<'_>) -> Result<Body> {
        let folder = self.inodes.get(header.node)?;
        let name = name(&mut fields)?;
        let mut body = Body::default();
        self.entry(&folder, name, &mut body)?;
        Ok(body)
    }

    /// Looks a name up, appends `fuse_entry_out`, and counts that the guest was told. Says which
    /// node it is.
    pub(super) fn entry(&self, folder: &Arc<Inode>, name: &CStr, body: &mut Body) -> Result<u64> {
        let file = self.find(folder, name)?;
        let status = look(&file)?;
        let inode = self.inodes.enter(file, &status)?;
        self.put_entry(&inode, &status, body);
        Ok(inode.node)
    }

    /// Pins (`O_PATH`) what has a name in a folder. Links are not followed, and nothing but the
    /// folder's own entries is reached.
    pub(super) fn find(&self, folder: &Arc<Inode>, name: &CStr) -> Result<OwnedFd> {
        if folder.kind != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        let mut resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        if self.options.mounts == Mounts::Refuse {
            resolve |= ResolveFlags::NO_XDEV;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = self.inodes.descriptor(folder)?;
        for _ in 0..FIND_TRIES {
            match openat2(&folder, name, flags, Mode::empty(), resolve) {
                // Somebody renames something right now.
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        }
        Err(Errno::AGAIN)
    }

    pub(super) fn put_entry(&self, inode: &Inode, status: &Statx, body: &mut Body) {
        let valid = self.options.caching.valid();
        // Node numbers are not used twice, so the generation may stay 0.
        body.u64(inode.node).u64(0).u64(valid.as_secs()).u64(valid.as_secs());
        body.u32(valid.subsec_nanos()).u32(valid.subsec_nanos());
        self.put_attributes(inode, status, body);
    }

    /// Appends `fuse_attr`.
    fn put_attributes(&self, inode: &Inode, status: &Statx, body: &mut Body) {
        body.u64(inode.number).u64(status.stx_size).u64(status.stx_blocks);
        let times = [status.stx_atime, status.stx_mtime, status.stx_ctime];
        for time in times {
            body.u64(time.tv_sec.cast_unsigned());
        }
        for time in times {
            body.u32(time.tv_nsec);
        }
        let dax = self.has(Feature::INODE_DAX) && inode.kind == FileType::RegularFile;
        body.u32(status.stx_mode.into()).u32(status.stx_nlink);
        body.u32(self.ids.guest_uid(status.stx_uid)).u32(self.ids.guest_gid(status.stx_gid));
        body.u32(device_number(status.stx_rdev_major, status.stx_rdev_minor));
        body.u32(status.stx_blksize).u32(if dax { ATTR_DAX } else { 0 });
    }

    /// `fuse_attr_out`.
    fn attributes(&self, inode: &Inode, status: &Statx) -> Body {
        let mut body = Body::default();
        let valid = self.options.caching.valid();
        body.u64(valid.as_secs()).u32(valid.subsec_nanos()).u32(0);
        self.put_attributes(inode, status, &mut body);
        body
    }

    /// FORGET: one node.
    pub(super) fn forget(&self, header: &Header, mut fields: Fields<'_>) -> Result<Body> {
        self.inodes.forget(header.node, fields.u64()?);
        Ok(Body::empty())
    }

    /// BATCH_FORGET: several.
    pub(super) fn batch_forget(&self, mut fields: Fields<'_>) -> Result<Body> {
        let count = fields.u32()?;
        fields.u32()?;
        for _ in 0..count {
            let node = fields.u64()?;
            self.inodes.forget(node, fields.u64()?);
        }
        Ok(Body::empty())
    }

    /// GETATTR.
    pub(super) fn get_attr(&self, header: &Header, mut fields: Fields<'_>) -> Result<Body> {
        let inode = self.inodes.get(header.node)?;
        let (flags, _, handle) = (fields.u32()?, fields.u32()?, fields.u64()?);
        // Through the handle if there is one: it costs nothing to reach.
        let open = (flags & GETATTR_FH != 0).then(|| self.handles.file(handle).ok()).flatten();
        let status = match open {
            Some(file) => look(&*file)?,
            None => look(self.inodes.descriptor(&inode)?)?,
        };
        Ok(self.attributes(&inode, &status))
    }

    /// SETATTR.
    pub(super) fn set_attr(&self, header: &Header, mut fields: Fields<'_>) -> Result<Body> {
        let inode = self.inodes.get(header.node)?;
        let fields = &mut fields;
        let (which, _, handle, size) = (fields.u32()?, fields.u32()?, fields.u64()?, fields.u64()?);
        let _owner = fields.u64()?;
        let (atime, mtime, _ctime) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let (atime_ns, mtime_ns, _) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let (mode, _, uid, gid) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
        let has = |bit| which & bit != 0;

        let file = self.inodes.descriptor(&inode)?;
        let open = has(valid::FH).then(|| self.handles.file(handle)).transpose()?;
        if has(valid::UID | valid::GID) {
            let uid = has(valid::UID).then(|| self.ids.host_uid(uid)).transpose()?;
            let gid = has(valid::GID).then(|| self.ids.host_gid(gid)).transpose()?;
            let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
            chownat(&file, c"", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        // After the owner, since a new one costs a file its set-user bit.
        if has(valid::MODE) {
            let mode = Mode::from_raw_mode(mode & 0o7777);
            match &open {
                Some(open) => fchmod(&**open, mode)?,
                None if inode.kind == FileType::Symlink => return Err(Errno::OPNOTSUPP),
                None => chmodat(&self.proc, self.link(&file), mode, AtFlags::empty())?,
            }
        }
        if has(valid::SIZE) {
            match &open {
                Some(open) => ftruncate(&**open, size)?,
                None => ftruncate(self.reopen(&inode, OFlags::WRONLY)?, size)?,
            }
        }
        if has(valid::ATIME | valid::MTIME | valid::ATIME_NOW | valid::MTIME_NOW) {
            let time = |given, now, seconds: u64, nanoseconds: u32| Timespec {
                tv_sec: seconds.cast_signed(),
                tv_nsec: match () {
                    () if has(now) => UTIME_NOW,
                    () if has(given) => i64::from(nanoseconds.min(999_999_999)),
                    () => UTIME_OMIT,
                },
            };
            let times = Timestamps {
                last_access: time(valid::ATIME, valid::ATIME_NOW, atime, atime_ns),
                last_modification: time(valid::MTIME, valid::MTIME_NOW, mtime, mtime_ns),
            };
            utimensat(&self.proc, self.link(&file), &times, AtFlags::empty())?;
        }
        let status = look(&file)?;
        Ok(self.attributes(&inode, &status))
    }

    /// The name of a descriptor in `/proc/self/fd`, through which the file itself is reached.
    pub(super) fn link(&self, file: &OwnedFd) -> String {
        file.as_raw_fd().to_string()
    }

    /// STATFS.
    pub(super) fn stat_fs(&self, header: &Header) -> Result<Body> {
        let inode = self.inodes.get(header.node)?;
        let of = fstatvfs(self.inodes.descriptor(&inode)?.as_fd())?;
        let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let mut body = Body::default();
        body.u64(of.f_blocks).u64(of.f_bfree).u64(of.f_bavail).u64(of.f_files).u64(of.f_ffree);
        body.u32(small(of.f_bsize)).u32(small(of.f_namemax.min(NAME_MAX as u64)));
        body.u32(small(of.f_frsize)).bytes(&[0; 28]);
        Ok(body)
    }

    /// ACCESS: by the mode bits. Guests check by themselves, so that hardly any asks.
    pub(super) fn access(&self, header: &Header, mut fields: Fields<'_>) -> Result<Body> {
        let inode = self.inodes.get(header.node)?;
        let wanted = fields.u32()?;
        let status = look(self.inodes.descriptor(&inode)?)?;
        if wanted & !0o7 != 0 {
            return Err(Errno::INVAL);
        }
        if wanted & 0o2 != 0 && !self.options.writable {
            return Err(Errno::ROFS);
        }
        let mode = u32::from(status.stx_mode);
        let granted = if header.uid == 0 {
            let runs = mode & 0o111 != 0 || inode.kind == FileType::Directory;
            if runs { 0o7 } else { 0o6 }
        } else if header.uid == self.ids.guest_uid(status.stx_uid) {
            mode >> 6
        } else if header.gid == self.ids.guest_gid(status.stx_gid) {
            mode >> 3
        } else {
            mode
        };
        if wanted & !granted & 0o7 == 0 { Ok(Body::empty()) } else { Err(Errno::ACCESS) }
    }
}

/// A device number as the kernel hands it to user space in 32 bits (`new_encode_dev`).
fn device_number(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// The host's device number of one in 32 bits.
pub(super) fn device(number: u32) -> u64 {
    makedev((number >> 8) & 0xfff, (number & 0xff) | ((number >> 12) & 0xf_ff00))
}
