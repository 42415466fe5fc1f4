//! The device: configuration, threads of the queues, and the window.

use std::fmt;
use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::config::{self, Tag};
use super::fuse::Server;
use super::pool::Pool;
use super::requests::{Answer, Answers, Requests, Service, message};
use crate::virtio::device::{
    ActivateError, Activation, DeviceInfo, DeviceType, StartedQueue, Transport, VirtioDevice,
};
use crate::virtio::queue::QueueState;
use crate::virtio::serve;
use crate::virtio::shared_memory::SharedMemory;
use crate::virtio::worker::{Wake, Worker};

/// Linux fits requests into it: one of 1 MiB has 256 pages and headers.
const QUEUE_SIZE: u16 = 512;
/// Most request queues of a device.
const QUEUES_MAX: u16 = 64;
/// The operation of FUSE after which the server knows nothing of the guest any more.
const DESTROY: u32 = 38;

/// A virtio file system device.
///
/// When it is stopped, as the driver resets it or is gone, files that the guest had open are
/// closed, its locks are released, and the window is empty.
pub struct Fs {
    info: DeviceInfo,
    tag: Tag,
    /// Request queues.
    queues: u16,
    service: Arc<dyn Service>,
    memory: Option<SharedMemory>,
    pool: Option<Arc<Pool>>,
    workers: Vec<Worker<serve::Server<Requests>>>,
}

impl Fs {
    /// A stopped device with `queues` request queues (1 to 64), by which the guest has what
    /// `server` serves. `memory` is the window that the server fills, if it has one.
    pub fn new(tag: Tag, server: Server, queues: u16, memory: Option<SharedMemory>) -> Fs {
        Fs::serving(tag, Arc::new(server), queues, memory)
    }

    pub(super) fn serving(
        tag: Tag,
        service: Arc<dyn Service>,
        queues: u16,
        memory: Option<SharedMemory>,
    ) -> Fs {
        let queues = queues.clamp(1, QUEUES_MAX);
        let info = DeviceInfo {
            id: DeviceType::FileSystem,
            // The first is the one with high priority.
            queue_sizes: vec![QUEUE_SIZE; 1 + usize::from(queues)],
            features: 0,
            external_backend: false,
        };
        let (pool, workers) = (None, Vec::new());
        Fs { info, tag, queues, service, memory, pool, workers }
    }

    fn start_queue(
        &mut self,
        queue: StartedQueue,
        transport: &Arc<dyn Transport>,
        pool: &Arc<Pool>,
    ) -> Result<(), ActivateError> {
        let wake = Wake::new()?;
        wake.add_signals(&queue.doorbell)?;
        let no_event = |source| ActivateError::Host { what: "wait for a device's events", source };
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(no_event)?;
        wake.add_signals(&event)?;
        let name = format!("virtio-fs/{}", queue.index);
        let (service, pool) = (Arc::clone(&self.service), Arc::clone(pool));
        let requests = Requests::new(service, pool, queue.queue.memory(), Answers::new(event));
        let server = serve::Server::new(queue, Arc::clone(transport), requests);
        self.workers.push(Worker::start(&name, server, wake, serve::Server::run)?);
        Ok(())
    }
}

impl VirtioDevice for Fs {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn shared_memory(&self) -> Option<&SharedMemory> {
        self.memory.as_ref()
    }

    fn read_config(&self, offset: usize, out: &mut [u8]) {
        let structure = config::structure(&self.tag, self.queues);
        for (n, byte) in out.iter_mut().enumerate() {
            *byte = structure.get(offset.saturating_add(n)).copied().unwrap_or(0);
        }
    }

    fn write_config(&mut self, _: usize, _: &[u8]) {}

    fn start(&mut self, with: Activation) -> Result<(), ActivateError> {
        self.stop();
        let pool = Arc::new(Pool::new(Arc::clone(&self.service)));
        self.pool = Some(Arc::clone(&pool));
        let mut queues = with.queues.into_iter();
        let started = queues.try_for_each(|queue| self.start_queue(queue, &with.transport, &pool));
        if started.is_err() {
            self.stop();
        }
        started
    }

    fn stop(&mut self) -> Vec<QueueState> {
        for worker in &self.workers {
            worker.tell_to_stop();
        }
        let servers: Vec<_> = self.workers.drain(..).filter_map(Worker::stop).collect();
        if let Some(pool) = self.pool.take() {
            pool.stop();
            self.service.handle(message(DESTROY, 0, &[]), Answer::nowhere());
            if let Some(memory) = &self.memory {
                memory.window.clear();
            }
        }
        servers.iter().map(serve::Server::state).collect()
    }
}

impl Drop for Fs {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Fs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fs")
            .field("tag", &self.tag)
            .field("info", &self.info)
            .field("memory", &self.memory)
            .field("queues", &self.workers.len())
            .finish_non_exhaustive()
    }
}
