//! The server of one shared disk of a lab.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;

use super::echo::Lines;
use super::process::Process;

/// How long a server may take to leave its disk in order.
const GRACE: Duration = Duration::from_secs(20);
/// What a server prints once it serves.
const READY: &[u8] = b"ready\n";
/// Bytes of what it prints that are looked at.
const SAID_MAX: usize = 4096;

/// A server's process.
#[derive(Debug)]
pub(super) struct Server {
    name: String,
    process: Process,
    output: File,
    said: Vec<u8>,
    messages: Lines,
    /// No more messages will come.
    silent: bool,
}

impl Server {
    /// Starts `program` with these arguments, for the shared disk `name`.
    pub(super) fn spawn(program: &Path, name: &str, args: &[OsString]) -> io::Result<Server> {
        let (output, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&output, true)?;
        let mut command = Command::new(program);
        command.arg0(format!("cohort:{name}")).args(args);
        Ok(Server {
            name: name.to_owned(),
            process: Process::spawn(command, writer, Vec::new())?,
            output: output.into(),
            said: Vec::new(),
            messages: Lines::new(format!("{name}: ")),
            silent: false,
        })
    }

    /// The shared disk that it serves.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Readable when there is something to attend to.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let output = (!self.is_ready()).then(|| self.output.as_fd());
        let messages = (!self.silent).then(|| self.process.messages());
        [Some(self.process.end()), output, messages].into_iter().flatten()
    }

    /// Whether guests can use it.
    pub(super) fn is_ready(&self) -> bool {
        self.said.starts_with(READY)
    }

    /// Passes on its messages, and says how it ended if it has.
    pub(super) fn attend(&mut self, out: &mut dyn Write) -> Option<String> {
        let ended = is_readable(self.process.end());
        let room = SAID_MAX.saturating_sub(self.said.len()) as u64;
        // Ends with an error where a blocking read would wait.
        let _ = (&mut self.output).take(room).read_to_end(&mut self.said);
        self.pass_on(out);
        if !ended {
            return None;
        }
        self.messages.feed(&self.process.take_messages(), out);
        self.messages.finish(out);
        Some(match self.process.reap() {
            Ok(death) => match death.status.signal() {
                Some(signal) => format!("was killed by signal {signal}"),
                None => {
                    format!("ended with status {}", death.status.code().unwrap_or_default())
                }
            },
            Err(error) => format!("was lost: {error}"),
        })
    }

    /// Passes on the messages that there are.
    fn pass_on(&mut self, out: &mut dyn Write) {
        if !self.silent && is_readable(self.process.messages()) {
            let text = self.process.take_messages();
            self.silent = text.is_empty();
            self.messages.feed(&text, out);
        }
    }

    /// Waits for its end, no longer than the grace; whether it came. Somebody must take its messages
    /// meanwhile: it cannot go on while nobody does.
    fn await_end(&mut self, out: &mut dyn Write) -> bool {
        let deadline = Instant::now() + GRACE;
        while !is_readable(self.process.end()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let mut fds = vec![PollFd::from_borrowed_fd(self.process.end(), PollFlags::IN)];
            if !self.silent {
                fds.push(PollFd::from_borrowed_fd(self.process.messages(), PollFlags::IN));
            }
            // Interrupted or not, all is looked at next.
            let _ = poll(&mut fds, Timespec::try_from(left).ok().as_ref());
            self.pass_on(out);
        }
        true
    }

    /// Ends it, which leaves the disk in order. Says what went wrong, if anything did.
    pub(super) fn stop(mut self, out: &mut dyn Write) -> Option<String> {
        self.process.signal(Signal::TERM);
        let in_time = self.await_end(out);
        if !in_time {
            self.process.signal(Signal::KILL);
        }
        let stopped = 128 + Signal::TERM.as_raw();
        self.messages.feed(&self.process.take_messages(), out);
        self.messages.finish(out);
        match self.process.reap() {
            Ok(death) if death.status.code() == Some(stopped) => None,
            Ok(_) if !in_time => Some("did not stop, and was killed".to_owned()),
            Ok(death) => Some(format!("ended with {}", death.status)),
            Err(error) => Some(format!("was lost: {error}")),
        }
    }
}

/// Whether a descriptor can be read without waiting.
pub(super) fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_has_much_to_say_at_its_end_comes_to_it() {
        let script = "trap 'head -c 300000 /dev/zero >&2; exit 143' TERM; echo ready; \
                      while :; do sleep 0.01; done";
        let args = ["-c", script].map(OsString::from);
        let mut server = Server::spawn(Path::new("/bin/sh"), "disk", &args).unwrap();
        let mut said = Vec::new();
        while !server.is_ready() {
            assert_eq!(server.attend(&mut said), None);
        }
        assert_eq!(server.stop(&mut said), None);
        assert!(said.len() >= 300_000, "{} bytes", said.len());
    }
}
