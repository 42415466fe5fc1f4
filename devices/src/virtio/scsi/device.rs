//! The device: configuration, one thread for the control queue, and one for each request queue.

use std::fmt;
use std::sync::Arc;

use storage::scsi::Initiator;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::commands::Commands;
use super::config::Sizes;
use super::control::Control;
use super::fence::{Fence, Gate};
use crate::virtio::device::{
    ActivateError, Activation, DeviceInfo, DeviceType, StartedQueue, Transport, VirtioDevice,
};
use crate::virtio::queue::QueueState;
use crate::virtio::serve::Server;
use crate::virtio::worker::{Wake, Worker};

const QUEUE_SIZE: u16 = 256;
/// Most request queues of a device.
const QUEUES_MAX: u16 = 64;
/// The queues before them.
const CONTROL: u16 = 0;
const EVENT: u16 = 1;

/// A virtio SCSI host device.
///
/// When it is stopped, as the driver resets it or is gone, what lasts only as long as an I_T nexus
/// ends, such as the reservations of RESERVE(6); persistent ones stay.
pub struct Scsi {
    info: DeviceInfo,
    /// Request queues.
    queues: u16,
    initiator: Arc<dyn Initiator>,
    sizes: Arc<Sizes>,
    control: Option<Worker<Server<Control>>>,
    /// No event is ever sent: its buffers are left where they are.
    events: Option<StartedQueue>,
    workers: Vec<Worker<Server<Commands>>>,
    /// It has been started since a driver last gave it up.
    used: bool,
}

impl Scsi {
    /// A stopped device with `queues` request queues (1 to 64), whose only target is the one that
    /// `initiator` sees.
    pub fn new(initiator: Arc<dyn Initiator>, queues: u16) -> Scsi {
        let queues = queues.clamp(1, QUEUES_MAX);
        Scsi {
            info: DeviceInfo {
                id: DeviceType::Scsi,
                queue_sizes: vec![QUEUE_SIZE; usize::from(EVENT + 1 + queues)],
                features: 0,
                external_backend: false,
            },
            queues,
            initiator,
            sizes: Arc::new(Sizes::new()),
            control: None,
            events: None,
            workers: Vec::new(),
            used: false,
        }
    }

    fn start_queues(&mut self, with: Activation) -> Result<(), ActivateError> {
        let passed = event()?;
        let mut fences = Vec::new();
        let mut control = None;
        for queue in with.queues {
            match queue.index {
                CONTROL => control = Some(queue),
                EVENT => {
                    queue.queue.suppress_notifications();
                    self.events = Some(queue);
                }
                _ => fences.push(self.start_requests(queue, &with.transport, &passed)?),
            }
        }
        let Some(queue) = control else { return Ok(()) };
        let wake = Wake::new()?;
        wake.add_signals(&queue.doorbell)?;
        wake.add_signals(&passed)?;
        let target = self.initiator.queue(queue.queue.size()).map_err(cannot_start)?;
        wake.add_readable(target.ready_fd())?;
        let initiator = Arc::clone(&self.initiator);
        let control = Control::new(initiator, target, queue.queue.memory(), fences);
        let server = Server::new(queue, with.transport, control);
        self.control = Some(Worker::start("virtio-scsi/ctl", server, wake, Server::run)?);
        Ok(())
    }

    /// Starts a request queue, and returns the fence that the control queue has with it.
    fn start_requests(
        &mut self,
        queue: StartedQueue,
        transport: &Arc<dyn Transport>,
        passed: &EventFd,
    ) -> Result<Arc<Fence>, ActivateError> {
        let (wake, asked) = (Wake::new()?, event()?);
        wake.add_signals(&queue.doorbell)?;
        wake.add_signals(&asked)?;
        let fence = Arc::new(Fence::new(asked, passed.try_clone().map_err(no_event)?));
        let target = self.initiator.queue(queue.queue.size()).map_err(cannot_start)?;
        wake.add_readable(target.ready_fd())?;
        let name = format!("virtio-scsi/{}", queue.index);
        let (gate, sizes) = (Gate::new(Arc::clone(&fence)), Arc::clone(&self.sizes));
        let commands = Commands::new(target, queue.queue.memory(), sizes, gate);
        let server = Server::new(queue, Arc::clone(transport), commands);
        self.workers.push(Worker::start(&name, server, wake, Server::run)?);
        Ok(fence)
    }

    fn stop_queues(&mut self) -> Vec<QueueState> {
        for worker in &self.workers {
            worker.tell_to_stop();
        }
        let requests: Vec<_> = self.workers.drain(..).filter_map(Worker::stop).collect();
        // After the others, whose answers come before its own.
        let control = self.control.take().and_then(Worker::stop);
        let events = self.events.take();
        let control = control.iter().map(Server::state);
        let events = events.iter().map(StartedQueue::state);
        control.chain(events).chain(requests.iter().map(Server::state)).collect()
    }
}

fn event() -> Result<EventFd, ActivateError> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(no_event)
}

fn no_event(source: std::io::Error) -> ActivateError {
    ActivateError::Host { what: "wait for a device's events", source }
}

fn cannot_start(error: storage::DiskError) -> ActivateError {
    ActivateError::Disk(Box::new(error))
}

impl VirtioDevice for Scsi {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn read_config(&self, offset: usize, out: &mut [u8]) {
        let structure = self.sizes.structure(self.queues, QUEUE_SIZE);
        for (n, byte) in out.iter_mut().enumerate() {
            *byte = structure.get(offset.saturating_add(n)).copied().unwrap_or(0);
        }
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.sizes.write(offset, data);
    }

    fn start(&mut self, with: Activation) -> Result<(), ActivateError> {
        self.stop_queues();
        self.used = true;
        let started = self.start_queues(with);
        if started.is_err() {
            self.stop();
        }
        started
    }

    fn stop(&mut self) -> Vec<QueueState> {
        let states = self.stop_queues();
        if std::mem::take(&mut self.used) {
            self.initiator.nexus_lost();
        }
        self.sizes.reset();
        states
    }

    /// The I_T nexus does not end.
    fn pause(&mut self) -> Vec<QueueState> {
        self.stop_queues()
    }
}

impl Drop for Scsi {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Scsi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scsi")
            .field("info", &self.info)
            .field("threads", &self.workers.len())
            .finish_non_exhaustive()
    }
}
