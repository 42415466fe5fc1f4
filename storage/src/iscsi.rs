//! iSCSI (RFC 7143). A server: any initiator's way over TCP to a [`Target`](crate::scsi::Target).
//! And an initiator ([`RemoteTarget`], see `initiator.rs`): a guest's way to a target elsewhere.
//!
//! ```text
//!  TcpListener ──► welcome: a thread for each connection      server.rs
//!                     │
//!                     ├──► Input ──► pdu::decode              input.rs, pdu.rs, digest.rs
//!                     ├──► Login: who, how                    login.rs, keys.rs, negotiation.rs, chap.rs
//!                     ├──► Registry: one session a port       registry.rs
//!                     └──► Session: commands, data, answers   session.rs, session/
//!                              ├──► ScsiQueue                 scsi.rs
//!                              └──► Output                    output.rs
//! ```
//!
//! Error recovery level 0, one connection a session, portal group 1. The initiator's port, to
//! which reservations belong, is its name and ISID, whatever connection it comes over.
//!
//! **Clients are strangers.** Lengths are believed only within what was agreed on, and what one
//! client, or all of them, can have the server keep is bounded by [`ServerLimits`] (memory.rs).

mod chap;
mod connection;
mod digest;
mod initiator;
mod input;
mod keys;
mod limits;
mod login;
mod memory;
mod names;
mod negotiation;
mod output;
mod pdu;
mod poller;
mod pool;
mod registry;
mod secrets;
mod server;
mod session;
#[cfg(test)]
mod tests;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use {initiator::fuzzing as initiator_fuzzing, session::fuzzing};

pub use initiator::{
    BadUrl, ConnectError, Credentials, IscsiUrl, RemoteStatus, RemoteTarget, SessionLimits,
    SessionOptions,
};
pub use limits::ServerLimits;
pub use names::{BadName, IscsiName, initiator_port};
pub use registry::SessionStatus;
pub use secrets::{ChapSecrets, SecretsError};
pub use server::{Server, ServerError, ServerOptions};
