//! The event loop of the calling thread: everything from outside the guest.
#![expect(unsafe_code, reason = "poll(2)")]

use std::fs::File;
use std::io::{self, Read};
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use devices::input::ConsoleInput;
use libc::{POLLIN, pollfd, signalfd_siginfo};

use super::MachineError;
use super::console::{Output, SETTLE};
use super::ending::{End, Ending};

/// Most input taken at once.
const INPUT_CHUNK: usize = 256;

/// What the loop watches.
pub(super) struct Events<'a> {
    pub(super) ending: &'a Ending,
    pub(super) output: &'a Output,
    pub(super) signals: Option<File>,
    pub(super) source: Option<File>,
    pub(super) input: &'a dyn ConsoleInput,
    /// Input that the guest had no room for yet.
    pub(super) pending: Vec<u8>,
    pub(super) deadline: Option<Instant>,
}

impl Events<'_> {
    /// Serves events until the guest's end is reported.
    pub(super) fn serve(mut self) {
        if let Err(source) = self.serve_all() {
            let what = "to wait for events (poll)";
            self.ending.report(End::Failure(MachineError::Host { what, source }));
        }
    }

    fn serve_all(&mut self) -> io::Result<()> {
        let mut settle_at = None;
        while !self.ending.stopping() {
            let now = Instant::now();
            if self.deadline.is_some_and(|deadline| now >= deadline) {
                self.ending.report(End::Timeout);
                break;
            }
            if settle_at.is_some_and(|at| now >= at) {
                settle_at = if self.output.settle() { None } else { Some(now + SETTLE) };
            }
            // Input is read when the guest has taken what came before.
            let input = if self.pending.is_empty() {
                self.source.as_ref().map(AsRawFd::as_raw_fd)
            } else {
                Some(self.input.room().as_raw_fd())
            };
            let mut fds = [
                readable(Some(self.ending.event().as_raw_fd())),
                readable(Some(self.output.wake().as_raw_fd())),
                readable(self.signals.as_ref().map(AsRawFd::as_raw_fd)),
                readable(input),
            ];
            let until = [self.deadline, settle_at].into_iter().flatten().min();
            if !poll(&mut fds, until.map(|until| until.saturating_duration_since(now)))? {
                continue;
            }
            let [_, wake, signals, input] = fds.map(|fd| fd.revents != 0);
            if wake {
                // The counter's value says nothing more.
                let _ = self.output.wake().read();
                settle_at.get_or_insert(now + SETTLE);
            }
            if signals {
                self.take_signal()?;
            }
            if input {
                self.take_input();
            }
        }
        Ok(())
    }

    /// Reads one signal and reports it.
    fn take_signal(&mut self) -> io::Result<()> {
        let Some(signals) = &mut self.signals else { return Ok(()) };
        let mut info = [0; size_of::<signalfd_siginfo>()];
        match signals.read(&mut info) {
            Ok(len) if len == info.len() => {
                // Signal numbers are below 65: the lowest byte has it all.
                let number = info[offset_of!(signalfd_siginfo, ssi_signo)];
                self.ending.report(End::Signal(number));
                Ok(())
            }
            // Closed by whoever held the other end, or not a signalfd: nothing to wait for.
            Ok(_) => {
                self.signals = None;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Hands input to the guest. Its end, or an error, is the end of input.
    fn take_input(&mut self) {
        if self.pending.is_empty() {
            let Some(source) = &mut self.source else { return };
            let mut bytes = [0; INPUT_CHUNK];
            match source.read(&mut bytes) {
                Ok(0) => self.source = None,
                Ok(len) => self.pending.extend_from_slice(&bytes[..len]),
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => {}
                    _ => {
                        tracing::warn!(%error, "console input cannot be read and ends here");
                        self.source = None;
                    }
                },
            }
        }
        let taken = self.input.push(&self.pending).min(self.pending.len());
        self.pending.drain(..taken);
    }
}

/// An entry for poll; without a descriptor, one that poll passes over.
fn readable(fd: Option<RawFd>) -> pollfd {
    pollfd { fd: fd.unwrap_or(-1), events: POLLIN, revents: 0 }
}

/// Waits until one of `fds` has something, at most for `wait`. False: nothing has.
fn poll(fds: &mut [pollfd], wait: Option<Duration>) -> io::Result<bool> {
    // Rounded up, so that the time is over when poll says so.
    let millis = |wait: Duration| i32::try_from(wait.as_nanos().div_ceil(1_000_000));
    let millis = wait.map_or(-1, |wait| millis(wait).unwrap_or(i32::MAX));
    let count = libc::nfds_t::try_from(fds.len()).map_err(io::Error::other)?;
    // SAFETY: the slice lives through the call and has that many entries.
    let ready = unsafe { libc::poll(fds.as_mut_ptr(), count, millis) };
    if ready >= 0 {
        return Ok(ready > 0);
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        error => Err(error),
    }
}
