//! The vhost-user back end: drives any [`VirtioDevice`] for a guest of another process, the front
//! end, which sends its memory and the eventfds of its queues over a Unix socket.
//!
//! Two threads serve a socket: one accepts, one does what the front end says. The device works in
//! the front end's memory itself, in its own threads.
//!
//! A front end is not trusted. Whatever it sends, it gets no further than its own device: a
//! message that makes no sense ends its connection (or is answered, if the front end asked for
//! that), and work on the queues that it may not slow down does not wait for it. Its memory must
//! be sealed against truncation, since to touch memory that is not there any more ends a process
//! (`SIGBUS`): QEMU's `memory-backend-memfd` is, `memory-backend-file` is not and is refused.
//! Eventfds are made non-blocking; a front end that undoes that can hold up its own device, but
//! not the end of its connection.
//!
//! A front end that keeps the records of requests in flight ([`super::super::queue::Inflight`])
//! outlives a server that dies: what was taken and not answered is done again.

mod acceptor;
mod fds;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod handler;
mod memory;
mod refusal;
mod ring;
mod session;
mod signals;
mod socket;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use serde::Serialize;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use self::acceptor::Acceptor;
#[cfg(test)]
pub(crate) use self::fds::borrow;
use self::socket::Socket;
use crate::sync::lock;
use crate::virtio::device::VirtioDevice;

/// A device on a Unix socket, for one front end at a time.
pub struct BackEnd {
    socket: Socket,
    shared: Arc<Shared>,
    stop: EventFd,
    acceptor: Option<JoinHandle<()>>,
}

/// How a [`BackEnd`] is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BackEndStatus {
    /// Whether there is a front end.
    pub connected: bool,
    /// Its process number, if it has one here.
    pub peer: Option<u32>,
    /// Front ends so far, this one included.
    pub connections: u64,
    /// Queues that the device works on.
    pub queues_started: usize,
}

/// Why a device cannot be offered on a socket.
#[derive(Debug, thiserror::Error)]
pub enum BackEndError {
    /// Another server listens on the socket.
    #[error("another server listens on {}", .0.display())]
    InUse(PathBuf),
    /// There is a file that is no socket.
    #[error("{} exists and is not a socket", .0.display())]
    NotSocket(PathBuf),
    /// The host does not let us listen.
    #[error("cannot listen on {}", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The host cannot provide what a back end needs.
    #[error("cannot {what}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// What the host said.
        source: io::Error,
    },
}

/// What the threads of a back end share.
struct Shared {
    path: PathBuf,
    device: Arc<Mutex<Box<dyn VirtioDevice>>>,
    on_lost: Mutex<Box<dyn Fn() + Send>>,
    status: Mutex<BackEndStatus>,
}

impl BackEnd {
    /// Offers `device` on a new socket at `path`, which only this user may connect to. A socket
    /// there that nobody listens on is replaced. `on_lost` is called when a front end that had
    /// said anything is gone, and when one resets the device; the device is stopped then.
    ///
    /// # Errors
    /// [`BackEndError`]; nothing is left behind then.
    pub fn listen(
        path: &Path,
        device: Box<dyn VirtioDevice>,
        on_lost: Box<dyn Fn() + Send>,
    ) -> Result<BackEnd, BackEndError> {
        let host = |what| move |source| BackEndError::Host { what, source };
        let stop = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(host("make an eventfd"))?;
        let stopped = stop.try_clone().map_err(host("make an eventfd"))?;
        let (socket, listener) = Socket::listen(path)?;
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            device: Arc::new(Mutex::new(device)),
            on_lost: Mutex::new(on_lost),
            status: Mutex::default(),
        });
        let acceptor = Acceptor::new(listener, stopped, Arc::clone(&shared));
        let acceptor = thread::Builder::new()
            .name("vhost-user".to_owned())
            .spawn(move || acceptor.run())
            .map_err(host("start a thread"))?;
        Ok(BackEnd { socket, shared, stop, acceptor: Some(acceptor) })
    }

    /// Where the socket is.
    pub fn path(&self) -> &Path {
        self.socket.path()
    }

    /// How it is doing.
    pub fn status(&self) -> BackEndStatus {
        *lock(&self.shared.status)
    }
}

impl Drop for BackEnd {
    fn drop(&mut self) {
        // Full only if written 2^64 - 1 times.
        let _ = self.stop.write(1);
        if let Some(acceptor) = self.acceptor.take() {
            // A panic has told of itself.
            let _ = acceptor.join();
        }
        lock(&self.shared.device).stop();
    }
}

impl fmt::Debug for BackEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackEnd")
            .field("path", &self.path())
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
