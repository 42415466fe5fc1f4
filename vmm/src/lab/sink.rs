//! Where a lab's messages go while it runs: to a reader that may have stopped reading.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::signals::StopSignals;

#[cfg(test)]
mod tests;

/// Most that is written at once: a pipe that is ready takes this much without blocking
/// (`PIPE_BUF`).
const CHUNK: usize = 4096;

/// A writer that waits for its reader until the lab is to stop, and for no reader after that.
///
/// Who runs a lab writes its messages from the thread that also watches it: waiting for a pager
/// that nobody scrolls, it would heed neither Ctrl-C nor the lab's timeout.
#[derive(Debug)]
pub struct Sink<'a, W> {
    out: W,
    signals: &'a StopSignals,
    deadline: Option<Instant>,
    /// The lab was to stop while the reader did not read: what it does not take at once is lost.
    impatient: bool,
}

impl<'a, W: Write + AsFd> Sink<'a, W> {
    /// A writer to `out`, for a lab that ends by one of `signals` or when `deadline` comes.
    pub fn new(out: W, signals: &'a StopSignals, deadline: Option<Instant>) -> Sink<'a, W> {
        Sink { out, signals, deadline, impatient: false }
    }

    /// Waits until the next chunk can be written (or fails at once). False: it is to be lost.
    fn wait(&mut self) -> io::Result<bool> {
        loop {
            let left = self.deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let left = left.map(|left| Timespec::try_from(left).unwrap_or(NOW));
            let timeout = if self.impatient { Some(NOW) } else { left };
            let mut fds =
                [PollFd::new(&self.out, PollFlags::OUT), PollFd::new(self.signals, PollFlags::IN)];
            match poll(&mut fds, timeout.as_ref()) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
                Ok(_) if !fds[0].revents().is_empty() => return Ok(true),
                Ok(_) => {
                    self.impatient = true;
                    return Ok(false);
                }
            }
        }
    }
}

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

impl<W: Write + AsFd> Write for Sink<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.wait()? {
            self.out.write(&bytes[..bytes.len().min(CHUNK)])
        } else {
            Ok(bytes.len())
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
