//! Output in lines: one system call for each line rather than for each byte.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::sync::lock;

/// How long a part of a line is held back.
const HOLD: Duration = Duration::from_millis(5);
/// Most bytes that are held back.
const CAPACITY: usize = 4096;

/// Holds bytes back until a line is complete or [`HOLD`] has passed, whichever is first. A thread
/// watches the time; it is started by the first part of a line.
pub(super) struct LineOutput {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    output: Box<dyn Write + Send>,
    held: Vec<u8>,
    flusher: Flusher,
}

enum Flusher {
    NotStarted,
    /// Sleeps until it is told of held bytes.
    Idle(JoinHandle<()>),
    /// Sends what is held when [`HOLD`] has passed.
    Timing(JoinHandle<()>),
    /// There is none, so nothing may be held.
    None,
}

impl LineOutput {
    pub(super) fn new(output: Box<dyn Write + Send>) -> LineOutput {
        let state = State { output, held: Vec::new(), flusher: Flusher::NotStarted };
        LineOutput {
            shared: Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }),
        }
    }

    /// Takes `bytes`, which may contain at most one newline, at their end, if they are to go out
    /// line by line. An error of the output concerns bytes taken earlier, too.
    pub(super) fn push(&self, bytes: &[u8]) -> io::Result<()> {
        let mut state = lock(&self.shared.state);
        state.held.extend_from_slice(bytes);
        if bytes.ends_with(b"\n") || state.held.len() >= CAPACITY {
            return state.send();
        }
        match std::mem::replace(&mut state.flusher, Flusher::None) {
            Flusher::Idle(thread) => {
                state.flusher = Flusher::Timing(thread);
                self.shared.changed.notify_all();
            }
            Flusher::NotStarted => {
                let shared = Arc::clone(&self.shared);
                let thread = std::thread::Builder::new().name("serial output".to_owned());
                match thread.spawn(move || shared.send_in_time()) {
                    Ok(thread) => state.flusher = Flusher::Timing(thread),
                    Err(_) => return state.send(),
                }
            }
            Flusher::None => return state.send(),
            timing @ Flusher::Timing(_) => state.flusher = timing,
        }
        Ok(())
    }

    /// Sends what is held; holds nothing back from now on.
    pub(super) fn stop(&self) {
        let mut state = lock(&self.shared.state);
        let flusher = std::mem::replace(&mut state.flusher, Flusher::None);
        // The guest's machine ends: there is nobody left to tell.
        let _ = state.send();
        drop(state);
        if let Flusher::Idle(thread) | Flusher::Timing(thread) = flusher {
            self.shared.changed.notify_all();
            // A flusher that panicked has nothing to say that its message did not.
            let _ = thread.join();
        }
    }
}

impl State {
    fn send(&mut self) -> io::Result<()> {
        let sent = self.output.write_all(&self.held).and_then(|()| self.output.flush());
        self.held.clear();
        sent
    }
}

impl Shared {
    /// The flusher's thread.
    fn send_in_time(&self) {
        let mut state = lock(&self.state);
        loop {
            match std::mem::replace(&mut state.flusher, Flusher::None) {
                Flusher::Timing(thread) => {
                    state.flusher = Flusher::Timing(thread);
                    let (guard, wait) = self
                        .changed
                        .wait_timeout(state, HOLD)
                        .unwrap_or_else(PoisonError::into_inner);
                    state = guard;
                    if !wait.timed_out() {
                        continue;
                    }
                    // The next push reports it if the output is gone for good.
                    let _ = state.send();
                    if let Flusher::Timing(thread) =
                        std::mem::replace(&mut state.flusher, Flusher::None)
                    {
                        state.flusher = Flusher::Idle(thread);
                    }
                }
                Flusher::Idle(thread) => {
                    state.flusher = Flusher::Idle(thread);
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                Flusher::NotStarted | Flusher::None => return,
            }
        }
    }
}
