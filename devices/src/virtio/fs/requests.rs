//! What becomes of the requests of one queue.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use memshare::GuestMemory;
use storage::{AlignedBuffer, Buffers, Owner};
use vmm_sys_util::eventfd::EventFd;

use super::fuse::{Reply, Request, Server};
use super::pool::Pool;
use crate::sync::lock;
use crate::virtio::parts::Parts;
use crate::virtio::queue::{Chain, Queue, RingError};
use crate::virtio::serve::Serve;
use crate::virtio::tokens::Tokens;
use crate::virtio::worker::Wake;

/// Operations of FUSE (`include/uapi/linux/fuse.h`) that take no time, and have to be seen while
/// all threads are busy.
const FORGET: u32 = 2;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;
/// Bytes of `fuse_in_header`, and where fields of it are.
const HEADER_LEN: usize = 40;
const OPCODE: usize = 4;
const UNIQUE: usize = 8;

/// Who carries out requests.
pub(super) trait Service: Send + Sync {
    /// Carries out one request. Called from several threads at once.
    fn handle(&self, request: Request, answer: Answer);
}

impl Service for Server {
    fn handle(&self, request: Request, answer: Answer) {
        Server::handle(self, request, answer);
    }
}

/// A message without arguments but these, as a driver would send it.
pub(super) fn message(opcode: u32, unique: u64, arguments: &[u8]) -> Request {
    let len = HEADER_LEN + arguments.len();
    let mut memory = AlignedBuffer::new(len);
    let mut bytes = vec![0; HEADER_LEN];
    let fields: [(usize, &[u8]); 3] = [
        (0, &u32::try_from(len).unwrap_or_default().to_le_bytes()),
        (OPCODE, &opcode.to_le_bytes()),
        (UNIQUE, &unique.to_le_bytes()),
    ];
    for (at, field) in fields {
        bytes.splice(at..at + field.len(), field.iter().copied());
    }
    bytes.extend(arguments);
    for (to, from) in memory.bytes().iter_mut().zip(bytes) {
        *to = from;
    }
    let input = Buffers::whole(&Arc::new(memory)).split_to(len as u64);
    Request { input, output: Buffers::none() }
}

/// Requests of a queue that are answered, and how much was written.
pub(super) struct Answers {
    done: Mutex<Vec<(u64, u32)>>,
    event: EventFd,
}

impl Answers {
    /// `event` is signalled when there is something to return.
    pub(super) fn new(event: EventFd) -> Arc<Answers> {
        Arc::new(Answers { done: Mutex::default(), event })
    }

    fn put(&self, token: u64, written: u32) {
        let mut done = lock(&self.done);
        let first = done.is_empty();
        done.push((token, written));
        drop(done);
        // Whoever was first has told already.
        if first {
            // Full only when nobody has looked for 2^64 - 1 answers.
            let _ = self.event.write(1);
        }
    }
}

/// Where the answer to one request goes. A request whose carrying out panicked is answered too,
/// with nothing.
pub(super) struct Answer {
    token: u64,
    to: Option<Arc<Answers>>,
}

impl Answer {
    /// For messages of the device's own.
    pub(super) fn nowhere() -> Answer {
        Answer { token: 0, to: None }
    }
}

impl Reply for Answer {
    fn done(mut self, written: u32) {
        if let Some(to) = self.to.take() {
            to.put(self.token, written);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(to) = self.to.take() {
            to.put(self.token, 0);
        }
    }
}

/// The requests of one queue of a started device.
pub(super) struct Requests {
    service: Arc<dyn Service>,
    pool: Arc<Pool>,
    /// Keeps guest memory mapped for requests.
    owner: Owner,
    answers: Arc<Answers>,
    /// Requests that are not returned.
    pending: Tokens<Pending>,
    count: usize,
    /// Answers that were looked at, and not returned.
    found: Vec<(u64, u32)>,
}

/// What is kept of a request until its answer.
struct Pending {
    head: u16,
    /// By which INTERRUPT names it.
    unique: u64,
}

impl Requests {
    pub(super) fn new(
        service: Arc<dyn Service>,
        pool: Arc<Pool>,
        memory: &Arc<GuestMemory>,
        answers: Arc<Answers>,
    ) -> Requests {
        let owner: Owner = Arc::new(Arc::clone(memory));
        let (pending, found) = (Tokens::default(), Vec::new());
        Requests { service, pool, owner, answers, pending, count: 0, found }
    }
}

impl Serve for Requests {
    const DEVICE: &'static str = "file system";

    fn take(&mut self, chain: &Chain, queue: &mut Queue) -> Result<(), RingError> {
        let parts = Parts::new(chain, queue.memory(), &self.owner);
        let mut header = [0; HEADER_LEN];
        parts.read(0, &mut header)?;
        let [_, _, _, _, o0, o1, o2, o3, u0, u1, u2, u3, u4, u5, u6, u7, ..] = header;
        let request = Request {
            input: parts.data_out(0, parts.readable())?,
            output: parts.data_in(0, parts.writable())?,
        };
        let unique = u64::from_le_bytes([u0, u1, u2, u3, u4, u5, u6, u7]);
        let token = self.pending.keep(Pending { head: chain.head(), unique });
        self.count += 1;
        let answer = Answer { token, to: Some(Arc::clone(&self.answers)) };
        match u32::from_le_bytes([o0, o1, o2, o3]) {
            FORGET | BATCH_FORGET | INTERRUPT => self.service.handle(request, answer),
            _ => self.pool.submit(request, answer),
        }
        Ok(())
    }

    fn poll(&mut self) {
        let mut done = lock(&self.answers.done);
        if self.found.is_empty() {
            std::mem::swap(&mut self.found, &mut done);
        } else {
            self.found.append(&mut done);
        }
    }

    fn has_answers(&self) -> bool {
        !self.found.is_empty()
    }

    fn in_flight(&self) -> usize {
        self.count
    }

    fn return_answers(&mut self, queue: &mut Queue) -> bool {
        let any = !self.found.is_empty();
        for (token, written) in self.found.drain(..) {
            if let Some(pending) = self.pending.take(token) {
                self.count -= 1;
                queue.push_used(pending.head, written);
            }
        }
        if any {
            queue.publish();
        }
        any
    }

    /// Requests that wait for a lock would wait for good if they were not interrupted: now and
    /// then, since some of them may not have begun to.
    fn drain(&mut self, wake: &Wake) {
        const PAUSE: Duration = Duration::from_millis(20);
        loop {
            self.poll();
            if self.found.len() >= self.count {
                break;
            }
            for pending in self.pending.iter() {
                let interrupt = message(INTERRUPT, 0, &pending.unique.to_le_bytes());
                self.service.handle(interrupt, Answer::nowhere());
            }
            wake.sleep_at_most(Some(PAUSE));
        }
    }
}
