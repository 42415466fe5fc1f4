//! Locks of files: GETLK, SETLK, SETLKW, for POSIX locks and those of flock(2).
//!
//! A POSIX lock belongs to a process of the guest and a file, not to an open file. Each such pair
//! has an open file description of its own on the host, whose locks (`F_OFD_SETLK`) stand against
//! those of all others, in this guest, in others, and on the host. A lock of flock(2) belongs to
//! an open file, as on the host.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::messages::{Body, Fields, Header, Result};
use super::server::Server;
use super::sys::{Range, get_lock, set_lock};
use crate::sync::lock;

/// `FUSE_LK_FLOCK`.
const LK_FLOCK: u32 = 1 << 0;

/// Tries to take a lock; `EAGAIN` while others have it.
pub(super) type Attempt = Box<dyn FnMut() -> Result<()> + Send>;

/// The open file descriptions of those who lock, by node and owner.
pub(super) struct Locks {
    max: usize,
    owners: Mutex<HashMap<(u64, u64), Arc<File>>>,
}

impl Locks {
    /// Room for `max` owners.
    pub(super) fn new(max: usize) -> Locks {
        Locks { max, owners: Mutex::default() }
    }

    fn get(&self, node: u64, owner: u64) -> Option<Arc<File>> {
        lock(&self.owners).get(&(node, owner)).cloned()
    }

    /// Keeps `file` for an owner that has none; gives the owner's.
    fn keep(&self, node: u64, owner: u64, file: File) -> Result<Arc<File>> {
        let mut owners = lock(&self.owners);
        if let Some(file) = owners.get(&(node, owner)) {
            return Ok(Arc::clone(file));
        }
        if owners.len() >= self.max {
            return Err(Errno::NOLCK);
        }
        let file = Arc::new(file);
        owners.insert((node, owner), Arc::clone(&file));
        Ok(file)
    }

    /// Ends an owner's locks of a file.
    pub(super) fn release(&self, node: u64, owner: u64) {
        let file = lock(&self.owners).remove(&(node, owner));
        if let Some(file) = file {
            // Not by closing alone: a request that waits may hold the file a moment longer.
            let _ = set_lock(&file, Range { start: 0, len: 0, kind: UNLOCK });
        }
    }

    /// Ends all.
    pub(super) fn clear(&self) {
        let owners = std::mem::take(&mut *lock(&self.owners));
        drop(owners);
    }

    /// Owners of locks.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        lock(&self.owners).len()
    }
}

const READ: i16 = narrow(libc::F_RDLCK);
const WRITE: i16 = narrow(libc::F_WRLCK);
const UNLOCK: i16 = narrow(libc::F_UNLCK);

/// The kinds of locks are `int` in one place and `short` in another.
const fn narrow(kind: i32) -> i16 {
    #[expect(clippy::cast_possible_truncation, reason = "0, 1 and 2")]
    {
        kind as i16
    }
}

/// `fuse_lk_in`.
struct Request {
    handle: u64,
    owner: u64,
    range: Range,
    flags: u32,
}

fn request(mut fields: Fields<'_>) -> Result<Request> {
    let fields = &mut fields;
    let (handle, owner, start, end) = (fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?);
    let (kind, _process, flags) = (fields.u32()?, fields.u32()?, fields.u32()?);
    let kind = match i32::try_from(kind) {
        Ok(libc::F_RDLCK) => READ,
        Ok(libc::F_WRLCK) => WRITE,
        Ok(libc::F_UNLCK) => UNLOCK,
        _ => return Err(Errno::INVAL),
    };
    let start = i64::try_from(start).map_err(|_| Errno::INVAL)?;
    // The last byte, `OFFSET_MAX` for all that follow.
    let end = i64::try_from(end).unwrap_or(i64::MAX);
    if end < start {
        return Err(Errno::INVAL);
    }
    let len = if end == i64::MAX { 0 } else { end - start + 1 };
    Ok(Request { handle, owner, range: Range { start, len, kind }, flags })
}

impl Server {
    /// GETLK: what stands in the way of a lock.
    pub(super) fn get_lk(&self, header: &Header, fields: Fields<'_>) -> Result<Body> {
        let Request { handle, owner, range, .. } = request(fields)?;
        self.handles.file(handle)?;
        let file = match self.locks.get(header.node, owner) {
            Some(file) => file,
            None => Arc::new(self.lock_file(header.node)?),
        };
        let found = get_lock(&file, range)?;
        let (start, len) = (found.start.cast_unsigned(), found.len.cast_unsigned());
        let end = if len == 0 { i64::MAX.cast_unsigned() } else { start + (len - 1) };
        let mut body = Body::default();
        // Whose it is nobody can tell: process 0.
        body.u64(start).u64(end).u32(found.kind.unsigned_abs().into()).u32(0);
        Ok(body)
    }

    /// SETLK and SETLKW: how to take a lock, or give it up.
    pub(super) fn set_lk(&self, header: &Header, fields: Fields<'_>) -> Result<Attempt> {
        let Request { handle, owner, range, flags } = request(fields)?;
        let file = self.handles.file(handle)?;
        if flags & LK_FLOCK != 0 {
            let operation = match range.kind {
                READ => FlockOperation::NonBlockingLockShared,
                WRITE => FlockOperation::NonBlockingLockExclusive,
                _ => FlockOperation::NonBlockingUnlock,
            };
            return Ok(Box::new(move || flock(&*file, operation)));
        }
        if range.kind == UNLOCK {
            if range.start == 0 && range.len == 0 {
                self.locks.release(header.node, owner);
                return Ok(Box::new(|| Ok(())));
            }
            return Ok(match self.locks.get(header.node, owner) {
                Some(file) => Box::new(move || set_lock(&file, range)),
                None => Box::new(|| Ok(())),
            });
        }
        let file = match self.locks.get(header.node, owner) {
            Some(file) => file,
            None => self.locks.keep(header.node, owner, self.lock_file(header.node)?)?,
        };
        Ok(Box::new(move || set_lock(&file, range)))
    }

    /// Opens a node's file to lock it: for reading and writing, since locks of both kinds can
    /// follow, or for reading when the host does not permit more.
    fn lock_file(&self, node: u64) -> Result<File> {
        let inode = self.inodes.get(node)?;
        let file = match self.reopen(&inode, OFlags::RDWR) {
            Err(Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::TXTBSY) => {
                self.reopen(&inode, OFlags::RDONLY)?
            }
            file => file?,
        };
        Ok(file.into())
    }
}
