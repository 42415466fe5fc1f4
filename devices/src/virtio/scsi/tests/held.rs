//! A target whose commands end only when they are aborted, and that tells nobody of it.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Mutex;

use storage::DiskError;
use storage::scsi::{
    Command, CommandQueue, Outcome, Response, Sense, ServiceResponse, Status, TaskManagement,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::sync::lock;

/// Tags and tokens of commands under way, by queue; what has ended is moved to the other list.
#[derive(Default)]
pub(super) struct Held {
    pub(super) commands: Mutex<Vec<(usize, u64, u64)>>,
    pub(super) ended: Mutex<Vec<(usize, u64)>>,
    pub(super) queues: Mutex<usize>,
    /// Task management functions that were asked for.
    pub(super) functions: Mutex<usize>,
    /// Commands that were submitted; while the other is locked, they stay unknown.
    pub(super) submitted: Mutex<usize>,
    pub(super) entrance: Mutex<()>,
    /// Answers every command at once with a failure to deliver it.
    pub(super) severed: bool,
}

pub(super) struct HeldInitiator(pub(super) Arc<Held>);

struct HeldQueue {
    held: Arc<Held>,
    number: usize,
    managed: Vec<(u64, Outcome)>,
    event: EventFd,
}

impl Held {
    fn end(&self, which: impl Fn(u64) -> bool) -> bool {
        let mut commands = lock(&self.commands);
        let before = commands.len();
        commands.retain(|&(queue, tag, token)| {
            let end = which(tag);
            if end {
                lock(&self.ended).push((queue, token));
            }
            !end
        });
        before != commands.len()
    }
}

impl Initiator for HeldInitiator {
    fn queue(&self, _depth: u16) -> Result<Box<dyn CommandQueue>, DiskError> {
        let mut queues = lock(&self.0.queues);
        *queues += 1;
        Ok(Box::new(HeldQueue {
            held: Arc::clone(&self.0),
            number: *queues,
            managed: Vec::new(),
            event: EventFd::new(EFD_NONBLOCK).unwrap(),
        }))
    }

    fn nexus_lost(&self) {
        self.0.end(|_| true);
    }
}

impl CommandQueue for HeldQueue {
    fn submit(&mut self, token: u64, command: Command) -> Option<ServiceResponse> {
        if self.held.severed {
            return Some(ServiceResponse::DeliveryFailure);
        }
        *lock(&self.held.submitted) += 1;
        let _entered = lock(&self.held.entrance);
        lock(&self.held.commands).push((self.number, command.tag, token));
        None
    }

    fn manage(&mut self, token: u64, lun: u64, what: TaskManagement) {
        let outcome = match what {
            _ if lun != 0 => Outcome::NoSuchUnit,
            TaskManagement::AbortTask(tag) if self.held.end(|it| it == tag) => Outcome::Complete,
            TaskManagement::AbortTask(_) => Outcome::NoSuchTask,
            _ => {
                self.held.end(|_| true);
                Outcome::Complete
            }
        };
        *lock(&self.held.functions) += 1;
        self.managed.push((token, outcome));
    }

    fn poll(&mut self, done: &mut Vec<(u64, ServiceResponse)>) {
        let mut ended = lock(&self.held.ended);
        ended.retain(|&(queue, token)| {
            if queue == self.number {
                done.push((token, ServiceResponse::Complete(silent())));
            }
            queue != self.number
        });
        let managed = |(token, outcome)| (token, ServiceResponse::Managed(outcome));
        done.extend(self.managed.drain(..).map(managed));
    }

    fn ready_fd(&self) -> BorrowedFd<'_> {
        borrowed(&self.event)
    }

    fn in_flight(&self) -> usize {
        let own = |queue: usize| queue == self.number;
        lock(&self.held.commands).iter().filter(|it| own(it.0)).count()
            + lock(&self.held.ended).iter().filter(|it| own(it.0)).count()
            + self.managed.len()
    }

    fn drain(&mut self, done: &mut Vec<(u64, ServiceResponse)>) {
        self.held.end(|_| true);
        self.poll(done);
    }
}

#[expect(unsafe_code, reason = "vmm-sys-util's eventfd lends its descriptor as a number only")]
fn borrowed(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open for as long as the event is borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

fn silent() -> Response {
    let status = Status::TaskAborted;
    Response { status, sense: Sense::NONE, data_in: 0, data_out: 0, wanted: 0, silent: true }
}
