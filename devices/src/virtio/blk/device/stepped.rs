//! A block device without threads, for fuzzers: whoever has its [`Steps`] says when it works.

use std::sync::{Arc, Mutex};

use storage::{Disk, Medium};

use super::{ActivateError, Activation, Block, DeviceInfo, Facts, QueueState, VirtioDevice};
use crate::sync::lock;
use crate::virtio::blk::worker::Requests;
use crate::virtio::serve::Server;
use crate::virtio::worker::Wake;

type Queues = Arc<Mutex<Vec<Server<Requests<<Disk as Medium>::Queue>>>>>;

/// The device.
pub(in crate::virtio) struct Stepped {
    block: Block,
    queues: Queues,
    /// Nobody wakes it.
    wake: Wake,
}

/// Has the device work.
#[derive(Clone)]
pub(in crate::virtio) struct Steps(Queues);

impl Steps {
    /// Does all that there is to do.
    pub(in crate::virtio) fn work(&self) {
        lock(&self.0).iter_mut().for_each(Server::work_through);
    }
}

impl Stepped {
    pub(in crate::virtio) fn new(block: Block) -> Result<(Stepped, Steps), ActivateError> {
        let queues = Queues::default();
        let steps = Steps(Arc::clone(&queues));
        Ok((Stepped { block, queues, wake: Wake::new()? }, steps))
    }
}

impl VirtioDevice for Stepped {
    fn info(&self) -> &DeviceInfo {
        &self.block.info
    }

    fn read_config(&self, offset: usize, out: &mut [u8]) {
        self.block.read_config(offset, out);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.block.write_config(offset, data);
    }

    fn start(&mut self, with: Activation) -> Result<(), ActivateError> {
        self.stop();
        self.block.accept(with.features);
        let facts = Arc::new(Facts {
            features: with.features,
            serial: self.block.serial,
            writeback: Arc::clone(&self.block.writeback),
        });
        for queue in with.queues {
            let disk = self.block.medium.queue(queue.queue.size());
            let disk = disk.map_err(|error| ActivateError::Disk(Box::new(error)))?;
            let memory = queue.queue.memory();
            let requests = Requests::new(queue.index, memory, disk, Arc::clone(&facts));
            lock(&self.queues).push(Server::new(queue, Arc::clone(&with.transport), requests));
        }
        Ok(())
    }

    fn stop(&mut self) -> Vec<QueueState> {
        let mut queues = std::mem::take(&mut *lock(&self.queues));
        queues.iter_mut().for_each(|queue| queue.finish(&self.wake));
        self.block.stop();
        queues.iter().map(Server::state).collect()
    }
}
