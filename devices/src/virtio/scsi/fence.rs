//! What keeps the answer of a task management function behind those of the commands that it ended.
//!
//! A driver that was told that a command was aborted uses its memory for other things, so that the
//! command must be in its queue's used ring by then (virtio 1.3, 5.6.6.2). The target has answered
//! it by then, but to another thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vmm_sys_util::eventfd::EventFd;

/// Between the control queue's thread, which asks, and that of a request queue, which passes.
pub(super) struct Fence {
    /// Tickets that were handed out.
    asked: AtomicU64,
    /// The last of them that is about every command, and not only those that have an answer.
    asked_for_all: AtomicU64,
    /// Tickets that are good.
    passed: AtomicU64,
    /// Wakes the request queue's thread.
    ask: EventFd,
    /// Wakes the control queue's thread.
    pass: EventFd,
}

impl Fence {
    pub(super) fn new(ask: EventFd, pass: EventFd) -> Fence {
        let [asked, asked_for_all, passed] = Default::default();
        Fence { asked, asked_for_all, passed, ask, pass }
    }

    /// Asks for a ticket, which is good when everything that was answered until now has been
    /// returned to the driver; with `all`, everything that was taken until now. Only the control
    /// queue's thread asks.
    pub(super) fn ask(&self, all: bool) -> u64 {
        let ticket = self.asked.load(Ordering::Relaxed) + 1;
        if all {
            self.asked_for_all.store(ticket, Ordering::Relaxed);
        }
        self.asked.store(ticket, Ordering::Release);
        // Full only if written 2^64 - 1 times.
        let _ = self.ask.write(1);
        ticket
    }

    pub(super) fn is_passed(&self, ticket: u64) -> bool {
        self.passed.load(Ordering::Acquire) >= ticket
    }
}

/// A request queue's side of a fence. When it is dropped, be it in a panic, nobody waits for it.
pub(super) struct Gate {
    fence: Arc<Fence>,
    /// The last ticket it knows of.
    seen: u64,
    /// The last one that is about every command.
    for_all: u64,
    passed: u64,
}

impl Gate {
    pub(super) fn new(fence: Arc<Fence>) -> Gate {
        Gate { fence, seen: 0, for_all: 0, passed: 0 }
    }

    /// Looks for tickets. Look for answers after this, and return them before
    /// [`Gate::pass`].
    pub(super) fn look(&mut self) {
        let asked = self.fence.asked.load(Ordering::Acquire);
        if asked != self.seen {
            self.seen = asked;
            self.for_all = self.fence.asked_for_all.load(Ordering::Relaxed);
        }
    }

    /// The last ticket that was seen: those that are seen later are about what is taken now.
    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    /// The tickets are good, unless some command that was taken before one that is about all of
    /// them is under way: those under way were taken when these were [`Gate::seen`].
    pub(super) fn pass(&mut self, mut under_way: impl Iterator<Item = u64>) {
        if self.passed != self.seen && !under_way.any(|seen| seen < self.for_all) {
            self.set_passed(self.seen);
        }
    }

    /// Nothing will be returned any more.
    pub(super) fn close(&mut self) {
        if self.passed != u64::MAX {
            self.seen = u64::MAX;
            self.set_passed(u64::MAX);
        }
    }

    fn set_passed(&mut self, ticket: u64) {
        self.passed = ticket;
        self.fence.passed.store(ticket, Ordering::Release);
        let _ = self.fence.pass.write(1);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.close();
    }
}
