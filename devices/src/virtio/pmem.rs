//! Persistent memory device (virtio 1.3, 5.19): tells the driver where a range of guest memory is
//! that holds a file, and answers its flushes. The range itself is the machine's business.

#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use storage::Owner;

use super::device::{ActivateError, Activation, DeviceInfo, DeviceType, VirtioDevice};
use super::parts::Parts;
use super::queue::{Chain, Queue, QueueState, RingError};
use super::serve::{Serve, Server};
use super::worker::{Wake, Worker};
use crate::sync::lock;

const QUEUE_SIZE: u16 = 64;
/// `VIRTIO_PMEM_REQ_TYPE_FLUSH` (5.19.6).
const FLUSH: u32 = 0;
/// Answer to a request that was carried out.
const DONE: u32 = 0;
/// Answer to any other: -1.
const FAILED: u32 = u32::MAX;

/// A persistent memory device. A thread serves its queue while it is started.
///
/// What the guest writes never reaches the file, be it refused or kept in pages of the guest's
/// own; so there is nothing that a flush could make durable, and each succeeds at once.
pub struct Pmem {
    info: DeviceInfo,
    /// `start` and `size` (5.19.4).
    config: [u8; 16],
    /// Called when a driver first asks where the memory is.
    sought: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    worker: Option<Worker<Server<Flushes>>>,
}

impl Pmem {
    /// A stopped device for the guest-physical addresses `memory`, which have to be there when
    /// `sought` has been called: as soon as a driver asks where they are.
    pub fn new(memory: Range<u64>, sought: impl FnOnce() + Send + 'static) -> Pmem {
        let mut config = [0; 16];
        let size = memory.end.saturating_sub(memory.start);
        let words = memory.start.to_le_bytes().into_iter().chain(size.to_le_bytes());
        config.iter_mut().zip(words).for_each(|(to, from)| *to = from);
        let info = DeviceInfo {
            id: DeviceType::Pmem,
            queue_sizes: vec![QUEUE_SIZE],
            features: 0,
            external_backend: false,
        };
        Pmem { info, config, sought: Mutex::new(Some(Box::new(sought))), worker: None }
    }
}

impl VirtioDevice for Pmem {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn read_config(&self, offset: usize, out: &mut [u8]) {
        let sought = lock(&self.sought).take();
        sought.into_iter().for_each(|sought| sought());
        for (n, byte) in out.iter_mut().enumerate() {
            *byte = self.config.get(offset.saturating_add(n)).copied().unwrap_or(0);
        }
    }

    fn write_config(&mut self, _offset: usize, _data: &[u8]) {}

    fn start(&mut self, with: Activation) -> Result<(), ActivateError> {
        let Activation { queues, transport, .. } = with;
        let Some(queue) = queues.into_iter().next() else { return Ok(()) };
        let wake = Wake::new()?;
        wake.add_signals(&queue.doorbell)?;
        let owner: Owner = Arc::new(Arc::clone(queue.queue.memory()));
        let server = Server::new(queue, transport, Flushes { owner });
        self.worker = Some(Worker::start("virtio-pmem", server, wake, Server::run)?);
        Ok(())
    }

    fn stop(&mut self) -> Vec<QueueState> {
        let server = self.worker.take().and_then(Worker::stop);
        server.into_iter().map(|server| server.state()).collect()
    }
}

impl Drop for Pmem {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Answers requests.
struct Flushes {
    owner: Owner,
}

impl Serve for Flushes {
    const DEVICE: &'static str = "persistent memory device";

    fn take(&mut self, chain: &Chain, queue: &mut Queue) -> Result<(), RingError> {
        let parts = Parts::new(chain, queue.memory(), &self.owner);
        let mut kind = [0; 4];
        if parts.readable() < 4 || parts.writable() < 4 {
            return Err(parts.short());
        }
        parts.read(0, &mut kind)?;
        let answer = if u32::from_le_bytes(kind) == FLUSH { DONE } else { FAILED };
        parts.write(&answer.to_le_bytes(), 4)?;
        queue.push_used(chain.head(), 4);
        queue.publish();
        Ok(())
    }

    fn poll(&mut self) {}

    fn has_answers(&self) -> bool {
        false
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn return_answers(&mut self, _queue: &mut Queue) -> bool {
        false
    }

    fn drain(&mut self, _wake: &Wake) {}
}

impl fmt::Debug for Pmem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pmem").field("started", &self.worker.is_some()).finish_non_exhaustive()
    }
}
