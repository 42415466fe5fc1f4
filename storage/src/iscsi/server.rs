//! The server: listens, and gives every connection a thread.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::connection;
use super::limits::ServerLimits;
use super::login::Policy;
use super::memory::Memory;
use super::names::IscsiName;
use super::poller::{Bell, Order};
use super::registry::{Connected, Registry, SessionStatus};
use super::secrets::ChapSecrets;
use crate::scsi::Target;

/// How to serve.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Where to listen; port 0 is any that is free.
    pub addresses: Vec<SocketAddr>,
    /// The target's name.
    pub iqn: IscsiName,
    /// What initiators must know to be let in; without, everybody is.
    pub chap: Option<ChapSecrets>,
    /// What clients may cost.
    pub limits: ServerLimits,
}

impl ServerOptions {
    /// A server on a free port of the loopback interface, for everybody there.
    pub fn on_loopback(iqn: IscsiName) -> ServerOptions {
        ServerOptions {
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            iqn,
            chap: None,
            limits: ServerLimits::default(),
        }
    }
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// Nowhere to listen.
    #[error("an iSCSI server needs an address to listen on")]
    NoAddress,
    /// An address cannot be had.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A thread or descriptor cannot be had.
    #[error("cannot start serving")]
    Start {
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What all connections share.
pub(super) struct Shared {
    pub(super) target: Target,
    pub(super) policy: Policy,
    pub(super) registry: Arc<Registry>,
    pub(super) memory: Arc<Memory>,
    /// Where it listens.
    pub(super) addresses: Vec<SocketAddr>,
    started: Instant,
    /// When something was last said about a client that does not keep to the rules.
    said: AtomicU64,
}

impl Shared {
    pub(super) fn new(target: Target, policy: Policy, addresses: Vec<SocketAddr>) -> Shared {
        Shared {
            target,
            memory: Arc::new(Memory::new(&policy.limits)),
            policy,
            registry: Arc::default(),
            addresses,
            started: Instant::now(),
            said: AtomicU64::new(0),
        }
    }

    /// Whether to log what any client can bring about, which is done once a second at most.
    pub(super) fn may_say(&self) -> bool {
        let now = self.started.elapsed().as_secs() + 1;
        self.said.swap(now, Ordering::Relaxed) != now
    }
}

/// An iSCSI server, until stopped or dropped.
pub struct Server {
    shared: Arc<Shared>,
    bell: Arc<Bell>,
    listener: Mutex<Option<JoinHandle<()>>>,
}

impl Server {
    /// Serves the target.
    pub fn bind(target: Target, options: ServerOptions) -> Result<Server, ServerError> {
        let ServerOptions { addresses, iqn, chap, limits } = options;
        if addresses.is_empty() {
            return Err(ServerError::NoAddress);
        }
        let mut listeners = Vec::new();
        let mut bound = Vec::new();
        for address in addresses {
            let failed = |source| ServerError::Listen { address, source };
            let listener = TcpListener::bind(address).map_err(failed)?;
            listener.set_nonblocking(true).map_err(failed)?;
            bound.push(listener.local_addr().map_err(failed)?);
            listeners.push(listener);
        }
        let failed = |source: io::Error| ServerError::Start { source };
        let bell = Arc::new(Bell::new().map_err(|error| failed(error.into()))?);
        let policy = Policy { target: iqn, chap, limits: limits.in_range() };
        let shared = Arc::new(Shared::new(target, policy, bound));
        let listener = {
            let (shared, bell) = (Arc::clone(&shared), Arc::clone(&bell));
            let thread = thread::Builder::new().name("iscsi-listen".to_owned());
            thread.spawn(move || listen(&shared, &listeners, &bell)).map_err(failed)?
        };
        Ok(Server { shared, bell, listener: Mutex::new(Some(listener)) })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.shared.addresses
    }

    /// The target's name.
    pub fn iqn(&self) -> &IscsiName {
        &self.shared.policy.target
    }

    /// The sessions there are.
    pub fn sessions(&self) -> Vec<SessionStatus> {
        self.shared.registry.status()
    }

    /// Takes no more connections, tells initiators, and waits until all sessions are over:
    /// commands that reached a disk are carried out and answered.
    pub fn stop(&self) {
        self.bell.ring(Order::Stop);
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(listener) = listener
            && listener.join().is_err()
        {
            tracing::error!("the thread that listens for iSCSI initiators panicked");
        }
        self.shared.registry.stop();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn listen(shared: &Arc<Shared>, listeners: &[TcpListener], bell: &Bell) {
    while bell.order().is_none() {
        let mut fds = vec![PollFd::new(bell, PollFlags::IN)];
        fds.extend(listeners.iter().map(|listener| PollFd::new(listener, PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return tracing::error!(%error, "cannot wait for iSCSI initiators"),
        }
        for listener in listeners {
            match listener.accept() {
                Ok((socket, peer)) => welcome(shared, socket, peer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    if shared.may_say() {
                        tracing::warn!(%error, "cannot take an iSCSI connection");
                    }
                    // Descriptors may have run out, and the connection is still there to be taken.
                    thread::sleep(Duration::from_millis(20));
                }
            }
        }
    }
}

/// Gives a connection its thread, if there is room.
fn welcome(shared: &Arc<Shared>, socket: TcpStream, peer: SocketAddr) {
    let limit = shared.policy.limits.connections;
    let place = Bell::new().ok().and_then(|bell| shared.registry.connect(bell, limit));
    let Some(place) = place else {
        if shared.may_say() {
            tracing::warn!(%peer, limit, "no room for another iSCSI connection");
        }
        return;
    };
    let own = Arc::clone(shared);
    let thread = thread::Builder::new().name("iscsi-session".to_owned());
    let serve = move || {
        let place: Connected = place;
        connection::serve(&own, &socket, peer, &place);
    };
    if let Err(error) = thread.spawn(serve)
        && shared.may_say()
    {
        tracing::warn!(%error, %peer, "no thread for an iSCSI connection");
    }
}
