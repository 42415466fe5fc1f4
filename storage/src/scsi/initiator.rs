//! What a local parser hands commands to: the logical units of some target, here or on another
//! host, as one initiator port sees them.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

use super::command::{Command, Response};
use super::manage::{Managed, Outcome, TaskManagement};
use super::nexus::Nexus;
use super::queue::ScsiQueue;
use super::target::Target;
use crate::DiskError;

/// An initiator port and the target that it talks to: an I_T nexus as the initiator's side has it.
///
/// It belongs to a guest, and stays when the guest restarts or comes over another connection.
pub trait Initiator: Send + Sync {
    /// A thread's way to the target, for up to `depth` commands at a time.
    ///
    /// # Errors
    /// The host lacks what a queue needs.
    fn queue(&self, depth: u16) -> Result<Box<dyn CommandQueue>, DiskError>;

    /// The guest is gone, or was reset: what lasts only as long as a nexus ends (SAM-5 6.3.4).
    /// Persistent reservations stay.
    fn nexus_lost(&self);
}

/// How a request to a target ended, as the transport protocol service tells it (SAM-5 5.4, 7.12).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceResponse {
    /// COMMAND COMPLETE.
    Complete(Response),
    /// The end of a task management function.
    Managed(Outcome),
    /// SERVICE DELIVERY OR TARGET FAILURE: whether the request was carried out is not known.
    DeliveryFailure,
}

/// A thread's way to a target. Every request is answered exactly once: a command by
/// [`CommandQueue::submit`] itself, or as a task management function by a later
/// [`CommandQueue::poll`] or [`CommandQueue::drain`].
///
/// Submit as many as there are, then call `poll`, which passes all of them on at once. Before the
/// thread sleeps, it waits for [`CommandQueue::ready_fd`] among its other descriptors. Dropping a
/// queue waits until nobody uses the memory of its commands any more.
pub trait CommandQueue: Send {
    /// Takes a command. `Some` is its answer; with `None`, it comes later under `token`, which
    /// means nothing to the queue.
    fn submit(&mut self, token: u64, command: Command) -> Option<ServiceResponse>;
    /// Takes a task management function, whose answer comes later under `token`.
    fn manage(&mut self, token: u64, lun: u64, what: TaskManagement);
    /// Passes on what was submitted, and appends the answers there are, without waiting.
    fn poll(&mut self, done: &mut Vec<(u64, ServiceResponse)>);
    /// Readable when `poll` has something to do.
    fn ready_fd(&self) -> BorrowedFd<'_>;
    /// Requests that are not answered yet.
    fn in_flight(&self) -> usize;
    /// Waits until every request is answered, and appends the answers.
    fn drain(&mut self, done: &mut Vec<(u64, ServiceResponse)>);
}

/// An initiator port of a target in this process.
pub struct LocalInitiator {
    target: Target,
    nexus: Nexus,
}

impl LocalInitiator {
    /// The port whose nexus with `target` this is.
    pub fn new(target: Target, nexus: Nexus) -> LocalInitiator {
        LocalInitiator { target, nexus }
    }
}

impl Initiator for LocalInitiator {
    fn queue(&self, depth: u16) -> Result<Box<dyn CommandQueue>, DiskError> {
        Ok(Box::new(LocalQueue {
            queue: self.target.queue(depth)?,
            target: self.target.clone(),
            nexus: self.nexus.clone(),
            managed: VecDeque::new(),
            answers: Vec::new(),
        }))
    }

    fn nexus_lost(&self) {
        // What is aborted ends by itself; nobody waits for it.
        let _ = self.target.nexus_lost(&self.nexus);
    }
}

struct LocalQueue {
    queue: ScsiQueue,
    target: Target,
    nexus: Nexus,
    /// Functions that wait for the tasks they aborted.
    managed: VecDeque<(u64, Managed)>,
    /// Kept between calls.
    answers: Vec<(u64, Response)>,
}

impl LocalQueue {
    /// Appends what the queue answered, and the functions that are complete.
    fn collect(&mut self, done: &mut Vec<(u64, ServiceResponse)>) {
        let complete = |(token, response)| (token, ServiceResponse::Complete(response));
        done.extend(self.answers.drain(..).map(complete));
        for _ in 0..self.managed.len() {
            let Some((token, mut managed)) = self.managed.pop_front() else { break };
            if managed.settled(&self.queue) {
                done.push((token, ServiceResponse::Managed(managed.outcome())));
            } else {
                self.managed.push_back((token, managed));
            }
        }
    }
}

impl CommandQueue for LocalQueue {
    fn submit(&mut self, token: u64, command: Command) -> Option<ServiceResponse> {
        self.queue.submit(token, &self.nexus, command).map(ServiceResponse::Complete)
    }

    fn manage(&mut self, token: u64, lun: u64, what: TaskManagement) {
        self.managed.push_back((token, self.target.manage(&self.nexus, lun, what)));
        // It may be complete, and nobody else would tell.
        self.queue.waker().wake();
    }

    fn poll(&mut self, done: &mut Vec<(u64, ServiceResponse)>) {
        self.queue.poll(&mut self.answers);
        self.collect(done);
    }

    fn ready_fd(&self) -> BorrowedFd<'_> {
        self.queue.ready_fd()
    }

    fn in_flight(&self) -> usize {
        self.queue.in_flight() + self.managed.len()
    }

    fn drain(&mut self, done: &mut Vec<(u64, ServiceResponse)>) {
        self.poll(done);
        while self.in_flight() > 0 {
            self.queue.wait();
            self.poll(done);
        }
    }
}
