//! Requests that wait for a lock. They are tried again by a thread that exists only while there
//! are such: whenever this guest gives a lock up, and at intervals, since others do so unseen.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

use super::locks::Attempt;
use super::messages::Result;
use crate::sync::lock;

/// How long between two attempts, at first and at last.
const SOON: Duration = Duration::from_millis(1);
const LATER: Duration = Duration::from_millis(32);
/// Interruptions remembered of requests that were not waiting when they came.
const EARLY_MAX: usize = 64;

/// Called with what became of a request.
pub(super) type Finish = Box<dyn FnOnce(Result<()>) + Send>;

struct Waiter {
    unique: u64,
    attempt: Attempt,
    finish: Finish,
}

#[derive(Default)]
struct State {
    waiters: Vec<Waiter>,
    /// Interrupted before they waited: the two can come by different queues.
    early: VecDeque<u64>,
    running: bool,
    retry: bool,
    /// The thread has these in hand.
    trying: usize,
    /// Counted up when all that waits is to end.
    ended: u64,
}

/// All requests of a guest that wait.
pub(super) struct Waiting {
    max: usize,
    state: Mutex<State>,
    wake: Condvar,
}

impl Waiting {
    /// Room for `max` at a time.
    pub(super) fn new(max: usize) -> Arc<Waiting> {
        Arc::new(Waiting { max, state: Mutex::default(), wake: Condvar::new() })
    }

    /// Lets a request wait until `attempt` gives something else than `EAGAIN`.
    pub(super) fn add(self: &Arc<Waiting>, unique: u64, attempt: Attempt, finish: Finish) {
        let mut state = lock(&self.state);
        if let Some(at) = state.early.iter().position(|early| *early == unique) {
            state.early.remove(at);
            drop(state);
            return finish(Err(Errno::INTR));
        }
        let full = state.waiters.len() + state.trying >= self.max;
        if full || (!state.running && !self.start()) {
            drop(state);
            return finish(Err(Errno::NOLCK));
        }
        state.running = true;
        state.retry = true;
        state.waiters.push(Waiter { unique, attempt, finish });
        drop(state);
        self.wake.notify_one();
    }

    fn start(self: &Arc<Waiting>) -> bool {
        let waiting = Arc::clone(self);
        let run = move || waiting.run();
        thread::Builder::new().name("fs-locks".to_owned()).spawn(run).is_ok()
    }

    /// A lock was given up: perhaps somebody waits for it.
    pub(super) fn retry(&self) {
        let mut state = lock(&self.state);
        if state.running {
            state.retry = true;
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Ends a request's waiting (`EINTR`).
    pub(super) fn interrupt(&self, unique: u64) {
        let mut state = lock(&self.state);
        match state.waiters.iter().position(|waiter| waiter.unique == unique) {
            Some(at) => {
                let waiter = state.waiters.swap_remove(at);
                drop(state);
                (waiter.finish)(Err(Errno::INTR));
            }
            None => {
                if state.early.len() >= EARLY_MAX {
                    state.early.pop_front();
                }
                state.early.push_back(unique);
                drop(state);
            }
        }
    }

    /// Ends all waiting (`EINTR`).
    pub(super) fn end(&self) {
        let mut state = lock(&self.state);
        state.ended += 1;
        state.early.clear();
        let waiters = std::mem::take(&mut state.waiters);
        drop(state);
        self.wake.notify_one();
        for waiter in waiters {
            (waiter.finish)(Err(Errno::INTR));
        }
    }

    fn run(&self) {
        let mut pause = SOON;
        let mut state = lock(&self.state);
        loop {
            if state.waiters.is_empty() {
                state.running = false;
                return;
            }
            state.retry = false;
            let waiters = std::mem::take(&mut state.waiters);
            state.trying = waiters.len();
            let ended = state.ended;
            drop(state);
            let (mut left, mut done) = (Vec::new(), false);
            for mut waiter in waiters {
                match (waiter.attempt)() {
                    Err(Errno::AGAIN | Errno::ACCESS) => left.push(waiter),
                    result => {
                        done = true;
                        (waiter.finish)(result);
                    }
                }
            }
            state = lock(&self.state);
            state.trying = 0;
            if state.ended != ended {
                drop(state);
                for waiter in left {
                    (waiter.finish)(Err(Errno::INTR));
                }
                state = lock(&self.state);
                continue;
            }
            // Interrupted while they were in hand.
            let mut interrupted = Vec::new();
            for waiter in left {
                match state.early.iter().position(|early| *early == waiter.unique) {
                    Some(at) => {
                        state.early.remove(at);
                        interrupted.push(waiter);
                    }
                    None => state.waiters.push(waiter),
                }
            }
            if !interrupted.is_empty() {
                drop(state);
                for waiter in interrupted {
                    (waiter.finish)(Err(Errno::INTR));
                }
                state = lock(&self.state);
            }
            if state.retry || state.waiters.is_empty() {
                pause = SOON;
                continue;
            }
            pause = if done { SOON } else { (pause * 2).min(LATER) };
            let waited = self.wake.wait_timeout(state, pause);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
