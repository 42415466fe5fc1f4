//! One bound for the memory that the data of all sessions takes.
//!
//! ```text
//!  server_bytes ─┬─ half: shared, first come, first served
//!                └─ half: each connection's own, which nobody else can take
//! ```
//!
//! A command has all its memory before its data is asked for, so that whoever has some needs only
//! its initiator and the disk to go on: sessions that wait for each other there are none. Who
//! needs more than is free waits in line, and small wishes do not pass big ones by. An initiator
//! that keeps others waiting must move data, see [`Session`](super::session::Session).

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::limits::ServerLimits;

/// The memory of all sessions.
#[derive(Debug)]
pub(super) struct Memory {
    /// Bytes that each session has for itself.
    own: usize,
    /// Bytes for all.
    shared: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Shared bytes in use.
    used: usize,
    /// Those that wait, by number.
    waiting: VecDeque<u64>,
    /// What wakes each session.
    sessions: BTreeMap<u64, Arc<OwnedFd>>,
    next: u64,
}

impl State {
    fn wake(&self, number: u64) {
        if let Some(event) = self.sessions.get(&number) {
            // Fails only when the counter is full: then it is readable already.
            let _ = rustix::io::write(event, &1u64.to_ne_bytes());
        }
    }

    fn wake_first(&self) {
        if let Some(&first) = self.waiting.front() {
            self.wake(first);
        }
    }
}

impl Memory {
    pub(super) fn new(limits: &ServerLimits) -> Memory {
        let own = limits.server_bytes / 2 / limits.connections.max(1);
        let shared = limits.server_bytes.saturating_sub(own.saturating_mul(limits.connections));
        Memory { own, shared, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session's part, which is none yet.
    pub(super) fn share(self: &Arc<Self>) -> rustix::io::Result<Share> {
        let event = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.sessions.insert(number, Arc::clone(&event));
        Ok(Share { memory: Arc::clone(self), number, event, held: 0 })
    }
}

/// A session's part of the memory. Dropping it gives all of it back.
#[derive(Debug)]
pub(super) struct Share {
    memory: Arc<Memory>,
    number: u64,
    event: Arc<OwnedFd>,
    /// Bytes, its own included.
    held: usize,
}

impl Share {
    /// Takes so many bytes, or gets in line for them: then the session is woken when it may have
    /// them, and asks again.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        if self.try_take(bytes) {
            return true;
        }
        let mut state = self.memory.state();
        if !state.waiting.contains(&self.number) {
            state.waiting.push_back(self.number);
            // What others keep for later is wanted now.
            state.sessions.keys().for_each(|&number| state.wake(number));
        }
        false
    }

    /// Takes so many bytes to keep them for later, unless someone waits.
    pub(super) fn keep(&mut self, bytes: usize) -> bool {
        let nobody_waits = self.memory.state().waiting.is_empty();
        nobody_waits && self.try_take(bytes)
    }

    /// Takes so many bytes, if they are free and it is this session's turn.
    fn try_take(&mut self, bytes: usize) -> bool {
        let more = self.beyond(self.held.saturating_add(bytes)) - self.beyond(self.held);
        if more > 0 {
            let mut state = self.memory.state();
            let first = state.waiting.front().copied();
            let is_next = first.is_none_or(|first| first == self.number);
            if !is_next || more > self.memory.shared - state.used {
                return false;
            }
            state.used += more;
            if first.is_some() {
                // With its next wish it gets in line behind the others.
                state.waiting.pop_front();
                state.wake_first();
            }
        }
        self.held += bytes;
        true
    }

    pub(super) fn give(&mut self, bytes: usize) {
        let bytes = bytes.min(self.held);
        let less = self.beyond(self.held) - self.beyond(self.held - bytes);
        self.held -= bytes;
        if less > 0 {
            let mut state = self.memory.state();
            state.used -= less;
            state.wake_first();
        }
    }

    /// Gets out of the line.
    pub(super) fn leave(&mut self) {
        let mut state = self.memory.state();
        let was_first = state.waiting.front() == Some(&self.number);
        state.waiting.retain(|&number| number != self.number);
        if was_first {
            state.wake_first();
        }
    }

    /// Whether others wait for what it has beyond its own.
    pub(super) fn keeps_others_waiting(&self) -> bool {
        self.beyond(self.held) > 0
            && self.memory.state().waiting.iter().any(|&number| number != self.number)
    }

    /// Bytes of data that a session may keep of commands that wait: half of its own, so that the
    /// rest is there for the one that is next.
    pub(super) fn early_max(&self) -> usize {
        self.memory.own / 2
    }

    /// Readable once the session should look again.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Looks; what there is to see is to be looked at after this.
    pub(super) fn look(&self) {
        // Fails when nobody woke the session.
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
    }

    /// How much of so many bytes is shared. Half of what is its own is for data that comes early.
    fn beyond(&self, bytes: usize) -> usize {
        bytes.saturating_sub(self.memory.own - self.early_max())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give(self.held);
        self.leave();
        self.memory.state().sessions.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four connections with 500 bytes of their own, half of them for early data; 2000 for all.
    fn memory() -> Arc<Memory> {
        let limits = ServerLimits { connections: 4, server_bytes: 4000, ..ServerLimits::default() };
        Arc::new(Memory::new(&limits))
    }

    fn is_woken(share: &Share) -> bool {
        rustix::io::read(&share.event, &mut [0; 8]).is_ok()
    }

    #[test]
    fn what_is_ones_own_nobody_takes() {
        let memory = memory();
        let [mut one, mut two] = [(); 2].map(|()| memory.share().unwrap());
        assert!(one.take(2250) && !one.take(1));
        one.leave();
        assert!(two.take(250));
        two.give(250);
        assert!(!two.take(251) && one.keeps_others_waiting() && !two.keeps_others_waiting());
        one.give(1);
        assert!(is_woken(&two) && two.take(251));
        assert!(!one.keeps_others_waiting());
        assert_eq!(memory.state().used, memory.shared);
    }

    #[test]
    fn who_waits_for_much_is_not_passed_by() {
        let memory = memory();
        let [mut one, mut two, mut three] = [(); 3].map(|()| memory.share().unwrap());
        assert!(one.take(1250) && !two.take(2000));
        assert!(!three.take(300) && three.take(250), "there is room, but another is first");
        assert!(!one.keep(1), "nothing is kept for later while someone waits");
        let _ = [&one, &two, &three].map(is_woken);
        one.give(1250);
        assert!(is_woken(&two) && !is_woken(&three));
        assert!(!three.take(50) && two.take(2000));
        // Who gives up makes way.
        assert!(!one.take(1000) && is_woken(&one));
        three.leave();
        two.give(2000);
        assert!(is_woken(&one) && one.take(1000));
        drop([one, two]);
        let state = memory.state();
        assert_eq!((state.used, state.sessions.len()), (0, 1));
        drop(state);
    }
}
