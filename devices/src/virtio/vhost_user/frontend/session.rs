//! One connection to a back end: the handshake, and requests with a limit on how long the answers
//! may take.
//!
//! The `vhost` crate speaks the protocol. It reads an answer for as long as it takes, whatever
//! limit the socket has, so a second thread shuts the socket down when time is up.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use vhost::VhostBackend;
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Error as WireError, Frontend, VhostUserFrontend};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;

use super::back_channel::BackChannel;
use super::{FrontEndError, Kind, config};

/// How long a back end may take for the answers to one series of requests.
const ANSWER_LIMIT: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 10 });
/// Pauses between attempts to connect: the first, and the longest that doubling leads to.
pub(super) const BACKOFF: (Duration, Duration) =
    (Duration::from_millis(10), Duration::from_secs(1));
/// Queues that a device can have at all. A back end that has more is as good as one with these.
const QUEUES_MAX: u16 = 255;

/// Protocol features that are used where the back end has them.
const PROTOCOL: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ
    .union(VhostUserProtocolFeatures::CONFIG)
    .union(VhostUserProtocolFeatures::REPLY_ACK)
    .union(VhostUserProtocolFeatures::INFLIGHT_SHMFD)
    .union(VhostUserProtocolFeatures::RESET_DEVICE)
    .union(VhostUserProtocolFeatures::BACKEND_REQ);

/// A back end that has answered the handshake.
pub(super) struct Session {
    path: PathBuf,
    kind: Kind,
    frontend: Frontend,
    /// The same socket.
    socket: UnixStream,
    /// Virtio features that the back end offers.
    pub(super) features: u64,
    pub(super) protocol: VhostUserProtocolFeatures,
    /// Virtqueues that the back end has, of all purposes.
    pub(super) queues: u16,
    /// What the back end says of its device; nothing where it leaves that to us.
    pub(super) config: Option<Vec<u8>>,
    pub(super) back_channel: Option<BackChannel>,
}

impl Session {
    /// Connects as soon as there is a listener, but not later than after `patience`, and shakes
    /// hands.
    pub(super) fn open(
        path: &Path,
        kind: Kind,
        patience: Duration,
    ) -> Result<Session, FrontEndError> {
        let deadline = Instant::now() + patience;
        let (mut pause, longest) = BACKOFF;
        loop {
            match Session::open_now(path, kind) {
                Err(error) if error.is_absent() && Instant::now() + pause < deadline => {
                    thread::sleep(pause);
                    pause = (pause * 2).min(longest);
                }
                other => return other,
            }
        }
    }

    /// Connects to whoever listens now, and shakes hands.
    pub(super) fn open_now(path: &Path, kind: Kind) -> Result<Session, FrontEndError> {
        let socket = dial(path)?;
        let host = |source| FrontEndError::Connect { path: path.into(), source };
        let frontend = Frontend::from_stream(socket.try_clone().map_err(host)?, QUEUES_MAX.into());
        let mut session = Session {
            path: path.into(),
            kind,
            frontend,
            socket,
            features: 0,
            protocol: VhostUserProtocolFeatures::empty(),
            queues: 1,
            config: None,
            back_channel: None,
        };
        session.shake_hands()?;
        Ok(session)
    }

    fn shake_hands(&mut self) -> Result<(), FrontEndError> {
        let negotiable = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        let (features, protocol) = self.ask("its features", |frontend| {
            frontend.set_owner()?;
            let features = frontend.get_features()?;
            let mut protocol = VhostUserProtocolFeatures::empty();
            if features & negotiable != 0 {
                protocol = frontend.get_protocol_features()? & PROTOCOL;
                frontend.set_protocol_features(protocol)?;
            }
            Ok((features, protocol))
        })?;
        self.features = features;
        self.protocol = protocol;
        if features & 1 << VIRTIO_F_VERSION_1 == 0 {
            return Err(self.lacks("virtio 1.0 (VIRTIO_F_VERSION_1)"));
        }
        self.read_config()?;
        config::check_kind(&self.path, self.kind, self.features, self.config.as_deref())?;
        self.queues = match self.kind {
            Kind::Block => 1,
            // Without a question for it: control, event and one request queue.
            Kind::Scsi => 3,
        };
        if protocol.contains(VhostUserProtocolFeatures::MQ) {
            let queues = self.ask("its number of queues", |frontend| frontend.get_queue_num())?;
            self.queues = u16::try_from(queues).unwrap_or(u16::MAX).min(QUEUES_MAX);
        }
        if self.queues < self.kind.fixed_queues() + 1 {
            return Err(self.lacks("a request queue"));
        }
        self.open_back_channel()
    }

    /// Tells the back end that the driver has reset the device, if that is to be told: what lasts
    /// only as long as the guest runs ends with it.
    pub(super) fn reset_device(&self) -> Result<(), FrontEndError> {
        if !self.protocol.contains(VhostUserProtocolFeatures::RESET_DEVICE) {
            return Ok(());
        }
        self.ask("to reset the device", |frontend| frontend.reset_device())
    }

    /// Reads anew what the back end says of its device.
    pub(super) fn read_config(&mut self) -> Result<(), FrontEndError> {
        let read = match self.protocol.contains(VhostUserProtocolFeatures::CONFIG) {
            true => {
                let len = self.kind.config_len();
                self.ask("its configuration", |frontend| {
                    let space = vec![0; usize::try_from(len).unwrap_or(0)];
                    match frontend.get_config(0, len, VhostUserConfigFlags::empty(), &space) {
                        Ok((_, config)) => Ok(Some(config)),
                        // The answer of a back end that has none, or less of it.
                        Err(vhost::Error::VhostUserProtocol(WireError::BackendInternalError)) => {
                            Ok(None)
                        }
                        Err(error) => Err(error),
                    }
                })?
            }
            false => None,
        };
        if read.is_none() && self.kind == Kind::Block {
            return Err(self.lacks("the configuration of a disk (VHOST_USER_PROTOCOL_F_CONFIG)"));
        }
        self.config = read;
        Ok(())
    }

    /// Gives the back end a socket on which it can tell of a changed configuration.
    fn open_back_channel(&mut self) -> Result<(), FrontEndError> {
        if !self.protocol.contains(VhostUserProtocolFeatures::BACKEND_REQ) {
            return Ok(());
        }
        let host = |source| FrontEndError::Connect { path: self.path.clone(), source };
        let (ours, theirs) = UnixStream::pair().map_err(host)?;
        let channel = BackChannel::new(ours).map_err(host)?;
        self.ask("a channel for its requests", |frontend| {
            frontend.set_backend_request_fd(&theirs)
        })?;
        self.back_channel = Some(channel);
        Ok(())
    }

    /// Writes the driver's `data` to the device's configuration.
    pub(super) fn write_config(&self, offset: usize, data: &[u8]) -> Result<(), FrontEndError> {
        let offset = u32::try_from(offset).unwrap_or(u32::MAX);
        self.ask("a change of configuration", |frontend| {
            frontend.set_config(offset, VhostUserConfigFlags::WRITABLE, data)
        })
    }

    /// Makes requests, called `step` in messages. Requests that are not answered in time end the
    /// connection.
    pub(super) fn ask<T>(
        &self,
        step: &'static str,
        requests: impl FnOnce(&mut Frontend) -> Result<T, vhost::Error>,
    ) -> Result<T, FrontEndError> {
        let (done, wait) = mpsc::channel::<()>();
        let mut frontend = self.frontend.clone();
        thread::scope(|scope| {
            let watch = thread::Builder::new().name("vhost-user/limit".into());
            let watcher = watch.spawn_scoped(scope, move || {
                let late = wait.recv_timeout(ANSWER_LIMIT) == Err(RecvTimeoutError::Timeout);
                if late {
                    // Fails when the other end is gone, of which reading tells.
                    let _ = self.socket.shutdown(std::net::Shutdown::Both);
                }
                late
            });
            let watcher = watcher
                .map_err(|source| FrontEndError::Connect { path: self.path.clone(), source })?;
            let result = requests(&mut frontend);
            drop(done);
            let late = watcher.join().unwrap_or(false);
            result.map_err(|source| match late {
                true => FrontEndError::NoAnswer { path: self.path.clone(), step },
                false => FrontEndError::Protocol { path: self.path.clone(), step, source },
            })
        })
    }

    /// Whether the back end may go on from the record of requests in flight that another one of
    /// its kind kept.
    pub(super) fn records_inflight(&self) -> bool {
        self.protocol.contains(VhostUserProtocolFeatures::INFLIGHT_SHMFD)
    }

    /// Whether the back end has hung up.
    pub(super) fn is_gone(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut sockets = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        poll(&mut sockets, Some(&now)).is_ok() && sockets[0].revents().intersects(gone)
    }

    pub(super) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    fn lacks(&self, what: &'static str) -> FrontEndError {
        FrontEndError::Lacks { path: self.path.clone(), what }
    }
}

/// Connects without waiting for a listener whose queue is full.
fn dial(path: &Path) -> Result<UnixStream, FrontEndError> {
    let fail = |error: rustix::io::Errno| FrontEndError::connecting(path, error.into());
    let address = SocketAddrUnix::new(path).map_err(fail)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(fail)?;
    connect(&socket, &address).map_err(fail)?;
    let socket = UnixStream::from(socket);
    socket.set_nonblocking(false).map_err(|error| FrontEndError::connecting(path, error))?;
    Ok(socket)
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("path", &self.path)
            .field("socket", &self.socket.as_raw_fd())
            .field("features", &format_args!("{:#x}", self.features))
            .field("protocol", &self.protocol)
            .field("queues", &self.queues)
            .finish_non_exhaustive()
    }
}
