//! What becomes of the requests of one queue.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use memshare::GuestMemory;
use storage::{Answer, Buffers, DiskRange, DiskRequest, IoError, Operation, Owner, RequestQueue};

use super::request::{self, Facts, Reply, Status, Work};
use crate::limited::warn_limited;
use crate::virtio::queue::{Chain, Queue, RingError};
use crate::virtio::serve::Serve;
use crate::virtio::tokens::Tokens;
use crate::virtio::worker::Wake;

/// The requests of one queue of a started device.
pub(super) struct Requests<Q> {
    /// The queue's number.
    index: u16,
    disk: Q,
    facts: Arc<Facts>,
    /// Keeps guest memory mapped for requests. Of this queue alone: threads that count
    /// references to one object get in each other's way.
    owner: Owner,
    /// Requests that the disk has not answered.
    pending: Tokens<Pending>,
    answers: Vec<Answer>,
}

/// What is kept of a request until its answer.
#[derive(Clone, Copy)]
struct Pending {
    reply: Reply,
    /// The answer is not final: a flush is to follow.
    flush_next: bool,
}

impl<Q: RequestQueue> Requests<Q> {
    pub(super) fn new(
        index: u16,
        memory: &Arc<GuestMemory>,
        disk: Q,
        facts: Arc<Facts>,
    ) -> Requests<Q> {
        let owner: Owner = Arc::new(Arc::clone(memory));
        let (pending, answers) = (Tokens::default(), Vec::new());
        Requests { index, disk, facts, owner, pending, answers }
    }

    fn submit(&mut self, reply: Reply, request: DiskRequest, queue: &mut Queue) {
        let writes = !matches!(request.operation, Operation::Read | Operation::Flush);
        let flush_next = writes && !self.facts.writeback.load(Ordering::Relaxed);
        self.submit_pending(Pending { reply, flush_next }, request, queue);
    }

    fn submit_pending(&mut self, pending: Pending, request: DiskRequest, queue: &mut Queue) {
        let token = self.pending.keep(pending);
        if let Some(result) = self.disk.submit(token, request) {
            self.answer(token, result, queue);
        }
    }

    fn answer(&mut self, token: u64, result: Result<(), IoError>, queue: &mut Queue) {
        let Some(Pending { reply, flush_next }) = self.pending.take(token) else { return };
        match result {
            Ok(()) if flush_next => {
                let flush = DiskRequest {
                    operation: Operation::Flush,
                    range: DiskRange::EMPTY,
                    buffers: Buffers::none(),
                };
                self.submit_pending(Pending { reply, flush_next: false }, flush, queue);
            }
            Ok(()) => finish(reply, Status::Ok, queue),
            Err(error) => {
                self.tell(&error);
                finish(reply, Status::IoError, queue);
            }
        }
    }

    fn tell(&self, error: &IoError) {
        if matches!(error, IoError::ReservationConflict { .. }) {
            // Between guests, and as it should be.
            tracing::debug!(%error, queue = self.index, "block request refused");
            return;
        }
        let cause = std::error::Error::source(error).map(ToString::to_string);
        warn_limited!(%error, cause, queue = self.index, "block request failed");
    }
}

impl<Q: RequestQueue> Serve for Requests<Q> {
    const DEVICE: &'static str = "block device";

    fn take(&mut self, chain: &Chain, queue: &mut Queue) -> Result<(), RingError> {
        let (reply, work) = request::parse(chain, queue.memory(), &self.owner, &self.facts)?;
        match work {
            Work::Done(status) => finish(reply, status, queue),
            Work::Disk(request) => self.submit(reply, request, queue),
        }
        Ok(())
    }

    fn poll(&mut self) {
        self.disk.poll(&mut self.answers);
    }

    fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    fn in_flight(&self) -> usize {
        self.disk.in_flight()
    }

    fn return_answers(&mut self, queue: &mut Queue) -> bool {
        if self.answers.is_empty() {
            return false;
        }
        let mut answers = std::mem::take(&mut self.answers);
        for (token, result) in answers.drain(..) {
            self.answer(token, result, queue);
        }
        self.answers = answers;
        true
    }

    fn drain(&mut self, _wake: &Wake) {
        self.disk.drain(&mut self.answers);
    }
}

fn finish(reply: Reply, status: Status, queue: &mut Queue) {
    let written = reply.write(status, queue.memory());
    queue.push_used(reply.head(), written);
    queue.publish();
}
