//! The thread of one queue of requests.
//!
//! It takes every request there is, hands them all on, lets the host know once, returns what is
//! answered, and decides once for all of them whether the driver is interrupted. While there is
//! work it asks the driver not to notify. When there is none it looks on for a little while
//! ([`Polling`]), then asks for notifications and sleeps.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Instant;

use super::device::{StartedQueue, Transport};
use super::polling::Polling;
use super::queue::{Chain, Queue, QueueState, RingError};
use super::worker::Wake;
use crate::limited::warn_limited;

/// What a device does with the requests of one queue.
pub(super) trait Serve {
    /// What the device is, for messages.
    const DEVICE: &'static str;

    /// Takes the request in `chain`, and returns it to the driver if it is answered at once.
    fn take(&mut self, chain: &Chain, queue: &mut Queue) -> Result<(), RingError>;
    /// Passes on what was taken, and looks for answers, without waiting.
    fn poll(&mut self);
    /// Whether there are answers that were not returned.
    fn has_answers(&self) -> bool;
    /// Requests that are not answered yet.
    fn in_flight(&self) -> usize;
    /// Returns the requests that were answered to the driver; whether there were any.
    fn return_answers(&mut self, queue: &mut Queue) -> bool;
    /// Waits until every request that was taken is answered. What can wake the device's thread
    /// wakes `wake`.
    fn drain(&mut self, wake: &Wake);
}

/// One queue of a started device.
pub(super) struct Server<S> {
    queue: StartedQueue,
    transport: Arc<dyn Transport>,
    chain: Chain,
    service: S,
}

impl<S: Serve> Server<S> {
    pub(super) fn new(queue: StartedQueue, transport: Arc<dyn Transport>, service: S) -> Server<S> {
        Server { queue, transport, chain: Chain::default(), service }
    }

    /// Where the queue stands.
    pub(super) fn state(&self) -> QueueState {
        self.queue.state()
    }

    /// Works until told to stop; every request that was taken is answered then.
    pub(super) fn run(&mut self, wake: &Wake) {
        let broken = self.work_until_stopped(wake).err();
        self.finish(wake);
        if let Some(error) = broken {
            let device = S::DEVICE;
            warn_limited!(%error, queue = self.queue.index, "a queue of a {device} is broken");
            self.transport.needs_reset();
            while !wake.stopped() {
                wake.sleep();
                // Whatever woke it, such as a late signal of the disk's, must not go on to do so.
                self.service.poll();
            }
        }
    }

    /// Waits until every request that was taken is answered, and returns the answers.
    pub(super) fn finish(&mut self, wake: &Wake) {
        self.service.drain(wake);
        while self.service.return_answers(&mut self.queue.queue) {
            // Answers that something was to follow.
            self.service.drain(wake);
        }
        self.show();
    }

    /// Does all that there is to do, without a thread of its own.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn work_through(&mut self) {
        self.queue.queue.suppress_notifications();
        loop {
            match self.work() {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => return self.transport.needs_reset(),
            }
        }
        self.queue.queue.request_notifications();
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
            self.service.take(&self.chain, &mut self.queue.queue)?;
        }
        self.service.poll();
        worked |= self.service.return_answers(&mut self.queue.queue);
        if worked {
            self.show();
        }
        Ok(worked)
    }

    /// Whether [`Server::work`] would find something.
    fn has_work(&mut self) -> bool {
        if self.service.in_flight() > 0 {
            self.service.poll();
        }
        self.service.has_answers() || self.queue.queue.has_available()
    }

    /// Interrupts the driver if it wants that for what was returned.
    fn show(&mut self) {
        if self.queue.queue.needs_notification() {
            self.transport.notify_used(self.queue.index);
        }
    }
}
