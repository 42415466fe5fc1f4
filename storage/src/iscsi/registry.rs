//! Who is connected, and which sessions there are.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::login::{Admitted, Failure};
use super::poller::{Bell, Order};

/// A session as it is now.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SessionStatus {
    /// The initiator's iSCSI name.
    pub initiator: String,
    /// What it calls itself.
    pub alias: Option<String>,
    /// Its part of the session's identity, 12 hexadecimal digits.
    pub isid: String,
    /// The target's part.
    pub tsih: u16,
    /// Where its connection comes from.
    pub peer: SocketAddr,
    /// Whether it only asks what targets there are.
    pub discovery: bool,
    /// The name by which it proved itself, if it had to.
    pub user: Option<String>,
    /// Whether headers and data have digests.
    pub digests: (bool, bool),
    /// How long it has lasted, in seconds.
    pub seconds: u64,
    /// Commands under way.
    pub commands: u32,
    /// Bytes received from it, headers included.
    pub received: u64,
    /// Bytes sent to it.
    pub sent: u64,
}

/// What a session's thread tells of itself.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) commands: AtomicU32,
    pub(super) received: AtomicU64,
    pub(super) sent: AtomicU64,
}

#[derive(Debug)]
struct Entry {
    admitted: Admitted,
    peer: SocketAddr,
    bell: Arc<Bell>,
    counters: Arc<Counters>,
    since: Instant,
}

#[derive(Debug, Default)]
struct State {
    stopping: bool,
    /// By number.
    connections: BTreeMap<u64, Arc<Bell>>,
    next_connection: u64,
    /// By TSIH.
    sessions: BTreeMap<u16, Entry>,
    last_tsih: u16,
}

/// All connections and sessions of a server.
#[derive(Debug, Default)]
pub(super) struct Registry {
    state: Mutex<State>,
    /// A connection or session is gone.
    gone: Condvar,
}

/// A connection's place, until dropped.
#[derive(Debug)]
pub(super) struct Connected {
    registry: Arc<Registry>,
    number: u64,
    pub(super) bell: Arc<Bell>,
}

/// A session's place, until dropped.
#[derive(Debug)]
pub(super) struct Seat {
    registry: Arc<Registry>,
    pub(super) tsih: u16,
    pub(super) counters: Arc<Counters>,
}

impl Registry {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection, if there is one.
    pub(super) fn connect(self: &Arc<Self>, bell: Bell, limit: usize) -> Option<Connected> {
        let mut state = self.state();
        if state.stopping || state.connections.len() >= limit {
            return None;
        }
        let number = state.next_connection;
        state.next_connection += 1;
        let bell = Arc::new(bell);
        state.connections.insert(number, Arc::clone(&bell));
        Some(Connected { registry: Arc::clone(self), number, bell })
    }

    /// Whether there is a session of this TSIH.
    pub(super) fn knows(&self, tsih: u16) -> bool {
        self.state().sessions.contains_key(&tsih)
    }

    /// A place for a session. One of the same initiator port ends first (RFC 7143
    /// section 6.3.5): two would be one nexus, and what the old one left must be over before the
    /// new one begins.
    pub(super) fn admit(
        self: &Arc<Self>,
        admitted: &Admitted,
        peer: SocketAddr,
        bell: &Arc<Bell>,
        deadline: Instant,
    ) -> Result<Seat, Failure> {
        let mut state = self.state();
        loop {
            if state.stopping {
                return Err(Failure::Unavailable);
            }
            let same = |entry: &&Entry| {
                let other = &entry.admitted;
                (&other.initiator, other.isid, other.discovery)
                    == (&admitted.initiator, admitted.isid, admitted.discovery)
            };
            let Some(old) = state.sessions.values().find(same) else { break };
            old.bell.ring(Order::Reinstated);
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::Target);
            }
            let waited = self.gone.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let free = |state: &State, tsih: u16| tsih != 0 && !state.sessions.contains_key(&tsih);
        let from = state.last_tsih;
        let mut candidates = (1..=u16::MAX).map(|step| from.wrapping_add(step));
        let tsih = candidates.find(|&tsih| free(&state, tsih)).ok_or(Failure::OutOfResources)?;
        state.last_tsih = tsih;
        let counters = Arc::new(Counters::default());
        let entry = Entry {
            admitted: admitted.clone(),
            peer,
            bell: Arc::clone(bell),
            counters: Arc::clone(&counters),
            since: Instant::now(),
        };
        state.sessions.insert(tsih, entry);
        Ok(Seat { registry: Arc::clone(self), tsih, counters })
    }

    /// Gives every session but one an order.
    pub(super) fn order_others(&self, tsih: u16, order: Order) {
        for (_, entry) in self.state().sessions.iter().filter(|&(&other, _)| other != tsih) {
            entry.bell.ring(order);
        }
    }

    /// Ends all connections, and waits until they are gone.
    pub(super) fn stop(&self) {
        let mut state = self.state();
        state.stopping = true;
        for bell in state.connections.values() {
            bell.ring(Order::Stop);
        }
        // Logins wait here, too.
        self.gone.notify_all();
        while !state.connections.is_empty() {
            let waited = self.gone.wait_timeout(state, Duration::from_millis(100));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn status(&self) -> Vec<SessionStatus> {
        let state = self.state();
        let sessions = state.sessions.iter().map(|(&tsih, entry)| {
            let Entry { admitted, peer, counters, since, .. } = entry;
            let digests = admitted.agreed.digests;
            SessionStatus {
                initiator: admitted.initiator.to_string(),
                alias: admitted.alias.clone(),
                isid: admitted.isid.to_string(),
                tsih,
                peer: *peer,
                discovery: admitted.discovery,
                user: admitted.user.clone(),
                digests: (digests.header, digests.data),
                seconds: since.elapsed().as_secs(),
                commands: counters.commands.load(Ordering::Relaxed),
                received: counters.received.load(Ordering::Relaxed),
                sent: counters.sent.load(Ordering::Relaxed),
            }
        });
        sessions.collect()
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.registry.state().connections.remove(&self.number);
        self.registry.gone.notify_all();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.registry.state().sessions.remove(&self.tsih);
        self.registry.gone.notify_all();
    }
}
