//! The console's output: what the guest's serial port and virtio console print.
//!
//! Bytes come one by one. They are written in lines, and what is left of a line (a prompt) soon
//! after: whoever adds the first byte wakes the event loop, which calls [`Output::settle`] when
//! [`SETTLE`] has passed.
#![expect(unsafe_code, reason = "poll(2)")]

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::MachineError;
use super::ending::Ending;

/// How long an unfinished line waits for the rest of it.
pub(super) const SETTLE: Duration = Duration::from_millis(10);
/// How long the last bytes may wait for a reader that does not read.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How often a writer that waits for its reader looks whether the guest is to stop.
const LOOK: Duration = Duration::from_millis(100);
/// Most that is written at once: a pipe that is ready takes this much without blocking
/// (`PIPE_BUF`).
const CHUNK: usize = 4096;

/// The console's output, shared by all that print on it.
#[derive(Clone)]
pub(super) struct Output {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Readable when the event loop is to call [`Output::settle`] by and by.
    wake: EventFd,
    ending: Arc<Ending>,
}

struct State {
    file: File,
    pending: Vec<u8>,
    /// The event loop knows that there is something to settle.
    armed: bool,
    /// A write failed: nobody reads any longer, and later bytes are thrown away.
    broken: bool,
}

impl Output {
    pub(super) fn new(file: File, ending: Arc<Ending>) -> Result<Output, MachineError> {
        let wake = EventFd::new(EFD_NONBLOCK)
            .map_err(|source| MachineError::Host { what: "an eventfd", source })?;
        let state = State { file, pending: Vec::new(), armed: false, broken: false };
        Ok(Output { shared: Arc::new(Shared { state: Mutex::new(state), wake, ending }) })
    }

    /// Readable when there is something to settle.
    pub(super) fn wake(&self) -> &EventFd {
        &self.shared.wake
    }

    /// Writes an unfinished line, unless that would block. False: call again.
    pub(super) fn settle(&self) -> bool {
        // Whoever holds the lock writes already.
        let Ok(mut state) = self.shared.state.try_lock() else { return false };
        while !state.pending.is_empty() {
            if !state.is_writable(Duration::ZERO) {
                return false;
            }
            state.write_chunk();
        }
        state.armed = false;
        true
    }

    /// Writes all that is left, when the guest has stopped.
    pub(super) fn finish(&self) {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.pending.is_empty() && state.is_writable(LAST_WORDS) {
            state.write_chunk();
        }
    }
}

impl Write for Output {
    /// Takes everything. Blocks while the reader does not read, until the guest is to stop.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.broken {
            return Ok(bytes.len());
        }
        state.pending.extend_from_slice(bytes);
        if bytes.contains(&b'\n') || state.pending.len() >= CHUNK {
            while !state.pending.is_empty() {
                if state.is_writable(LOOK) {
                    state.write_chunk();
                } else if self.shared.ending.stopping() {
                    break;
                }
            }
        } else if !state.armed {
            state.armed = true;
            // A counter that the event loop empties cannot be full.
            let _ = self.shared.wake.write(1);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl State {
    /// Whether a chunk can be written now without blocking, or can be before `wait` is over.
    fn is_writable(&self, wait: Duration) -> bool {
        self.broken || poll_writable(self.file.as_raw_fd(), wait)
    }

    /// Writes up to a chunk of what is pending.
    fn write_chunk(&mut self) {
        let len = self.pending.len().min(CHUNK);
        match self.file.write(&self.pending[..len]) {
            Ok(written) => drop(self.pending.drain(..written)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                if !self.broken {
                    tracing::warn!(%error, "the console cannot be written; its output is lost");
                }
                self.broken = true;
                self.pending.clear();
            }
        }
    }
}

/// Whether a write to `fd` makes progress (or fails at once), now or before `wait` is over.
fn poll_writable(fd: RawFd, wait: Duration) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
    let millis = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: one pollfd, that lives through the call.
    unsafe { libc::poll(&mut poll, 1, millis) > 0 }
}
