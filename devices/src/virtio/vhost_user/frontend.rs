//! The machine's side of vhost-user, for disks and SCSI hosts.
//!
//! ```text
//!   driver ── doorbell ──────────────► back end ── call ──► KVM, or `keeper` ──► driver
//!   FrontEnd ── `session` (requests) ──►   │
//!       └── `keeper`: hang-ups             └── `back_channel`: changes of configuration
//! ```
//!
//! The back end works on the queues in guest memory by itself; this process only tells it where
//! they are. A back end that goes away is waited for: what it had taken is in a record of requests
//! in flight that both processes keep, from which the next one goes on. The protocol is QEMU's
//! "Vhost-user Protocol"; the names are those of the document.

mod back_channel;
mod config;
mod error;
mod keeper;
mod rings;
mod session;
mod space;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::GuestAddressSpace;

pub use error::FrontEndError;
use keeper::{Keeper, Link, State, sentence};
use rings::Rings;
use session::Session;
use space::Space;

use crate::limited::warn_limited;
use crate::sync::lock;
use crate::virtio::device::{ActivateError, Activation, DeviceInfo, DeviceType, VirtioDevice};
use crate::virtio::queue::QueueState;
use crate::virtio::worker::{Wake, Worker};

/// Buffers of each queue.
const QUEUE_SIZE: u16 = 256;
/// Most request queues of a device.
const QUEUES_MAX: u16 = 64;

/// What a back end is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A disk (virtio 1.3, 5.2).
    Block,
    /// A SCSI host (virtio 1.3, 5.6).
    Scsi,
}

impl Kind {
    /// Queues besides those for requests: a SCSI host's control and event queues.
    fn fixed_queues(self) -> u16 {
        match self {
            Kind::Block => 0,
            Kind::Scsi => 2,
        }
    }

    /// The queue whose buffers are for events.
    fn event_queue(self) -> Option<u16> {
        match self {
            Kind::Block => None,
            Kind::Scsi => Some(1),
        }
    }

    fn device_type(self) -> DeviceType {
        match self {
            Kind::Block => DeviceType::Block,
            Kind::Scsi => DeviceType::Scsi,
        }
    }

    /// How command lines call it.
    fn option(self) -> &'static str {
        match self {
            Kind::Block => "blk",
            Kind::Scsi => "scsi",
        }
    }

    fn other(self) -> Kind {
        match self {
            Kind::Block => Kind::Scsi,
            Kind::Scsi => Kind::Block,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Block => "block device",
            Kind::Scsi => "SCSI host",
        })
    }
}

/// A virtio device whose queues a vhost-user back end works on.
pub struct FrontEnd {
    info: DeviceInfo,
    path: PathBuf,
    /// Features of rings that the back end knows.
    ring_features: u64,
    /// Features that the driver accepted when it last started the device.
    accepted: u64,
    space: Arc<Space>,
    link: Link,
    worker: Option<Worker<Keeper>>,
}

impl FrontEnd {
    /// A stopped device on the back end that listens on the Unix socket `path`. One that does not
    /// listen yet is waited for as long as `patience`.
    ///
    /// The device has `queues` request queues (1 to 64), or as many as the back end has if those
    /// are fewer or nothing else is asked for.
    ///
    /// # Errors
    /// There is no such back end, or it does not serve this kind of device.
    pub fn connect(
        path: &Path,
        kind: Kind,
        queues: Option<u16>,
        patience: Duration,
    ) -> Result<FrontEnd, FrontEndError> {
        let session = Session::open(path, kind, patience)?;
        let most = match &session.config {
            Some(said) => config::request_queues(kind, session.features, said),
            None => QUEUES_MAX,
        };
        let most = most.min(session.queues.saturating_sub(kind.fixed_queues()));
        let queues = queues.unwrap_or(QUEUES_MAX).min(most).clamp(1, QUEUES_MAX);
        let rings = 1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | 1 << VIRTIO_RING_F_INDIRECT_DESC;
        tracing::info!(path = %path.display(), queues, ?session, "vhost-user back end connected");
        Ok(FrontEnd {
            info: DeviceInfo {
                id: kind.device_type(),
                queue_sizes: vec![QUEUE_SIZE; usize::from(kind.fixed_queues() + queues)],
                features: kind.device_features(session.features),
                external_backend: true,
            },
            path: path.into(),
            ring_features: session.features & rings,
            accepted: 0,
            space: Arc::new(Space::new(kind, session.config.as_deref(), queues)),
            link: Arc::new(Mutex::new(Some(session))),
            worker: None,
        })
    }

    /// Request queues that the driver can use.
    pub fn request_queues(&self) -> u16 {
        let queues = u16::try_from(self.info.queue_sizes.len()).unwrap_or(u16::MAX);
        queues.saturating_sub(self.space.kind.fixed_queues())
    }

    /// Sends the back end what the driver wrote, if one is there. One that comes later is sent it
    /// then.
    fn send(&self, offset: usize, data: &[u8]) {
        let link = lock(&self.link);
        if let Some(Err(error)) = link.as_ref().map(|session| session.write_config(offset, data)) {
            warn_limited!("{}", sentence(&error));
        }
    }
}

impl VirtioDevice for FrontEnd {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn ring_features(&self) -> u64 {
        self.ring_features
    }

    fn read_config(&self, offset: usize, out: &mut [u8]) {
        self.space.read(offset, out);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        // Before the device starts, features may not be agreed on yet; what is written then
        // counts if the back end offers this one.
        let features = if self.worker.is_some() { self.accepted } else { self.info.features };
        if self.space.write(offset, data, features) {
            self.send(offset, data);
        }
    }

    fn start(&mut self, with: Activation) -> Result<(), ActivateError> {
        self.stop();
        self.accepted = with.features;
        let device_queues = u16::try_from(self.info.queue_sizes.len()).unwrap_or(u16::MAX);
        let memory = with.memory.memory().into_inner();
        let keeper = Keeper {
            path: self.path.clone(),
            space: Arc::clone(&self.space),
            link: Arc::clone(&self.link),
            rings: Rings::new(memory, with.features, device_queues, with.queues)?,
            transport: with.transport,
            state: State::connecting(false),
        };
        let wake = Wake::new()?;
        keeper.listen(&wake)?;
        let name = format!("vhost-user/{}", self.space.kind.option());
        self.worker = Some(Worker::start(&name, keeper, wake, Keeper::run)?);
        Ok(())
    }

    fn stop(&mut self) -> Vec<QueueState> {
        let Some(keeper) = self.worker.take().and_then(Worker::stop) else { return Vec::new() };
        let states = keeper.finish();
        let mut link = lock(&self.link);
        if let Some(Err(error)) = link.as_ref().map(Session::reset_device) {
            warn_limited!("{}", sentence(&error));
            *link = None;
        }
        if self.space.reset() {
            let restored = link.as_mut().map(|session| {
                session.read_config().and_then(|()| self.space.restore(session, self.info.features))
            });
            if let Some(Err(error)) = restored {
                warn_limited!("{}", sentence(&error));
                *link = None;
            }
        }
        states
    }
}

impl Drop for FrontEnd {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for FrontEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrontEnd")
            .field("path", &self.path)
            .field("info", &self.info)
            .field("started", &self.worker.is_some())
            .finish_non_exhaustive()
    }
}
