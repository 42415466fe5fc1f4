//! Why a back end cannot be used, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use super::Kind;

/// Why a vhost-user back end cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FrontEndError {
    /// Nothing has the name.
    #[error("there is no vhost-user socket {}", .0.display())]
    NoSocket(PathBuf),
    /// The socket is left over from a process that has ended.
    #[error("nobody listens on the vhost-user socket {}", .0.display())]
    NobodyListens(PathBuf),
    /// The host does not let us connect.
    #[error("cannot connect to the vhost-user socket {}", path.display())]
    Connect {
        /// The socket's path.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// No reply came in time.
    #[error("the vhost-user back end {} does not answer ({step})", path.display())]
    NoAnswer {
        /// The socket's path.
        path: PathBuf,
        /// What was asked.
        step: &'static str,
    },
    /// The back end answered with an error, not as the protocol has it, or went away.
    #[error("the vhost-user back end {} fails ({step})", path.display())]
    Protocol {
        /// The socket's path.
        path: PathBuf,
        /// What was asked.
        step: &'static str,
        /// What was wrong with the answer.
        source: vhost::Error,
    },
    /// The back end does not offer what no device works without.
    #[error("the vhost-user back end {} does not offer {what}", path.display())]
    Lacks {
        /// The socket's path.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
    },
    /// The back end is for another kind of device.
    #[error("the vhost-user back end {} is no {kind}: {found}", path.display())]
    WrongKind {
        /// The socket's path.
        path: PathBuf,
        /// What it was to be.
        kind: Kind,
        /// What tells.
        found: &'static str,
    },
    /// A back end came back as another one.
    #[error("the vhost-user back end {} came back with {what}", path.display())]
    Changed {
        /// The socket's path.
        path: PathBuf,
        /// What the driver relies on and is not the same.
        what: &'static str,
    },
    /// Guest memory cannot be handed to another process.
    #[error("guest memory is not shared")]
    Memory,
}

impl FrontEndError {
    /// Whether there is no back end, as far as anyone can tell.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, FrontEndError::NoSocket(_) | FrontEndError::NobodyListens(_))
    }

    /// Whether the back end was there and has gone, as one that is being killed does.
    pub(super) fn is_hang_up(&self) -> bool {
        use vhost::vhost_user::Error as Wire;
        let FrontEndError::Protocol { source, .. } = self else { return false };
        let vhost::Error::VhostUserProtocol(error) = source else { return false };
        matches!(error, Wire::Disconnected | Wire::PartialMessage | Wire::SocketBroken(_))
    }

    /// Whether the name is wrong, of the socket or of the kind of device.
    pub fn is_mistake(&self) -> bool {
        self.is_absent() || matches!(self, FrontEndError::WrongKind { .. })
    }

    /// What mends it, where that is known.
    pub fn help(&self) -> Option<String> {
        let help = match self {
            FrontEndError::NoSocket(_) => "start the back end first, or correct the path".into(),
            FrontEndError::NobodyListens(_) => {
                "start the back end: the socket is left over from one that ended".into()
            }
            FrontEndError::Connect { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                "make the socket writable for the user who runs the guest".into()
            }
            FrontEndError::NoAnswer { .. } => "most back ends serve one guest at a time: see \
                                               whether another one uses this socket"
                .into(),
            FrontEndError::Protocol { .. } => {
                "see what the back end logs, and whether the socket is one for vhost-user".into()
            }
            FrontEndError::WrongKind { kind, .. } => {
                let other = kind.other();
                format!("try kind={}, or another socket", other.option())
            }
            _ => return None,
        };
        Some(help)
    }

    /// What went wrong, by the name that errors of the host have.
    pub(super) fn connecting(path: &Path, source: io::Error) -> FrontEndError {
        match source.kind() {
            io::ErrorKind::NotFound => FrontEndError::NoSocket(path.into()),
            io::ErrorKind::ConnectionRefused => FrontEndError::NobodyListens(path.into()),
            _ => FrontEndError::Connect { path: path.into(), source },
        }
    }
}
