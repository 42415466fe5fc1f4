//! Commands that a queue has not answered yet.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::command::{Command, Response, Status};
use super::log::Limit;
use super::nexus::{Access, Ending, Epoch};
use super::queue;
use super::ranges::Held;
use super::reserve::{Pending, Verdict};
use super::sense::Fault;
use super::unit::Unit;
use super::work::Work;
use crate::Operation;

/// What a task waits for.
#[derive(Debug)]
pub(super) enum State {
    /// Its range, or its turn.
    Held,
    /// The disk.
    Asked,
    /// What becomes of a reservation command.
    Judged(Arc<Pending>),
    /// The end of others' tasks.
    Victims(Vec<Ending>),
    /// Nothing.
    Over,
}

/// A command under way.
pub(super) struct Task {
    token: u64,
    tag: u64,
    /// Set once the task is known to ABORT TASK.
    id: Option<u64>,
    pub(super) number: usize,
    access: Arc<Access>,
    epoch: Epoch,
    /// Whether it still counts among the tasks that may touch the medium.
    counts: bool,
    pub(super) state: State,
    pub(super) held: Option<Held>,
    pub(super) steps: Option<Work>,
    /// The last request: what, and from which byte.
    pub(super) asked: (Operation, u64),
    /// What a verdict is answered to, with its ALLOCATION LENGTH. Steps have taken their memory.
    judged: Option<Box<(Command, u64)>>,
    pub(super) reads: bool,
    /// The answer, if all goes well.
    pub(super) response: Response,
}

impl Task {
    pub(super) fn new(
        (token, tag): (u64, u64),
        (number, access, epoch): (usize, Arc<Access>, Epoch),
    ) -> Task {
        Task {
            token,
            tag,
            id: None,
            number,
            access,
            epoch,
            counts: true,
            state: State::Over,
            held: None,
            steps: None,
            asked: (Operation::Flush, 0),
            judged: None,
            reads: false,
            response: Response::GOOD,
        }
    }

    /// Keeps a reservation command until its verdict.
    pub(super) fn keep(&mut self, command: Command, allocated: u64) {
        self.judged = Some(Box::new((command, allocated)));
    }

    /// What follows from a reservation command's verdict.
    pub(super) fn judge(&mut self, verdict: Verdict, units: &[Arc<Unit>]) {
        self.state = State::Over;
        match verdict {
            Verdict::Good => {}
            Verdict::Data(data) => {
                if let Some((command, allocated)) = self.judged.as_deref_mut() {
                    self.response = queue::reply(&data, *allocated, command);
                }
            }
            Verdict::Conflict => self.response = Response::of(Status::ReservationConflict),
            Verdict::Check(fault) => self.fail(fault, &units[self.number]),
            Verdict::Victims(victims) => {
                // It is carried out: whoever preempts this one need not wait for it, or two that
                // preempt each other would wait for good.
                self.uncount();
                self.state = State::Victims(victims);
            }
        }
    }

    pub(super) fn fail(&mut self, fault: Fault, unit: &Unit) {
        self.response = Response::check(fault.encode(unit.mode.descriptor_sense()));
        self.steps = None;
    }

    /// Whether it is to be given up, and whether another initiator wants that.
    pub(super) fn aborted(&self) -> Option<bool> {
        match (self.counts, self.id) {
            (true, id) => self.access.aborted(self.epoch, id),
            // Carried out, hence past everything but its own initiator's wish.
            (false, id) => id.filter(|&id| self.access.is_aborted_by_tag(id)).map(|_| false),
        }
    }

    /// Counts no longer among the tasks that others may have to wait for.
    fn uncount(&mut self) {
        match (std::mem::take(&mut self.counts), self.id) {
            (false, _) => {}
            (true, Some(id)) => self.access.rest(id),
            (true, None) => self.access.leave(self.epoch),
        }
    }

    /// Gives back all that it holds; its answer.
    pub(super) fn end(&mut self, unit: &Unit) -> (u64, Response) {
        let aborted = self.aborted();
        let mut response = std::mem::replace(&mut self.response, Response::GOOD);
        if response.status == Status::Good
            && let Some(steps) = &self.steps
        {
            response.data_in = steps.filled();
            let traffic = &self.access.traffic;
            if self.reads {
                traffic.reads.fetch_add(1, Ordering::Relaxed);
                traffic.read_bytes.fetch_add(response.data_in, Ordering::Relaxed);
            } else if response.data_out > 0 {
                traffic.writes.fetch_add(1, Ordering::Relaxed);
                traffic.written_bytes.fetch_add(response.data_out, Ordering::Relaxed);
            }
        }
        if let Some(held) = self.held.take() {
            unit.ranges.release(held);
        }
        if let Some(by_other) = aborted {
            response = Response { silent: !by_other, ..Response::of(Status::TaskAborted) };
        }
        // Last: who waits for this sees all of it done.
        match self.id {
            Some(id) => self.access.forget(id),
            None => self.uncount(),
        }
        (self.token, response)
    }
}

/// A queue's tasks, by slot.
pub(super) struct Tasks {
    places: Vec<Option<Task>>,
    free: Vec<usize>,
    depth: u16,
    next: u64,
    /// Lines about failed requests.
    pub(super) lines: Limit,
}

impl Tasks {
    /// At most `depth`; their numbers are those of queue `queue`.
    pub(super) fn new(depth: u16, queue: u16) -> Tasks {
        Tasks {
            places: Vec::new(),
            free: Vec::new(),
            depth,
            next: u64::from(queue) << 48,
            lines: Limit::default(),
        }
    }

    pub(super) fn depth(&self) -> u16 {
        self.depth
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= usize::from(self.depth)
    }

    /// A slot that nobody else has, until [`Tasks::free`].
    pub(super) fn reserve(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        })
    }

    /// Puts a task that waits into its slot, and makes it known to ABORT TASK, as it is not answered
    /// at once.
    pub(super) fn put(&mut self, slot: usize, mut task: Task) {
        if task.id.is_none() {
            task.id = Some(self.next);
            task.access.name(task.tag, self.next, task.epoch, task.counts);
            self.next += 1;
        }
        self.places[slot] = Some(task);
    }

    /// Takes a task out of its slot, which stays its own.
    pub(super) fn take(&mut self, slot: usize) -> Option<Task> {
        self.places.get_mut(slot)?.take()
    }

    /// The task that has the slot is over.
    pub(super) fn free(&mut self, slot: usize) {
        self.free.push(slot);
    }

    pub(super) fn remove_all(&mut self) -> Vec<Task> {
        self.free.clear();
        self.places.drain(..).flatten().collect()
    }
}
