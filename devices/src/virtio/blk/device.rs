//! The device: features, configuration, and one thread for each queue that the driver enabled.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use storage::{Disk, Medium, RequestQueue};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY,
    VIRTIO_BLK_F_WRITE_ZEROES,
};

use super::config::{self, WRITEBACK};
use super::request::{Facts, ID_LEN};
use super::worker::Requests;
use crate::virtio::device::{ActivateError, Activation, DeviceInfo, DeviceType, VirtioDevice};
use crate::virtio::queue::QueueState;
use crate::virtio::serve::Server;
use crate::virtio::worker::{Wake, Worker};

#[cfg(any(test, feature = "fuzzing"))]
mod stepped;

#[cfg(any(test, feature = "fuzzing"))]
pub(in crate::virtio) use stepped::{Stepped, Steps};

const QUEUE_SIZE: u16 = 256;
/// Most queues of a device.
const QUEUES_MAX: u16 = 64;

/// A virtio block device on a medium: a [`Disk`] of the guest's own, or a
/// [`SharedMedium`](storage::scsi::SharedMedium).
pub struct Block<M: Medium = Disk> {
    info: DeviceInfo,
    medium: M,
    serial: [u8; ID_LEN],
    config: Vec<u8>,
    /// Whether a write is answered before it is durable. Shared with the queues' threads.
    writeback: Arc<AtomicBool>,
    /// Features that the driver accepted when it last started the device.
    accepted: u64,
    workers: Vec<Worker<Server<Requests<M::Queue>>>>,
}

impl<M: Medium> Block<M> {
    /// A stopped device with `queues` request queues (1 to 64) on `medium`, which tells the driver
    /// the first 20 bytes of `serial`.
    pub fn new(medium: M, queues: u16, serial: &str) -> Block<M> {
        let queues = queues.clamp(1, QUEUES_MAX);
        let mut features = 1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_BLK_SIZE
            | 1 << VIRTIO_BLK_F_FLUSH
            | 1 << VIRTIO_BLK_F_TOPOLOGY
            | 1 << VIRTIO_BLK_F_CONFIG_WCE
            | 1 << VIRTIO_BLK_F_MQ;
        features |= if medium.read_only() {
            1 << VIRTIO_BLK_F_RO
        } else {
            1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES
        };
        let mut id = [0; ID_LEN];
        for (to, from) in id.iter_mut().zip(serial.bytes()) {
            *to = from;
        }
        Block {
            info: DeviceInfo {
                id: DeviceType::Block,
                queue_sizes: vec![QUEUE_SIZE; usize::from(queues)],
                features,
                external_backend: false,
            },
            config: config::initial(&medium, queues).to_vec(),
            medium,
            serial: id,
            writeback: Arc::new(AtomicBool::new(true)),
            accepted: 0,
            workers: Vec::new(),
        }
    }

    /// Takes note of the features that the driver accepted.
    fn accept(&mut self, features: u64) {
        self.accepted = features;
        let accepts = |feature: u32| features & 1 << feature != 0;
        if !accepts(VIRTIO_BLK_F_FLUSH) {
            // A driver that cannot flush relies on every write (virtio 1.3, 5.2.5.2), even if it
            // could choose.
            self.writeback.store(false, Ordering::Relaxed);
        } else if !accepts(VIRTIO_BLK_F_CONFIG_WCE) {
            self.writeback.store(true, Ordering::Relaxed);
        }
    }

    fn start_queues(&mut self, with: Activation) -> Result<(), ActivateError> {
        let facts = Arc::new(Facts {
            features: with.features,
            serial: self.serial,
            writeback: Arc::clone(&self.writeback),
        });
        for queue in with.queues {
            let wake = Wake::new()?;
            wake.add_signals(&queue.doorbell)?;
            let disk = self
                .medium
                .queue(queue.queue.size())
                .map_err(|error| ActivateError::Disk(Box::new(error)))?;
            if let Some(ready) = disk.ready_fd() {
                wake.add_readable(ready)?;
            }
            let name = format!("virtio-blk/{}", queue.index);
            let facts = Arc::clone(&facts);
            let requests = Requests::new(queue.index, queue.queue.memory(), disk, facts);
            let server = Server::new(queue, Arc::clone(&with.transport), requests);
            self.workers.push(Worker::start(&name, server, wake, Server::run)?);
        }
        Ok(())
    }

    fn stop_queues(&mut self) -> Vec<QueueState> {
        for worker in &self.workers {
            worker.tell_to_stop();
        }
        let stopped = self.workers.drain(..).filter_map(Worker::stop);
        stopped.map(|worker| worker.state()).collect()
    }
}

impl<M: Medium> VirtioDevice for Block<M> {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn read_config(&self, offset: usize, out: &mut [u8]) {
        for (n, byte) in out.iter_mut().enumerate() {
            let at = offset.saturating_add(n);
            *byte = match at {
                WRITEBACK => self.writeback.load(Ordering::Relaxed).into(),
                _ => self.config.get(at).copied().unwrap_or(0),
            };
        }
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        // Before the device starts, features may not be agreed on yet; what is written then
        // counts only if this one is.
        let may = self.workers.is_empty() || self.accepted & 1 << VIRTIO_BLK_F_CONFIG_WCE != 0;
        if let (WRITEBACK, &[value], true) = (offset, data, may) {
            self.writeback.store(value & 1 != 0, Ordering::Relaxed);
        }
    }

    fn start(&mut self, with: Activation) -> Result<(), ActivateError> {
        self.stop_queues();
        self.accept(with.features);
        let started = self.start_queues(with);
        if started.is_err() {
            self.stop();
        }
        started
    }

    fn stop(&mut self) -> Vec<QueueState> {
        let states = self.stop_queues();
        self.writeback.store(true, Ordering::Relaxed);
        states
    }
}

impl<M: Medium> Drop for Block<M> {
    fn drop(&mut self) {
        self.stop_queues();
    }
}

impl<M: Medium> fmt::Debug for Block<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block")
            .field("info", &self.info)
            .field("threads", &self.workers.len())
            .finish_non_exhaustive()
    }
}
