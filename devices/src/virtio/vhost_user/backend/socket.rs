//! The socket in the file system that front ends connect to.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::BackEndError;

/// Front ends that may wait to be accepted.
const BACKLOG: i32 = 16;

/// A socket's file, which is removed with this value.
pub(super) struct Socket {
    path: PathBuf,
    /// Device and inode.
    identity: Option<(u64, u64)>,
}

impl Socket {
    /// Listens at `path`, without blocking.
    pub(super) fn listen(path: &Path) -> Result<(Socket, UnixListener), BackEndError> {
        let listener = match bind(path) {
            Err(Errno::ADDRINUSE) => {
                remove_stale(path)?;
                bind(path)
            }
            other => other,
        };
        let listener = listener.map_err(|error| cannot_listen(path, error.into()))?;
        let socket = Socket { path: path.to_owned(), identity: identity(path).ok() };
        rustix::net::listen(&listener, BACKLOG)
            .map_err(|error| cannot_listen(path, error.into()))?;
        Ok((socket, listener))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Another server may have put its own there.
        if self.identity.is_some() && identity(&self.path).ok() == self.identity {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn cannot_listen(path: &Path, source: io::Error) -> BackEndError {
    BackEndError::Listen { path: path.to_owned(), source }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn socket() -> Result<rustix::fd::OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn bind(path: &Path) -> Result<UnixListener, Errno> {
    let socket = socket()?;
    // The file gets the socket's mode, so nobody else can connect before it is changed.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixListener::from(socket))
}

/// Removes what is at `path` if it is a socket that nobody listens on.
fn remove_stale(path: &Path) -> Result<(), BackEndError> {
    let failed = |error: io::Error| cannot_listen(path, error);
    if !fs::symlink_metadata(path).map_err(failed)?.file_type().is_socket() {
        return Err(BackEndError::NotSocket(path.to_owned()));
    }
    // Does not wait for a server that accepts nobody: that one is alive all the same.
    let probe = socket().and_then(|socket| {
        let address = SocketAddrUnix::new(path)?;
        rustix::net::connect(&socket, &address)
    });
    match probe {
        Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(failed),
        Ok(()) | Err(Errno::AGAIN) => Err(BackEndError::InUse(path.to_owned())),
        Err(error) => Err(failed(error.into())),
    }
}
