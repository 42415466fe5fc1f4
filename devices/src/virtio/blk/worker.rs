//! The thread of one queue.
//!
//! It takes every request there is, submits them all, lets the disk's engine know once, returns
//! what is answered, and decides once for all of them whether the driver is interrupted. While
//! there is work it asks the driver not to notify. When there is none it looks on for a little
//! while ([`Polling`]), then asks for notifications and sleeps.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use storage::{Answer, Buffers, DiskQueue, DiskRange, DiskRequest, IoError, Operation, Owner};

use super::request::{self, Facts, Reply, Status, Work};
use crate::limited::warn_limited;
use crate::virtio::device::{StartedQueue, Transport};
use crate::virtio::polling::Polling;
use crate::virtio::queue::{Chain, QueueState, RingError};
use crate::virtio::worker::Wake;

/// One queue of a started device.
pub(super) struct QueueWorker {
    queue: StartedQueue,
    disk: DiskQueue,
    facts: Arc<Facts>,
    transport: Arc<dyn Transport>,
    /// Keeps guest memory mapped for requests. Of this queue alone: threads that count
    /// references to one object get in each other's way.
    owner: Owner,
    /// Requests that the disk has not answered, by their token.
    pending: Vec<Pending>,
    /// Tokens that are not in use.
    free: Vec<usize>,
    chain: Chain,
    answers: Vec<Answer>,
}

/// What is kept of a request until its answer.
#[derive(Clone, Copy)]
struct Pending {
    reply: Reply,
    /// The answer is not final: a flush is to follow.
    flush_next: bool,
}

impl QueueWorker {
    pub(super) fn new(
        queue: StartedQueue,
        disk: DiskQueue,
        facts: Arc<Facts>,
        transport: Arc<dyn Transport>,
    ) -> QueueWorker {
        let owner: Owner = Arc::new(Arc::clone(queue.queue.memory()));
        QueueWorker {
            queue,
            disk,
            facts,
            transport,
            owner,
            pending: Vec::new(),
            free: Vec::new(),
            chain: Chain::default(),
            answers: Vec::new(),
        }
    }

    /// Where the queue stands.
    pub(super) fn state(&self) -> QueueState {
        self.queue.state()
    }

    /// Works until told to stop; every request that was taken is answered then.
    pub(super) fn run(&mut self, wake: &Wake) {
        let broken = self.work_until_stopped(wake).err();
        self.disk.drain(&mut self.answers);
        while self.return_answers() {
            // Writes that a flush was to follow.
            self.disk.drain(&mut self.answers);
        }
        self.show();
        if let Some(error) = broken {
            warn_limited!(%error, queue = self.queue.index, "a queue of a block device is broken");
            self.transport.needs_reset();
            while !wake.stopped() {
                wake.sleep();
            }
        }
    }

    fn work_until_stopped(&mut self, wake: &Wake) -> Result<(), RingError> {
        let mut polling = Polling::default();
        self.queue.queue.suppress_notifications();
        while !wake.stopped() {
            if self.work()? {
                continue;
            }
            let since = Instant::now();
            if polling.poll(since, || self.has_work()) {
                continue;
            }
            if !self.queue.queue.request_notifications() {
                wake.sleep();
                polling.slept(since.elapsed());
            }
            self.queue.queue.suppress_notifications();
        }
        Ok(())
    }

    /// Does what there is to do, one round of the ring at most; whether there was anything.
    fn work(&mut self) -> Result<bool, RingError> {
        let mut worked = false;
        for _ in 0..self.queue.queue.size() {
            if !self.queue.queue.pop(&mut self.chain)? {
                break;
            }
            worked = true;
            let memory = self.queue.queue.memory();
            let (reply, work) = request::parse(&self.chain, memory, &self.owner, &self.facts)?;
            match work {
                Work::Done(status) => self.finish(reply, status),
                Work::Disk(request) => self.submit(reply, request),
            }
        }
        self.disk.poll(&mut self.answers);
        worked |= self.return_answers();
        if worked {
            self.show();
        }
        Ok(worked)
    }

    /// Whether [`QueueWorker::work`] would find something.
    fn has_work(&mut self) -> bool {
        if self.disk.in_flight() > 0 {
            self.disk.poll(&mut self.answers);
        }
        !self.answers.is_empty() || self.queue.queue.has_available()
    }

    fn submit(&mut self, reply: Reply, request: DiskRequest) {
        let writes = !matches!(request.operation, Operation::Read | Operation::Flush);
        let flush_next = writes && !self.facts.writeback.load(Ordering::Relaxed);
        self.submit_pending(Pending { reply, flush_next }, request);
    }

    fn submit_pending(&mut self, pending: Pending, request: DiskRequest) {
        let token = self.keep(pending);
        if let Some(result) = self.disk.submit(token as u64, request) {
            self.answer(token, result);
        }
    }

    /// Returns the requests that were answered; whether there were any.
    fn return_answers(&mut self) -> bool {
        if self.answers.is_empty() {
            return false;
        }
        let mut answers = std::mem::take(&mut self.answers);
        for (token, result) in answers.drain(..) {
            self.answer(usize::try_from(token).unwrap_or(usize::MAX), result);
        }
        self.answers = answers;
        true
    }

    fn answer(&mut self, token: usize, result: Result<(), IoError>) {
        let Some(&Pending { reply, flush_next }) = self.pending.get(token) else { return };
        self.free.push(token);
        match result {
            Ok(()) if flush_next => {
                let flush = DiskRequest {
                    operation: Operation::Flush,
                    range: DiskRange::EMPTY,
                    buffers: Buffers::none(),
                };
                self.submit_pending(Pending { reply, flush_next: false }, flush);
            }
            Ok(()) => self.finish(reply, Status::Ok),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                warn_limited!(%error, cause, queue = self.queue.index, "block request failed");
                self.finish(reply, Status::IoError);
            }
        }
    }

    /// Gives a pending request a token. There are never more of them than the queue has buffers.
    fn keep(&mut self, pending: Pending) -> usize {
        match self.free.pop() {
            Some(token) => {
                if let Some(slot) = self.pending.get_mut(token) {
                    *slot = pending;
                }
                token
            }
            None => {
                self.pending.push(pending);
                self.pending.len() - 1
            }
        }
    }

    fn finish(&mut self, reply: Reply, status: Status) {
        let queue = &mut self.queue.queue;
        let written = reply.write(status, queue.memory());
        queue.push_used(reply.head(), written);
        queue.publish();
    }

    /// Interrupts the driver if it wants that for what was returned.
    fn show(&mut self) {
        if self.queue.queue.needs_notification() {
            self.transport.notify_used(self.queue.index);
        }
    }
}
