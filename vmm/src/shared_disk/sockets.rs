//! The sockets by which guests on this host use shared disks.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use devices::virtio::VirtioDevice;
use devices::virtio::blk::Block;
use devices::virtio::scsi::Scsi;
use devices::virtio::vhost_user::backend::{BackEnd, BackEndError};
use serde::Serialize;
use storage::scsi::{Initiator, LocalInitiator, SharedMedium, Target, TargetError};

use super::guest_name::GuestName;
use super::socket::SocketSpec;

/// Most request queues that a guest can use.
const QUEUES_MAX: u16 = 64;

/// What is behind a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// All disks, behind a SCSI host.
    Scsi,
    /// One disk.
    Blk,
}

/// Sockets that are listened on. They go when this is dropped.
#[derive(Default)]
pub(super) struct Sockets(Vec<Socket>);

struct Socket {
    back_end: BackEnd,
    kind: Kind,
    guest: GuestName,
    lun: Option<u16>,
}

/// Why a socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Two guests would be one and the same to the disks.
    #[error("the sockets {} and {} have the same initiator {guest}", first.display(), second.display())]
    SameGuest {
        /// One.
        first: PathBuf,
        /// The other.
        second: PathBuf,
        /// Who.
        guest: GuestName,
    },
    /// It cannot be listened on.
    #[error(transparent)]
    Listen(#[from] BackEndError),
    /// There is no such disk.
    #[error("cannot serve {}", path.display())]
    Target {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: TargetError,
    },
    /// All disks are behind it.
    #[error("{}: a socket for vhost-user-scsi has all disks behind it, and takes no lun", .0.display())]
    Lun(PathBuf),
}

impl SocketError {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            SocketError::SameGuest { .. } => {
                Some("give one of them another: SOCK,initiator=NAME".to_owned())
            }
            _ => None,
        }
    }
}

/// A socket as operators see it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct SocketStatus {
    /// Where it is.
    path: String,
    kind: Kind,
    /// Who comes over it.
    initiator: String,
    /// The disk behind it, if it is one alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    lun: Option<u16>,
    /// Whether somebody is connected, and which process.
    connected: bool,
    pid: Option<u32>,
}

impl Sockets {
    /// Listens for a guest that finds, behind a SCSI host, what `initiator` finds.
    ///
    /// # Errors
    /// The socket cannot be served.
    pub(super) fn add_scsi(
        &mut self,
        spec: &SocketSpec,
        initiator: Arc<dyn Initiator>,
    ) -> Result<(), SocketError> {
        if spec.lun.is_some() {
            return Err(SocketError::Lun(spec.path.clone()));
        }
        // The device itself tells when the driver is gone.
        let device = Scsi::new(initiator, QUEUES_MAX);
        self.add(spec, Kind::Scsi, Box::new(device), Box::new(|| {}))
    }

    /// Listens for a guest that finds one disk of `target`.
    ///
    /// # Errors
    /// The socket cannot be served, or there is no such disk.
    pub(super) fn add_blk(
        &mut self,
        spec: &SocketSpec,
        target: &Target,
    ) -> Result<(), SocketError> {
        let nexus = target.nexus(spec.guest.port().clone());
        let lun = spec.lun.unwrap_or_default();
        let failed = |source| SocketError::Target { path: spec.path.clone(), source };
        let medium =
            SharedMedium::new(target.clone(), lun.into(), nexus.clone()).map_err(failed)?;
        let device = Block::new(medium, QUEUES_MAX, &format!("cohort-lun-{lun}"));
        let initiator = LocalInitiator::new(target.clone(), nexus);
        let lost = Box::new(move || initiator.nexus_lost());
        self.add(spec, Kind::Blk, Box::new(device), lost)
    }

    fn add(
        &mut self,
        spec: &SocketSpec,
        kind: Kind,
        device: Box<dyn VirtioDevice>,
        lost: Box<dyn Fn() + Send>,
    ) -> Result<(), SocketError> {
        // Reservations would not keep apart guests that have one name.
        if let Some(other) = self.0.iter().find(|other| other.guest == spec.guest) {
            return Err(SocketError::SameGuest {
                first: other.back_end.path().to_owned(),
                second: spec.path.clone(),
                guest: spec.guest.clone(),
            });
        }
        self.0.push(Socket {
            back_end: BackEnd::listen(&spec.path, device, lost)?,
            kind,
            guest: spec.guest.clone(),
            lun: (kind == Kind::Blk).then(|| spec.lun.unwrap_or_default()),
        });
        Ok(())
    }

    /// How they are used now.
    pub(super) fn status(&self) -> Vec<SocketStatus> {
        let status = |socket: &Socket| {
            let of_peer = socket.back_end.status();
            SocketStatus {
                path: socket.back_end.path().display().to_string(),
                kind: socket.kind,
                initiator: socket.guest.to_string(),
                lun: socket.lun,
                connected: of_peer.connected,
                pid: of_peer.peer,
            }
        };
        self.0.iter().map(status).collect()
    }

    /// Where they are.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|socket| socket.back_end.path())
    }
}
