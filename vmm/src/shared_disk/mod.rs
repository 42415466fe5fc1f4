//! A disk that several guests share: the server's process, and how operators talk to it.

pub mod connect;
pub mod control;
mod guest_name;
pub mod serve;
mod socket;
mod sockets;

pub use guest_name::GuestName;
pub use socket::{SocketOptionError, SocketSpec};
pub use sockets::SocketError;
