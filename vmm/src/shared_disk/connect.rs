//! A local parser: presents a logical unit of a target elsewhere to guests on this host.
//!
//! Each guest has a session of its own, in its own name: what it reserves there is the guest's.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use storage::iscsi::{
    ConnectError, Credentials, IscsiUrl, RemoteTarget, SecretsError, SessionOptions,
};

use super::control::{Answer, Control, ControlError, Request};
use super::guest_name::GuestName;
use super::socket::SocketSpec;
use super::sockets::{SocketError, Sockets};

/// What to present, and where.
#[derive(Debug)]
pub struct Order {
    /// The logical unit.
    pub url: IscsiUrl,
    /// Sockets for guests on this host.
    pub scsi: Vec<SocketSpec>,
    /// The file with the CHAP name and secret; without one, only targets that ask nobody let us in.
    pub chap: Option<PathBuf>,
    /// Ask for digests of headers and of data.
    pub digests: bool,
    /// How long a command waits for a session that is lost before it fails.
    pub patience: Duration,
    /// The control socket; without one, in this user's folder of them.
    pub control: Option<PathBuf>,
}

/// Why a target cannot be presented.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PresentError {
    /// There is no session.
    #[error("cannot use {url} as {guest}")]
    Connect {
        /// The logical unit.
        url: Box<IscsiUrl>,
        /// In whose name.
        guest: GuestName,
        /// Why.
        source: ConnectError,
    },
    /// The file of secrets cannot be used.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// A guest cannot connect.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// There is no control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl PresentError {
    /// What to do about it, where there is something.
    pub fn help(&self) -> Option<String> {
        match self {
            PresentError::Connect { source, .. } => source.help().map(str::to_owned),
            PresentError::Secrets(error) => error.help(),
            PresentError::Socket(error) => error.help(),
            PresentError::Control(error) => error.help(),
        }
    }
}

/// A local parser at work.
pub struct Presenting {
    // Ended in this order: nobody asks any more, guests end, sessions end.
    control: Control,
    sockets: Arc<Sockets>,
    _sessions: Arc<[Arc<RemoteTarget>]>,
}

impl Presenting {
    /// Logs in for each guest, and listens for it.
    ///
    /// # Errors
    /// Something that the order names cannot be used; nothing is presented then.
    pub fn start(order: &Order) -> Result<Presenting, PresentError> {
        let Order { url, scsi, chap, digests, patience, control } = order;
        let chap = chap.as_ref().map(|file| Credentials::read(file, url.target())).transpose()?;
        let mut sockets = Sockets::default();
        let mut sessions = Vec::new();
        for spec in scsi {
            let options = SessionOptions {
                chap: chap.clone(),
                header_digest: *digests,
                data_digest: *digests,
                lost_patience: *patience,
                ..SessionOptions::new(spec.guest.iscsi().clone(), GuestName::ISID)
            };
            let failed = |source| PresentError::Connect {
                url: Box::new(url.clone()),
                guest: spec.guest.clone(),
                source,
            };
            let session = Arc::new(RemoteTarget::connect(url, options).map_err(failed)?);
            sessions.push(Arc::clone(&session));
            sockets.add_scsi(spec, session)?;
        }
        let (sockets, sessions) = (Arc::new(sockets), Arc::from(sessions));
        let control = listen(control.as_deref(), Arc::clone(&sockets), Arc::clone(&sessions))?;
        Ok(Presenting { control, sockets, _sessions: sessions })
    }

    /// The sockets for guests on this host.
    pub fn sockets(&self) -> impl Iterator<Item = &Path> {
        self.sockets.paths()
    }

    /// The control socket.
    pub fn control(&self) -> &Path {
        self.control.path()
    }
}

/// Lets operators see what there is.
fn listen(
    path: Option<&Path>,
    sockets: Arc<Sockets>,
    sessions: Arc<[Arc<RemoteTarget>]>,
) -> Result<Control, ControlError> {
    let answer = move |request| match request {
        Request::Status => Answer::Done(serde_json::json!({
            "sockets": sockets.status(),
            "remotes": sessions.iter().map(|session| remote(session)).collect::<Vec<_>>(),
        })),
        Request::Clear { .. } => Answer::Failed(
            "reservations are the target's, and this only presents it: ask its server".to_owned(),
        ),
    };
    Control::open(path, answer)
}

/// A session, for those who look.
fn remote(session: &RemoteTarget) -> serde_json::Value {
    let status = session.status();
    serde_json::json!({
        "url": session.url().to_string(),
        "connected": status.connected,
        "seconds": status.for_time.as_secs(),
        "peer": status.peer,
        "reconnects": status.reconnects,
        "commands": status.commands,
        "received": status.received,
        "sent": status.sent,
        "last_error": status.last_error,
    })
}
