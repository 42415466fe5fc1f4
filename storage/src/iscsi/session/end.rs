//! How sessions end.

use std::fmt;
use std::io;

use crate::iscsi::poller::Order;

/// Why a session ended.
#[derive(Debug)]
pub(in crate::iscsi) enum End {
    /// The initiator logged out.
    Logout,
    /// It closed the connection.
    Closed,
    /// It does not keep to the protocol; level 0 of error recovery ends the session.
    Protocol(String),
    /// It does not answer, or takes nothing.
    Silent,
    /// Others wait for memory that it does next to nothing with.
    Slow,
    Host(io::Error),
    Ordered(Order),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Logout => f.write_str("the initiator logged out"),
            End::Closed => f.write_str("the initiator closed the connection"),
            End::Protocol(why) => f.write_str(why),
            End::Slow => f.write_str("the initiator is too slow with memory that others need"),
            End::Silent => f.write_str("the initiator does not answer"),
            End::Host(error) => write!(f, "the connection failed: {error}"),
            End::Ordered(Order::Stop) => f.write_str("the server stops"),
            End::Ordered(Order::Reinstated) => f.write_str("the initiator logged in anew"),
            End::Ordered(Order::Reset) => f.write_str("the target was reset"),
        }
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        End::Host(error)
    }
}
