//! An iSCSI initiator: a guest's way to a logical unit of a target elsewhere, whoever made it.
//!
//! ```text
//!  guest's threads                     the session's thread
//!  RemoteQueue ──► Port ──► Agent: have a session, keep it, have it again     agent.rs
//!   port.rs  ▲                 ├──► dial: address, connection, login          dial.rs, offer.rs, proof.rs
//!            │                 └──► Session: commands, data, functions        session.rs, session/
//!            └── Mailbox ◄──────────────┘      └──► Outbox, Input             wire.rs
//! ```
//!
//! Error recovery level 0, one connection. The port's name and ISID stay the same whatever happens
//! to the connection, so that the target takes the next session for the same nexus, and its
//! reservations stay.
//!
//! **When the connection is lost, what was acknowledged is not sent again, and what may have been
//! carried out is not claimed to be either way.** Commands of which no byte was sent go to the next
//! session, and so do those that may be carried out twice (`repeat.rs`); the others end as not
//! delivered, and the guest decides.
//!
//! **Targets may be hostile as well**: what is not in order ends the session, and the only memory
//! that a target can have filled is that which the guest gave for it.

mod agent;
mod dial;
mod offer;
mod options;
mod port;
mod proof;
mod repeat;
mod session;
mod status;
#[cfg(test)]
mod tests;
mod url;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};

pub use dial::ConnectError;
pub use options::{Credentials, SessionLimits, SessionOptions};
pub use status::RemoteStatus;
pub use url::{BadUrl, IscsiUrl};

use agent::Agent;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use agent::fuzzing;
use port::{Letter, Port, RemoteQueue};
use status::Known;

use crate::DiskError;
use crate::scsi::{CommandQueue, Initiator};

/// A logical unit of a remote target, as one initiator port has it. It is shown as unit 0, alone.
///
/// Commands wait while the connection is lost, up to [`SessionOptions::lost_patience`]. Dropped, it
/// logs out; commands of its queues then end as not delivered.
pub struct RemoteTarget {
    url: IscsiUrl,
    port: Arc<Port>,
    thread: Option<JoinHandle<()>>,
}

impl RemoteTarget {
    /// Logs in.
    ///
    /// # Errors
    /// The target cannot be reached or does not let us in. Once there was a session, that is not
    /// the end: it is tried again until it succeeds.
    pub fn connect(
        url: &IscsiUrl,
        mut options: SessionOptions,
    ) -> Result<RemoteTarget, ConnectError> {
        let host = |source| ConnectError::Host { source };
        options.limits = options.limits.in_range();
        let session = dial::dial(url, &options)?;
        tracing::info!(%url, peer = %session.peer, "an iSCSI session with a target begins");
        let port = Port::new(Known::new(session.peer)).map_err(|error| host(error.into()))?;
        let port = Arc::new(port);
        let agent = Agent::new(url.clone(), options, Arc::clone(&port), session);
        let thread = thread::Builder::new().name("iscsi-initiator".to_owned());
        let thread = thread.spawn(move || agent.run()).map_err(host)?;
        Ok(RemoteTarget { url: url.clone(), port, thread: Some(thread) })
    }

    /// Where it is.
    pub fn url(&self) -> &IscsiUrl {
        &self.url
    }

    /// How the session is.
    pub fn status(&self) -> RemoteStatus {
        self.port.known.status(self.port.commands.load(Ordering::Relaxed))
    }
}

impl Initiator for RemoteTarget {
    fn queue(&self, depth: u16) -> Result<Box<dyn CommandQueue>, DiskError> {
        Ok(Box::new(RemoteQueue::new(Arc::clone(&self.port), depth)?))
    }

    /// Ends the session and begins another of the same port, by which the target knows.
    fn nexus_lost(&self) {
        self.port.post([Letter::NexusLost]);
    }
}

impl Drop for RemoteTarget {
    fn drop(&mut self) {
        self.port.post([Letter::Stop]);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of an iSCSI session panicked");
        }
    }
}

impl fmt::Debug for RemoteTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteTarget").field("url", &self.url).finish_non_exhaustive()
    }
}
