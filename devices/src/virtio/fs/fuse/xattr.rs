//! Extended attributes: GETXATTR, SETXATTR, LISTXATTR, REMOVEXATTR.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr};
use rustix::io::Errno;

use super::Xattrs;
use super::messages::{Body, Fields, Header, Result};
use super::names::NAME_MAX;
use super::server::Server;

/// Bytes of a value, and of a list of names, at most (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const VALUE_MAX: usize = 64 << 10;

/// Where the calls that take no `O_PATH` descriptor find its file, a link itself included.
fn path(file: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

impl Server {
    /// Whether the guest sees attributes of that name.
    fn shows(&self, name: &[u8]) -> bool {
        match self.options.xattrs {
            Xattrs::None => false,
            Xattrs::User => name.starts_with(b"user."),
            Xattrs::All => true,
        }
    }

    fn attribute<'a>(&self, fields: &mut Fields<'a>) -> Result<&'a CStr> {
        let name = fields.text()?;
        match name.to_bytes() {
            b"" => Err(Errno::INVAL),
            bytes if bytes.len() > NAME_MAX => Err(Errno::RANGE),
            bytes if !self.shows(bytes) => Err(Errno::OPNOTSUPP),
            _ => Ok(name),
        }
    }

    /// GETXATTR: the value, or how large it is when the guest has room for nothing.
    pub(super) fn get_xattr(&self, header: &Header, mut fields: Fields<'_>) -> Result<Body> {
        let inode = self.inodes.get(header.node)?;
        let (size, _) = (fields.u32()?, fields.u32()?);
        let name = self.attribute(&mut fields)?;
        let file = self.inodes.descriptor(&inode)?;
        let mut value = vec![0; VALUE_MAX];
        let len = getxattr(path(&file), name, &mut value[..])?;
        value.truncate(len);
        answer(value, size)
    }

    /// LISTXATTR: names, each with its NUL.
    pub(super) fn list_xattr(&self, header: &Header, mut fields: Fields<'_>) -> Result<Body> {
        let inode = self.inodes.get(header.node)?;
        let size = fields.u32()?;
        if self.options.xattrs == Xattrs::None {
            return Err(Errno::OPNOTSUPP);
        }
        let file = self.inodes.descriptor(&inode)?;
        let mut names = vec![0; VALUE_MAX];
        let len = listxattr(path(&file), &mut names[..])?;
        names.truncate(len);
        let shown = names.split_inclusive(|byte| *byte == 0).filter(|name| self.shows(name));
        answer(shown.flatten().copied().collect(), size)
    }

    /// SETXATTR.
    pub(super) fn set_xattr(&self, header: &Header, mut fields: Fields<'_>) -> Result<Body> {
        let inode = self.inodes.get(header.node)?;
        let (size, flags) = (fields.u32()?, fields.u32()?);
        let name = self.attribute(&mut fields)?;
        let size = usize::try_from(size).map_err(|_| Errno::TOOBIG)?;
        if size > VALUE_MAX {
            return Err(Errno::TOOBIG);
        }
        let value = fields.bytes(size)?;
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        setxattr(path(&*self.inodes.descriptor(&inode)?), name, value, flags)?;
        Ok(Body::empty())
    }

    /// REMOVEXATTR.
    pub(super) fn remove_xattr(&self, header: &Header, mut fields: Fields<'_>) -> Result<Body> {
        let inode = self.inodes.get(header.node)?;
        let name = self.attribute(&mut fields)?;
        removexattr(path(&*self.inodes.descriptor(&inode)?), name)?;
        Ok(Body::empty())
    }
}

/// The bytes if the guest has room for them, their number if it has asked for that.
fn answer(bytes: Vec<u8>, room: u32) -> Result<Body> {
    let len = u32::try_from(bytes.len()).map_err(|_| Errno::RANGE)?;
    match room {
        0 => Ok(Body::default().u32(len).u32(0).take()),
        room if room < len => Err(Errno::RANGE),
        _ => Ok(Body(bytes)),
    }
}
