//! What is told about a session.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::scsi::lock;

/// How a session with a remote target is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteStatus {
    /// Whether there is a session now.
    pub connected: bool,
    /// For how long that has been so.
    pub for_time: Duration,
    /// Where the target is, or was.
    pub peer: Option<SocketAddr>,
    /// Sessions that were had again after one was lost.
    pub reconnects: u64,
    /// Commands that the target answered.
    pub commands: u64,
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
    /// Why the last session ended, or could not be had again.
    pub last_error: Option<String>,
}

/// What the session's thread says about itself.
#[derive(Debug)]
pub(super) struct Known(Mutex<State>);

#[derive(Debug)]
struct State {
    since: Instant,
    status: RemoteStatus,
}

impl Known {
    pub(super) fn new(peer: SocketAddr) -> Known {
        let status = RemoteStatus {
            connected: true,
            for_time: Duration::ZERO,
            peer: Some(peer),
            reconnects: 0,
            commands: 0,
            received: 0,
            sent: 0,
            last_error: None,
        };
        Known(Mutex::new(State { since: Instant::now(), status }))
    }

    pub(super) fn connected(&self, peer: SocketAddr) {
        let mut state = lock(&self.0);
        state.since = Instant::now();
        state.status.connected = true;
        state.status.peer = Some(peer);
        state.status.reconnects += 1;
    }

    pub(super) fn failed(&self, why: String) {
        let mut state = lock(&self.0);
        if state.status.connected {
            state.since = Instant::now();
        }
        state.status.connected = false;
        state.status.last_error = Some(why);
    }

    /// More bytes were moved.
    pub(super) fn moved(&self, received: u64, sent: u64) {
        if received > 0 || sent > 0 {
            let mut state = lock(&self.0);
            state.status.received += received;
            state.status.sent += sent;
        }
    }

    pub(super) fn status(&self, commands: u64) -> RemoteStatus {
        let state = lock(&self.0);
        RemoteStatus { for_time: state.since.elapsed(), commands, ..state.status.clone() }
    }
}
