//! What guests' threads and the session's thread share: letters one way, answers the other.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};

use super::status::Known;
use crate::DiskError;
use crate::scsi::{
    self, Command, CommandQueue, Outcome, Response, ServiceResponse, Status, TaskManagement, Waker,
    lock,
};

/// Answers to the requests of one queue.
#[derive(Debug)]
pub(super) struct Mailbox {
    /// With the number of the request in the queue.
    answers: Mutex<Vec<(u64, ServiceResponse)>>,
    waker: Waker,
}

/// A request's right to one answer, which it gets in any case.
#[derive(Debug)]
pub(super) struct Errand {
    mailbox: Arc<Mailbox>,
    number: u64,
    is_open: bool,
}

impl Errand {
    pub(super) fn answer(mut self, response: ServiceResponse) {
        self.post(response);
    }

    /// Whether it is of this queue.
    pub(super) fn is_of(&self, mailbox: &Arc<Mailbox>) -> bool {
        Arc::ptr_eq(&self.mailbox, mailbox)
    }

    fn post(&mut self, response: ServiceResponse) {
        if std::mem::take(&mut self.is_open) {
            lock(&self.mailbox.answers).push((self.number, response));
            self.mailbox.waker.wake();
        }
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        self.post(ServiceResponse::DeliveryFailure);
    }
}

/// A command on its way. The order matters: when it is dropped, it lets go of the guest's memory
/// first, then says so.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) command: Command,
    /// Since when it waits.
    pub(super) since: Instant,
    /// How often its answer was lost.
    pub(super) sent: u8,
    pub(super) errand: Errand,
}

impl Request {
    pub(super) fn answer(self, response: ServiceResponse) {
        let Request { command, errand, .. } = self;
        drop(command);
        errand.answer(response);
    }
}

/// What a queue, or whoever has the target, asks of the session's thread.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all letters are of the largest kind")]
pub(super) enum Letter {
    Command(Request),
    Manage(TaskManagement, Errand),
    /// A queue ends, and with it all that it asked for.
    Forget(Arc<Mailbox>),
    NexusLost,
    Stop,
}

#[derive(Debug, Default)]
struct Inbox {
    letters: Vec<Letter>,
    is_closed: bool,
}

/// Where letters go.
#[derive(Debug)]
pub(super) struct Port {
    inbox: Mutex<Inbox>,
    waker: Waker,
    /// Commands answered.
    pub(super) commands: AtomicU64,
    pub(super) known: Known,
}

impl Port {
    pub(super) fn new(known: Known) -> rustix::io::Result<Port> {
        Ok(Port {
            inbox: Mutex::default(),
            waker: Waker::new()?,
            commands: AtomicU64::new(0),
            known,
        })
    }

    /// Posts letters. After the session's thread has ended, they answer themselves.
    pub(super) fn post(&self, letters: impl IntoIterator<Item = Letter>) {
        let mut inbox = lock(&self.inbox);
        if inbox.is_closed {
            drop(inbox);
            letters.into_iter().for_each(drop);
            return;
        }
        inbox.letters.extend(letters);
        drop(inbox);
        self.waker.wake();
    }

    /// Exchanges the letters there are for an empty list.
    pub(super) fn take(&self, letters: &mut Vec<Letter>) {
        if self.waker.take() {
            std::mem::swap(&mut lock(&self.inbox).letters, letters);
        }
    }

    /// Takes no more letters, and answers those there are.
    pub(super) fn close(&self) {
        let letters = {
            let mut inbox = lock(&self.inbox);
            inbox.is_closed = true;
            std::mem::take(&mut inbox.letters)
        };
        drop(letters);
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.waker.fd()
    }

    /// Has the session's thread look around.
    pub(super) fn wake(&self) {
        self.waker.wake();
    }
}

/// A thread's way to the remote unit.
pub(super) struct RemoteQueue {
    port: Arc<Port>,
    mailbox: Arc<Mailbox>,
    depth: usize,
    /// Not posted yet.
    letters: Vec<Letter>,
    next: u64,
    /// Tokens by number, of requests without an answer.
    open: HashMap<u64, u64>,
    /// Answers found here, of functions for units that are not there.
    ready: Vec<(u64, ServiceResponse)>,
    answers: Vec<(u64, ServiceResponse)>,
}

impl RemoteQueue {
    pub(super) fn new(port: Arc<Port>, depth: u16) -> Result<RemoteQueue, DiskError> {
        let waker = Waker::new().map_err(|error| DiskError::NoRing { source: error.into() })?;
        Ok(RemoteQueue {
            port,
            mailbox: Arc::new(Mailbox { answers: Mutex::default(), waker }),
            depth: usize::from(depth.max(1)),
            letters: Vec::new(),
            next: 0,
            open: HashMap::new(),
            ready: Vec::new(),
            answers: Vec::new(),
        })
    }

    fn errand(&mut self, token: u64) -> Errand {
        self.next = self.next.wrapping_add(1);
        self.open.insert(self.next, token);
        Errand { mailbox: Arc::clone(&self.mailbox), number: self.next, is_open: true }
    }

    fn collect(&mut self, done: &mut Vec<(u64, ServiceResponse)>) {
        done.append(&mut self.ready);
        if !self.mailbox.waker.take() {
            return;
        }
        std::mem::swap(&mut *lock(&self.mailbox.answers), &mut self.answers);
        let mut commands = 0;
        for (number, response) in self.answers.drain(..) {
            if let Some(token) = self.open.remove(&number) {
                commands += u64::from(matches!(response, ServiceResponse::Complete(_)));
                done.push((token, response));
            }
        }
        self.port.commands.fetch_add(commands, Ordering::Relaxed);
    }

    /// Has all that it asked for aborted.
    pub(super) fn forget(&self) {
        self.port.post([Letter::Forget(Arc::clone(&self.mailbox))]);
    }

    /// Sleeps until there is an answer.
    fn wait(&self) {
        if self.ready.is_empty() {
            let fd = self.mailbox.waker.fd();
            // Interrupted or not, the answers are looked at next.
            let _ = poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], None);
        }
    }
}

impl CommandQueue for RemoteQueue {
    fn submit(&mut self, token: u64, command: Command) -> Option<ServiceResponse> {
        const REPORT_LUNS: u8 = 0xa0;
        let code = command.cdb.first().copied();
        if scsi::unit_number(command.lun) != Some(0) || code == Some(REPORT_LUNS) {
            // One unit is shown, whatever its number and its neighbours over there.
            return Some(ServiceResponse::Complete(scsi::absent(command, 1)));
        }
        if self.open.len() >= self.depth {
            return Some(ServiceResponse::Complete(Response::of(Status::TaskSetFull)));
        }
        let length = |data: &crate::Buffers| u32::try_from(data.len()).is_ok();
        if !length(&command.data_in) || !length(&command.data_out) {
            return Some(ServiceResponse::DeliveryFailure);
        }
        let errand = self.errand(token);
        self.letters.push(Letter::Command(Request {
            command,
            since: Instant::now(),
            sent: 0,
            errand,
        }));
        None
    }

    fn manage(&mut self, token: u64, lun: u64, what: TaskManagement) {
        let known = what == TaskManagement::TargetReset || scsi::unit_number(lun) == Some(0);
        if !known {
            self.ready.push((token, ServiceResponse::Managed(Outcome::NoSuchUnit)));
            self.mailbox.waker.wake();
            return;
        }
        let errand = self.errand(token);
        self.letters.push(Letter::Manage(what, errand));
    }

    fn poll(&mut self, done: &mut Vec<(u64, ServiceResponse)>) {
        if !self.letters.is_empty() {
            self.port.post(self.letters.drain(..));
        }
        self.collect(done);
    }

    fn ready_fd(&self) -> BorrowedFd<'_> {
        self.mailbox.waker.fd()
    }

    fn in_flight(&self) -> usize {
        self.open.len() + self.ready.len()
    }

    fn drain(&mut self, done: &mut Vec<(u64, ServiceResponse)>) {
        self.poll(done);
        while self.in_flight() > 0 {
            self.wait();
            self.poll(done);
        }
    }
}

impl Drop for RemoteQueue {
    fn drop(&mut self) {
        self.letters.clear();
        if !self.open.is_empty() {
            self.forget();
        }
        // All are answered when nobody uses their memory.
        self.drain(&mut Vec::new());
    }
}
