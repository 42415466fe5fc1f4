//! The threads that carry out a device's requests.
//!
//! A thread is started when there is a request and nobody free to take it, up to [`THREADS_MAX`];
//! more than that wait in the order in which they came. There are never more requests than the
//! queues have buffers.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use super::fuse::Request;
use super::requests::{Answer, Service};
use crate::limited::warn_limited;
use crate::sync::lock;

/// Most threads of a device.
pub(super) const THREADS_MAX: usize = 64;

/// The threads of a started device.
pub(super) struct Pool {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    service: Arc<dyn Service>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(Request, Answer)>,
    /// Threads that wait for something to do.
    idle: usize,
    ending: bool,
}

impl Pool {
    /// No thread yet.
    pub(super) fn new(service: Arc<dyn Service>) -> Pool {
        let shared = Shared { service, state: Mutex::default(), changed: Condvar::new() };
        Pool { shared: Arc::new(shared), threads: Mutex::default() }
    }

    /// Lets a thread carry out a request.
    pub(super) fn submit(&self, request: Request, answer: Answer) {
        let mut state = lock(&self.shared.state);
        state.waiting.push_back((request, answer));
        let enough = state.waiting.len() <= state.idle;
        drop(state);
        if enough {
            self.shared.changed.notify_one();
        } else if !self.grow() {
            // There are no threads at all: it is done here and now.
            self.shared.work_through();
        }
    }

    /// Starts one more thread if there may be more; whether there is any.
    fn grow(&self) -> bool {
        let mut threads = lock(&self.threads);
        if threads.len() < THREADS_MAX {
            let shared = Arc::clone(&self.shared);
            let name = format!("virtio-fs/w{}", threads.len());
            match thread::Builder::new().name(name).spawn(move || shared.serve()) {
                Ok(thread) => threads.push(thread),
                Err(error) => warn_limited!(%error, "cannot start a file system's thread"),
            }
        }
        !threads.is_empty()
    }

    /// Ends the threads when everything that was submitted is carried out.
    pub(super) fn stop(&self) {
        lock(&self.shared.state).ending = true;
        self.shared.changed.notify_all();
        for thread in lock(&self.threads).drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// One thread's work, until the pool ends.
    fn serve(&self) {
        loop {
            self.work_through();
            let mut state = lock(&self.state);
            if !state.waiting.is_empty() {
                continue;
            }
            if state.ending {
                return;
            }
            state.idle += 1;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// Carries out what there is.
    fn work_through(&self) {
        loop {
            // Not held while a request is carried out.
            let next = lock(&self.state).waiting.pop_front();
            let Some((request, answer)) = next else { return };
            let handle = AssertUnwindSafe(|| self.service.handle(request, answer));
            // The panic has told of itself, and the answer went back with what was unwound.
            let _ = catch_unwind(handle);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop();
    }
}
