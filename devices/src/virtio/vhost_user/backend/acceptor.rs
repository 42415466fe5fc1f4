//! The threads of a socket: one lets front ends in, one serves the one that is in.

use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::RecvFlags;
use vhost::vhost_user::message::FrontendReq;
use vhost::vhost_user::{BackendReqHandler, Error, VhostUserProtocolFeatures};
use vmm_sys_util::eventfd::EventFd;

use super::session::Session;
use super::signals::Signals;
use super::{Shared, fds};
use crate::limited::warn_limited;
use crate::sync::lock;

/// How long nobody is let in after the host could not accept, in nanoseconds.
const REST: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// How often to look whether a thread has ended.
const LOOK: Duration = Duration::from_millis(1);
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// A message's header: request, flags, size, each of 32 bits.
const HEADER_LEN: usize = 12;
/// The flag of a header that asks whether the message was refused.
const NEED_REPLY: u32 = 1 << 3;

/// Lets front ends in.
pub(super) struct Acceptor {
    listener: UnixListener,
    stop: EventFd,
    shared: Arc<Shared>,
    current: Option<Current>,
}

/// The front end that is in.
struct Current {
    socket: UnixStream,
    peer: Option<u32>,
    signals: Arc<Signals>,
    thread: JoinHandle<()>,
}

impl Current {
    /// Whether it has closed its end, or is not served any more.
    fn gone(&self) -> bool {
        let wanted = PollFlags::RDHUP | PollFlags::HUP;
        let mut fds = [PollFd::new(&self.socket, wanted)];
        let polled = poll(&mut fds, Some(&NOW));
        self.thread.is_finished()
            || polled.is_ok_and(|_| fds.iter().any(|fd| fd.revents().intersects(wanted)))
    }

    /// Waits until it is not served any more.
    fn end(self) {
        // Ends what its thread waits for, if it does.
        let _ = self.socket.shutdown(Shutdown::Both);
        while !self.thread.is_finished() {
            thread::sleep(LOOK);
            self.signals.free_waiting();
        }
        // A panic has told of itself.
        let _ = self.thread.join();
    }
}

impl Acceptor {
    pub(super) fn new(listener: UnixListener, stop: EventFd, shared: Arc<Shared>) -> Acceptor {
        Acceptor { listener, stop, shared, current: None }
    }

    /// Works until told to stop.
    pub(super) fn run(mut self) {
        while !self.wait(true, None) {
            match self.listener.accept() {
                Ok((socket, _)) => self.admit(socket),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    let path = self.shared.path.display();
                    warn_limited!(%error, %path, "cannot accept a vhost-user front end");
                    if self.wait(false, Some(&REST)) {
                        break;
                    }
                }
            }
        }
        if let Some(current) = self.current.take() {
            current.end();
        }
    }

    /// Waits, if `accept` also for a front end; whether it is time to stop.
    fn wait(&self, accept: bool, timeout: Option<&Timespec>) -> bool {
        let stop = fds::borrow(&self.stop);
        let wanted = if accept { PollFlags::IN } else { PollFlags::empty() };
        let mut fds = [PollFd::new(&stop, PollFlags::IN), PollFd::new(&self.listener, wanted)];
        // An interruption is a reason to look, like any other.
        let polled = poll(&mut fds, timeout);
        polled.is_ok() && fds.first().is_some_and(|fd| !fd.revents().is_empty())
    }

    /// Serves the front end on `socket`, if there is no other.
    fn admit(&mut self, socket: UnixStream) {
        let peer = fds::peer(&socket);
        if let Some(current) = &self.current
            && !current.gone()
        {
            let path = self.shared.path.display();
            let with = current.peer;
            warn_limited!(%path, ?peer, ?with, "a second vhost-user front end is turned away");
            return;
        }
        if let Some(gone) = self.current.take() {
            gone.end();
        }
        match self.serve(socket, peer) {
            Ok(current) => self.current = Some(current),
            Err(error) => {
                let path = self.shared.path.display();
                warn_limited!(%error, %path, "cannot serve a vhost-user front end");
            }
        }
    }

    fn serve(&self, socket: UnixStream, peer: Option<u32>) -> std::io::Result<Current> {
        // A reader that has to wait would look again and again otherwise.
        socket.set_nonblocking(false)?;
        let (ours, theirs) = (socket.try_clone()?, socket.try_clone()?);
        let shared = Arc::clone(&self.shared);
        let queues = lock(&shared.device).info().queue_sizes.len();
        let signals = Arc::new(Signals::new(queues));
        let used = Arc::clone(&signals);
        let thread =
            thread::Builder::new().name("vhost-user/peer".to_owned()).spawn(move || {
                shared.serve(socket, peer, used);
                // One that is cut off must hear of it, although we still have a hold of the socket.
                let _ = theirs.shutdown(Shutdown::Both);
            })?;
        Ok(Current { socket: ours, peer, signals, thread })
    }
}

impl Shared {
    /// Serves one front end to its end.
    fn serve(self: Arc<Shared>, socket: UnixStream, peer: Option<u32>, signals: Arc<Signals>) {
        {
            let mut status = lock(&self.status);
            status.connected = true;
            status.peer = peer;
            status.connections = status.connections.saturating_add(1);
        }
        let (reset, change) = (Arc::clone(&self), Arc::clone(&self));
        let session = Session::new(
            Arc::clone(&self.device),
            signals,
            Box::new(move || (lock(&reset.on_lost))()),
            Box::new(move |queues| lock(&change.status).queues_started = queues),
        );
        let path = self.path.display();
        let mut said_anything = false;
        match self.converse(socket, session, &mut said_anything) {
            Ok(()) | Err(Error::Disconnected) => {
                tracing::debug!(%path, ?peer, "a vhost-user front end is gone");
            }
            Err(error) => {
                warn_limited!(%error, %path, ?peer, "a vhost-user front end is cut off");
            }
        }
        {
            let mut status = lock(&self.status);
            status.connected = false;
            status.peer = None;
            status.queues_started = 0;
        }
        if said_anything {
            (lock(&self.on_lost))();
        }
    }

    /// Does what the front end says, until it is gone or does not make sense. The device is
    /// stopped then.
    fn converse(
        &self,
        socket: UnixStream,
        session: Session,
        said_anything: &mut bool,
    ) -> Result<(), Error> {
        let peek = socket.try_clone().map_err(Error::SocketError)?;
        let session = Arc::new(Mutex::new(session));
        let mut handler = BackendReqHandler::from_stream(socket, Arc::clone(&session));
        loop {
            let mut header = [0; HEADER_LEN];
            let len = match rustix::net::recv(&peek, &mut header, RecvFlags::PEEK) {
                Ok((0, _)) => return Ok(()),
                Ok((len, _)) => len,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(Error::SocketError(error.into())),
            };
            *said_anything = true;
            lock(&session).refused = false;
            let Err(error) = handler.handle_request() else { continue };
            let session = lock(&session);
            let acknowledges = session.introduced
                && session.protocol & VhostUserProtocolFeatures::REPLY_ACK.bits() != 0;
            if !(session.refused && acknowledges && len == HEADER_LEN && wants_answer(header)) {
                return Err(error);
            }
        }
    }
}

/// Whether the message with this header is answered when it is refused.
fn wants_answer(header: [u8; HEADER_LEN]) -> bool {
    let [a, b, c, d, e, f, g, h, ..] = header;
    let request = u32::from_ne_bytes([a, b, c, d]);
    let flags = u32::from_ne_bytes([e, f, g, h]);
    // Those whose answer is something else, of which there is none when they are refused.
    let other = [
        FrontendReq::GET_VRING_BASE,
        FrontendReq::GET_INFLIGHT_FD,
        FrontendReq::GET_SHMEM_CONFIG,
        FrontendReq::SET_LOG_BASE,
    ];
    flags & NEED_REPLY != 0 && !other.iter().any(|other| u32::from(*other) == request)
}
