//! QEMU's image locks, so that QEMU's tools and cohort keep out of each other's disks.
//!
//! QEMU describes a use of an image by two sets of permissions: those it needs, and those it lets
//! others have meanwhile. Each is a byte of the file (the file's content does not matter): a
//! shared lock on byte `100 + n` says "I use permission *n*", one on byte `200 + n` "nobody else
//! may use permission *n*" (QEMU, `block/file-posix.c`). All locks are shared ones; a conflict is
//! found by asking whether an exclusive one would be possible. They belong to the open file
//! (`F_OFD_SETLK`), not to the process, so two disks in one process exclude each other too.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::engine::sys::{self, LockKind};

/// Bytes that stand for permissions in use.
const USED: u64 = 100;
/// Bytes that stand for permissions denied to others.
const DENIED: u64 = 200;

/// Permissions, as QEMU numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Permission {
    /// Read what does not change unnoticed.
    ConsistentRead = 0,
    /// Write.
    Write = 1,
    /// Write what is there already.
    WriteUnchanged = 2,
    /// Change the size.
    Resize = 3,
    /// Change how images hang together.
    GraphMod = 4,
}

use Permission::{ConsistentRead, GraphMod, Resize, Write, WriteUnchanged};

const ALL: [Permission; 5] = [ConsistentRead, Write, WriteUnchanged, Resize, GraphMod];

/// A way of using an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// A guest reads.
    Read,
    /// A guest reads and writes.
    Write,
}

impl Use {
    fn uses(self, permission: Permission) -> bool {
        match permission {
            ConsistentRead => true,
            Write => self == Use::Write,
            WriteUnchanged | Resize | GraphMod => false,
        }
    }

    /// No guest can bear that its disk changes under it.
    fn denies(self, permission: Permission) -> bool {
        match permission {
            Write | Resize => true,
            ConsistentRead | WriteUnchanged | GraphMod => false,
        }
    }
}

/// The locks on one open file.
#[derive(Debug)]
pub(crate) struct ImageLock(());

/// Why there is no lock.
#[derive(Debug)]
pub(crate) enum LockError {
    /// Another open file excludes this use.
    Conflict(&'static str),
    /// The kernel failed.
    Host(io::Error),
}

impl From<io::Error> for LockError {
    fn from(error: io::Error) -> LockError {
        LockError::Host(error)
    }
}

/// How long to wait before a conflict is looked at again.
const PAUSE: Duration = Duration::from_millis(20);
/// How often at least: who has the locks may be about to give them up.
const TRIES: u32 = 5;
/// How often where nobody has the locks, as far as other processes' files can be seen; not all of
/// them, and all of them. The kernel gives up the locks of a killed process when its io_uring is
/// gone, which is after its last request: writes and flushes that take long on a busy disk.
const TRIES_IF_NOBODY: (u32, u32) = (100, 1500);
/// When to tell that somebody is waited for.
const TELL_AT: u32 = 50;

impl ImageLock {
    /// Takes the locks for `wanted`. `Ok(None)`: the file system has no locks.
    pub(crate) fn take(file: &File, wanted: Use) -> Result<Option<ImageLock>, LockError> {
        let mut tries = 0;
        loop {
            match ImageLock::try_take(file, wanted) {
                Err(LockError::Conflict(_)) if may_pass(file, tries) => {
                    tries += 1;
                    thread::sleep(PAUSE);
                }
                Err(LockError::Host(error)) if is_lockless(&error) => {
                    tracing::warn!(%error, "the file system cannot lock disks: keep others out yourself");
                    return Ok(None);
                }
                Err(error) => return Err(error),
                Ok(lock) => return Ok(Some(lock)),
            }
        }
    }

    fn try_take(file: &File, wanted: Use) -> Result<ImageLock, LockError> {
        // First say what is wanted, then look: of two that come at once, at least one sees the
        // other.
        let lock = ImageLock(());
        let result = lock.announce(file, wanted).and_then(|()| conflict(file, wanted));
        match result {
            Ok(None) => Ok(lock),
            Ok(Some(conflict)) => {
                lock.release(file);
                Err(LockError::Conflict(conflict))
            }
            Err(error) => {
                lock.release(file);
                Err(match error.raw_os_error() {
                    // QEMU takes no exclusive locks; other programs do.
                    Some(libc::EAGAIN | libc::EACCES) => {
                        LockError::Conflict("has locked the file for itself")
                    }
                    _ => LockError::Host(error),
                })
            }
        }
    }

    fn announce(&self, file: &File, wanted: Use) -> io::Result<()> {
        for permission in ALL {
            if wanted.uses(permission) {
                sys::set_lock(file, LockKind::Shared, USED + permission as u64, 1)?;
            }
            if wanted.denies(permission) {
                sys::set_lock(file, LockKind::Shared, DENIED + permission as u64, 1)?;
            }
        }
        Ok(())
    }

    /// Gives the locks up.
    pub(crate) fn release(self, file: &File) {
        let bytes = DENIED + ALL.len() as u64 - USED;
        if let Err(error) = sys::set_lock(file, LockKind::Unlock, USED, bytes) {
            tracing::warn!(%error, "cannot unlock a disk");
        }
    }
}

/// Whether a conflict may be over soon, after it was looked at again so often.
fn may_pass(file: &File, tries: u32) -> bool {
    if tries < TRIES {
        return true;
    }
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let (holder, all_seen) = Holder::search(Path::new(&path));
    let most = if all_seen { TRIES_IF_NOBODY.1 } else { TRIES_IF_NOBODY.0 };
    if holder.is_none() && tries == TELL_AT {
        tracing::warn!(
            "a disk is locked by nobody who is there: waiting for the last requests of a process that was killed"
        );
    }
    holder.is_none() && tries < most
}

/// What another user of the file does that `wanted` cannot bear, or does not bear of `wanted`.
fn conflict(file: &File, wanted: Use) -> io::Result<Option<&'static str>> {
    for permission in ALL {
        if wanted.uses(permission) && sys::is_locked_by_other(file, DENIED + permission as u64, 1)?
        {
            return Ok(Some(match permission {
                Write => "uses the disk and lets nobody else write",
                _ => "lets nobody else use the disk",
            }));
        }
        if wanted.denies(permission) && sys::is_locked_by_other(file, USED + permission as u64, 1)?
        {
            return Ok(Some(match permission {
                Write => "writes to the disk",
                _ => "changes the disk",
            }));
        }
    }
    Ok(None)
}

/// Whether the error means that there are no locks of this kind here at all.
fn is_lockless(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOLCK | libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL)
    )
}

/// A process that holds locks on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its command's name.
    pub command: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_this_process() {
            true => write!(f, "another disk of this process, process {}", self.pid),
            false => write!(f, "process {} ({})", self.pid, self.command),
        }
    }
}

impl Holder {
    /// Whether the file is part of two disks that do not bear each other.
    fn is_this_process(&self) -> bool {
        self.pid == std::process::id()
    }

    /// Who it is, as far as that is known.
    pub(crate) fn describe(holder: Option<&Holder>) -> String {
        holder.map_or_else(|| "another process".to_owned(), Holder::to_string)
    }

    /// What to do about it; `unknown` is what to call one who is not known.
    pub(crate) fn help(holder: Option<&Holder>, unknown: &str) -> String {
        match holder {
            Some(holder) if holder.is_this_process() => {
                "give each disk layers of its own: the file is part of two of them".to_owned()
            }
            Some(holder) => format!("wait for process {} to end or stop it", holder.pid),
            None => format!("wait for {unknown} to end or stop it"),
        }
    }

    /// Finds a process that has the file open and locked, as far as `/proc` lets this one see.
    pub(crate) fn find(path: &Path) -> Option<Holder> {
        Holder::search(path).0
    }

    /// The same, and whether the files of all processes could be seen. (`F_OFD_GETLK` and
    /// `/proc/locks` name no process for locks that belong to open files.)
    fn search(path: &Path) -> (Option<Holder>, bool) {
        let wanted = fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
        let (Some(wanted), Ok(processes)) = (wanted, fs::read_dir("/proc")) else {
            return (None, false);
        };
        let mut all_seen = true;
        for entry in processes.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            match holds(pid, wanted) {
                Ok(false) => {}
                Ok(true) => {
                    let command = fs::read_to_string(format!("/proc/{pid}/comm"));
                    let command = command.unwrap_or_default().trim_end().to_owned();
                    return (Some(Holder { pid, command }), all_seen);
                }
                Err(error) => all_seen &= error.kind() != io::ErrorKind::PermissionDenied,
            }
        }
        (None, all_seen)
    }
}

/// Whether one of the process' descriptors is the file and has locks.
fn holds(pid: u32, wanted: (u64, u64)) -> io::Result<bool> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?;
    Ok(descriptors.flatten().any(|descriptor| {
        let is_wanted =
            fs::metadata(descriptor.path()).is_ok_and(|file| (file.dev(), file.ino()) == wanted);
        is_wanted && {
            let info = format!("/proc/{pid}/fdinfo/{}", descriptor.file_name().display());
            fs::read_to_string(info)
                .is_ok_and(|info| info.lines().any(|line| line.starts_with("lock:")))
        }
    }))
}
