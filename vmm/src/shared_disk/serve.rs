//! A server: opens the disks, serves them, keeps reservations, answers on its control socket.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use storage::iscsi::{
    BadName, ChapSecrets, IscsiName, SecretsError, Server, ServerError, ServerLimits, ServerOptions,
};
use storage::reservation::{Store, StoreError};
use storage::scsi::{LocalInitiator, Target, TargetError, UnitOptions};
use storage::tools::ToolError;
use storage::{Disk, DiskError};

use super::control::{Answer, Control, ControlError, Request};
use super::socket::SocketSpec;
use super::sockets::{SocketError, Sockets};
use crate::spec::{DiskSource, DiskSpec};

/// What to serve, and where.
#[derive(Debug)]
pub struct Order {
    /// The disks, LUN 0 first.
    pub disks: Vec<DiskSpec>,
    /// Addresses for iSCSI.
    pub iscsi: Vec<SocketAddr>,
    /// Sockets for guests on this host, each of which finds all disks behind a SCSI host.
    pub scsi: Vec<SocketSpec>,
    /// Sockets for guests on this host, each of which finds one disk.
    pub blk: Vec<SocketSpec>,
    /// The target's name; without one, it is made of the first disk's.
    pub iqn: Option<IscsiName>,
    /// The file of CHAP names and secrets; without one, everyone who can connect is served.
    pub chap: Option<PathBuf>,
    /// The file of reservations; without one, beside the first disk that has a name.
    pub state: Option<PathBuf>,
    /// The control socket; without one, in this user's folder of them.
    pub control: Option<PathBuf>,
}

/// Why there is no server, or why it did not end well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A disk cannot be used.
    #[error("LUN {lun} cannot be served")]
    Disk {
        /// Its number.
        lun: usize,
        /// Why.
        source: ToolError,
    },
    /// The file of reservations cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file of secrets cannot be used.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// The first disk's name makes no target's name.
    #[error(transparent)]
    Name(#[from] BadName),
    /// There is no target of these disks.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Nobody can connect.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A guest on this host cannot connect.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// There is no control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A disk was not left in order.
    #[error("LUN {lun} was not closed in order")]
    Close {
        /// Its number.
        lun: usize,
        /// Why.
        source: DiskError,
    },
}

impl ServeError {
    /// What to do about it, where there is something.
    pub fn help(&self) -> Option<String> {
        match self {
            ServeError::Disk { source, .. } => source.help(),
            ServeError::Secrets(error) => error.help(),
            ServeError::Store(error) => error.help(),
            ServeError::Socket(error) => error.help(),
            ServeError::Control(error) => error.help(),
            _ => None,
        }
    }
}

/// A server at work.
pub struct Serving {
    // Ended in this order: nobody asks any more, guests and sessions end, disks are closed.
    control: Control,
    sockets: Arc<Sockets>,
    server: Option<Arc<Server>>,
    disks: Vec<Disk>,
    urls: Vec<String>,
}

impl Serving {
    /// Opens the disks and serves them.
    ///
    /// # Errors
    /// Something that the order names cannot be used; nothing is served then.
    pub fn start(order: &Order) -> Result<Serving, ServeError> {
        let mut disks = Vec::new();
        for (lun, spec) in order.disks.iter().enumerate() {
            disks.push(spec.open().map_err(|source| ServeError::Disk { lun, source })?);
        }
        let named = order.disks.iter().find_map(path_of);
        let state = order.state.clone().or_else(|| named.map(beside));
        let store = state.as_deref().map(Store::open).transpose()?;
        let mut units = Vec::new();
        for disk in &disks {
            let (identity, disk) = (identity(disk), disk.clone());
            let kept = store.as_ref().and_then(|store| store.load(&identity));
            units.push(UnitOptions { disk, identity, reservations: kept.unwrap_or_default() });
        }
        let target = Target::new(units, store)?;
        let server = serve_iscsi(order, named, &target)?;
        let mut sockets = Sockets::default();
        for spec in &order.scsi {
            let nexus = target.nexus(spec.guest.port().clone());
            sockets.add_scsi(spec, Arc::new(LocalInitiator::new(target.clone(), nexus)))?;
        }
        for spec in &order.blk {
            sockets.add_blk(spec, &target)?;
        }
        let sockets = Arc::new(sockets);
        let urls = server.iter().flat_map(|server| {
            server.addresses().iter().flat_map(|address| {
                let iqn = server.iqn();
                (0..disks.len()).map(move |lun| format!("iscsi://{address}/{iqn}/{lun}"))
            })
        });
        let urls = urls.collect();
        let known = (target, Arc::clone(&sockets), server.clone());
        let control = listen(order.control.as_deref(), known)?;
        Ok(Serving { control, sockets, server, disks, urls })
    }

    /// Where each logical unit is found, one address after the other.
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// The sockets for guests on this host.
    pub fn sockets(&self) -> impl Iterator<Item = &Path> {
        self.sockets.paths()
    }

    /// The control socket.
    pub fn control(&self) -> &Path {
        self.control.path()
    }

    /// Ends all sessions, and leaves the disks in order.
    ///
    /// # Errors
    /// A disk could not be left in order.
    pub fn stop(self) -> Result<(), ServeError> {
        let Serving { control, sockets, server, disks, .. } = self;
        drop(control);
        drop(sockets);
        if let Some(server) = server {
            server.stop();
        }
        let close = |(lun, disk): (usize, &Disk)| {
            disk.close().map_err(|source| ServeError::Close { lun, source })
        };
        disks.iter().enumerate().map(close).fold(Ok(()), Result::and)
    }
}

/// Listens for sessions, if there is an address to listen on.
fn serve_iscsi(
    order: &Order,
    named: Option<&Path>,
    target: &Target,
) -> Result<Option<Arc<Server>>, ServeError> {
    if order.iscsi.is_empty() {
        return Ok(None);
    }
    let iqn = order.iqn.clone().map_or_else(|| name_of(named), Ok)?;
    let chap = order.chap.as_ref().map(|file| ChapSecrets::read(file, &iqn)).transpose()?;
    let (addresses, limits) = (order.iscsi.clone(), ServerLimits::default());
    let options = ServerOptions { addresses, iqn, chap, limits };
    Ok(Some(Arc::new(Server::bind(target.clone(), options)?)))
}

/// Lets operators see and clear what there is.
fn listen(
    path: Option<&Path>,
    (target, sockets, server): (Target, Arc<Sockets>, Option<Arc<Server>>),
) -> Result<Control, ControlError> {
    let answer = move |request| match request {
        Request::Status => Answer::Done(serde_json::json!({
            "iqn": server.as_ref().map(|server| server.iqn().as_str()),
            "addresses": server.as_ref().map(|server| server.addresses()),
            "target": target.status(),
            "sockets": sockets.status(),
            "sessions": server.as_ref().map(|server| server.sessions()).unwrap_or_default(),
        })),
        Request::Clear { lun } => match target.clear_reservations(lun) {
            Ok(()) => {
                tracing::warn!(lun, "an operator cleared all registrations and reservations");
                Answer::Done(serde_json::json!({ "cleared": lun }))
            }
            Err(error) => Answer::Failed(format!("{:#}", anyhow::Error::new(error))),
        },
    };
    Control::open(path, answer)
}

fn path_of(disk: &DiskSpec) -> Option<&Path> {
    match &disk.source {
        DiskSource::Path(path) => Some(path),
        // What is gone with the server needs no memory of who had reserved it.
        DiskSource::Child(_) | DiskSource::Scratch(_) | DiskSource::VhostUser { .. } => None,
    }
}

/// The file of reservations beside a disk.
fn beside(disk: &Path) -> PathBuf {
    let mut name = OsString::from(disk);
    name.push(".reservations");
    name.into()
}

/// Text that tells a disk from all others, however often it is served: the identifier of the virtual
/// disk where its format has one, else where it is.
fn identity(disk: &Disk) -> String {
    let place = || std::fs::canonicalize(disk.path()).ok().map(|path| path.display().to_string());
    disk.id().map(|id| id.to_string()).or_else(place).unwrap_or_else(|| {
        // A disk without a name is gone with the server.
        format!("{} {}", disk.path().display(), uuid::Uuid::new_v4())
    })
}

/// The name of a target, made of its first disk's.
fn name_of(disk: Option<&Path>) -> Result<IscsiName, BadName> {
    let stem = disk.and_then(Path::file_stem).unwrap_or_default().to_string_lossy();
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let stem: String = stem.chars().map(allowed).take(64).collect();
    IscsiName::new(&format!("iqn.2026-11.cohort:{}", if stem.is_empty() { "disk" } else { &stem }))
}
