//! Entropy device (virtio 1.3, 5.4): fills buffers with the host's random bytes.

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use rustix::rand::{GetRandomFlags, getrandom};
use vm_memory::Bytes;

use super::device::{
    ActivateError, Activation, DeviceInfo, DeviceType, StartedQueue, Transport, VirtioDevice,
};
use super::queue::{Chain, QueueState, RingError, pieces};
use super::worker::{Wake, Worker};
use crate::limited::warn_limited;

const QUEUE_SIZE: u16 = 64;
/// Most bytes that one request is given. The specification lets a device give fewer than the
/// buffer holds, and no driver has use for more.
const REQUEST_MAX: usize = 4096;

/// An entropy device. A thread serves its queue while it is started.
pub struct Rng {
    info: DeviceInfo,
    worker: Option<Worker<Service>>,
}

impl Rng {
    /// A stopped device.
    pub fn new() -> Rng {
        let info = DeviceInfo {
            id: DeviceType::Entropy,
            queue_sizes: vec![QUEUE_SIZE],
            features: 0,
            external_backend: false,
        };
        Rng { info, worker: None }
    }
}

impl Default for Rng {
    fn default() -> Rng {
        Rng::new()
    }
}

impl VirtioDevice for Rng {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// There is no device configuration.
    fn read_config(&self, _offset: usize, out: &mut [u8]) {
        out.fill(0);
    }

    fn write_config(&mut self, _offset: usize, _data: &[u8]) {}

    fn start(&mut self, with: Activation) -> Result<(), ActivateError> {
        let Activation { queues, transport, .. } = with;
        let Some(queue) = queues.into_iter().next() else { return Ok(()) };
        let wake = Wake::new()?;
        wake.add_signals(&queue.doorbell)?;
        let service = Service { queue, transport };
        self.worker = Some(Worker::start("virtio-rng", service, wake, Service::run)?);
        Ok(())
    }

    fn stop(&mut self) -> Vec<QueueState> {
        let service = self.worker.take().and_then(Worker::stop);
        service.into_iter().map(|service| service.queue.state()).collect()
    }
}

impl Drop for Rng {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The queue while the device is started.
struct Service {
    queue: StartedQueue,
    transport: Arc<dyn Transport>,
}

impl Service {
    fn run(&mut self, wake: &Wake) {
        while !wake.stopped() {
            if let Err(error) = self.serve() {
                warn_limited!(%error, "the entropy device's queue is broken");
                self.transport.needs_reset();
                while !wake.stopped() {
                    wake.sleep();
                }
                return;
            }
            if !self.queue.queue.request_notifications() {
                wake.sleep();
            }
        }
    }

    /// Answers every request there is. Those before one that breaks the queue are returned too.
    fn serve(&mut self) -> Result<(), RingError> {
        let served = self.fill();
        let queue = &mut self.queue.queue;
        queue.publish();
        if queue.needs_notification() {
            self.transport.notify_used(self.queue.index);
        }
        served
    }

    fn fill(&mut self) -> Result<(), RingError> {
        let mut chain = Chain::default();
        let queue = &mut self.queue.queue;
        queue.suppress_notifications();
        // A driver can keep this going; the order to stop is seen after one round of the ring.
        for _ in 0..queue.size() {
            if !queue.pop(&mut chain)? {
                break;
            }
            let mut random = [0; REQUEST_MAX];
            let mut left = match getrandom(&mut random, GetRandomFlags::empty()) {
                Ok(len) => random.get(..len).unwrap_or_default(),
                Err(error) => {
                    warn_limited!(%error, "the host has no random bytes");
                    &[]
                }
            };
            let mut written = 0;
            for piece in pieces(chain.writable(), 0, left.len() as u64) {
                let (now, later) = left.split_at(piece.len as usize);
                let memory = queue.memory();
                memory
                    .write_slice(now, piece.address)
                    .map_err(|_| RingError::Address(chain.head()))?;
                written += piece.len;
                left = later;
            }
            queue.push_used(chain.head(), written);
        }
        Ok(())
    }
}

impl fmt::Debug for Rng {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rng").field("started", &self.worker.is_some()).finish_non_exhaustive()
    }
}
