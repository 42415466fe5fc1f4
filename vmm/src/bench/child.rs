//! One measured process: started, timed, and never left behind.
#![expect(unsafe_code, reason = "wait4, for the processor time of one child; pre_exec")]

use std::ffi::OsString;
use std::io::{self, PipeReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use super::BenchError;

/// The most output that is kept of a child; the rest is read and dropped.
const OUTPUT_MAX: usize = 1 << 20;
/// How much of a child's output an error message repeats.
const TAIL: usize = 600;

/// A command line, and the name under which reports list what it does.
#[derive(Clone, Debug)]
pub struct Invocation {
    who: String,
    program: PathBuf,
    args: Vec<OsString>,
    brief: bool,
}

impl Invocation {
    /// `program` without arguments, called `who` in reports.
    pub fn new(who: impl Into<String>, program: impl Into<PathBuf>) -> Invocation {
        Invocation { who: who.into(), program: program.into(), args: Vec::new(), brief: false }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Invocation {
        self.args.push(arg.into());
        self
    }

    /// Adds the words of `line`, which are separated by white space.
    #[must_use]
    pub fn words(mut self, line: &str) -> Invocation {
        self.args.extend(line.split_whitespace().map(OsString::from));
        self
    }

    /// The same for a program that ends by itself at once: not tied to the life of this process,
    /// because tying takes a `fork`, whose page faults would count as the program's own time.
    #[must_use]
    pub fn brief(mut self) -> Invocation {
        self.brief = true;
        self
    }

    /// The name in reports.
    pub fn who(&self) -> &str {
        &self.who
    }

    /// The command as a shell would take it, for reports.
    pub fn shell_line(&self) -> String {
        let quoted = |word: &OsString| {
            let word = word.to_string_lossy();
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
            if !word.is_empty() && word.chars().all(plain) {
                word.into_owned()
            } else {
                format!("'{}'", word.replace('\'', r"'\''"))
            }
        };
        let mut line = self.program.display().to_string();
        for arg in &self.args {
            line.push(' ');
            line.push_str(&quoted(arg));
        }
        line
    }

    /// Starts the process: no input, output and errors in one pipe, and unless it is
    /// [brief](Invocation::brief), SIGKILL when this thread ends.
    ///
    /// # Errors
    /// The program is missing or the host cannot start it.
    pub fn start(&self) -> Result<Running, BenchError> {
        let cannot = |source| BenchError::Start { program: self.program.clone(), source };
        let (output, writer) = io::pipe().map_err(cannot)?;
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(writer.try_clone().map_err(cannot)?)
            .stderr(writer);
        if !self.brief {
            let tie = || Ok(set_parent_process_death_signal(Some(Signal::KILL))?);
            // SAFETY: one system call without memory, which a forked child may make.
            unsafe { command.pre_exec(tie) };
        }
        let begun = Instant::now();
        let child = command.spawn().map_err(cannot)?;
        let pid = libc::pid_t::try_from(child.id()).map_err(|e| cannot(io::Error::other(e)))?;
        Ok(Running { who: self.who.clone(), pid, begun, output, text: Vec::new(), ended: None })
    }

    /// Runs the process to its end, which must come within `limit`.
    ///
    /// # Errors
    /// It cannot be started, or runs on (it is killed then).
    pub fn run(&self, limit: Duration) -> Result<Finished, BenchError> {
        self.start()?.finish(limit)
    }
}

/// How a process ended and what it took, its own reaped children included.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Whose process it was.
    pub who: String,
    /// How it ended.
    pub status: ExitStatus,
    /// From just before its start until it was reaped.
    pub wall: Duration,
    /// Processor time, user and system.
    pub cpu: Duration,
    /// What it printed.
    pub output: String,
}

impl Finished {
    /// The same, if the exit status is one of `codes`.
    ///
    /// # Errors
    /// It is another one, or a signal ended the process.
    pub fn with_status(self, codes: &[i32]) -> Result<Finished, BenchError> {
        match self.status.code() {
            Some(code) if codes.contains(&code) => Ok(self),
            _ => Err(BenchError::Ended {
                output: tail(self.output.as_bytes()),
                who: self.who,
                status: self.status,
            }),
        }
    }
}

/// A process under way. Dropped, it is killed and reaped.
#[derive(Debug)]
pub struct Running {
    who: String,
    pid: libc::pid_t,
    begun: Instant,
    output: PipeReader,
    text: Vec<u8>,
    ended: Option<(ExitStatus, Duration, Duration)>,
}

impl Running {
    /// The process.
    pub fn pid(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// Waits until the process has printed `marker`, and tells the time since its start.
    ///
    /// # Errors
    /// It ended before, or `limit` passed first.
    pub fn printed(&mut self, marker: &str, limit: Duration) -> Result<Duration, BenchError> {
        loop {
            if contains(&self.text, marker.as_bytes()) {
                return Ok(self.begun.elapsed());
            }
            if !self.read_some(limit, || format!("print {marker:?}"))? {
                let status = self.reap()?.0;
                let output = tail(&self.text);
                return Err(BenchError::Ended { who: self.who.clone(), status, output });
            }
        }
    }

    /// Waits until the process has ended.
    ///
    /// # Errors
    /// `limit`, counted from its start, passed first.
    pub fn finish(mut self, limit: Duration) -> Result<Finished, BenchError> {
        while self.read_some(limit, || "end".to_owned())? {}
        let (status, cpu, wall) = self.reap()?;
        let output = String::from_utf8_lossy(&self.text).into_owned();
        Ok(Finished { who: self.who.clone(), status, wall, cpu, output })
    }

    /// Reads what there is, waiting if there is nothing; false at the end of the output.
    fn read_some(
        &mut self,
        limit: Duration,
        awaited: impl Fn() -> String,
    ) -> Result<bool, BenchError> {
        let left = limit.saturating_sub(self.begun.elapsed());
        let timeout = Timespec::try_from(left).ok();
        let mut wanted = [PollFd::new(&self.output, PollFlags::IN)];
        match poll(&mut wanted, timeout.as_ref()) {
            Ok(0) => Err(BenchError::Late {
                who: self.who.clone(),
                what: awaited(),
                limit,
                output: tail(&self.text),
            }),
            Ok(_) => {
                let mut some = [0; 4096];
                let n = self.output.read(&mut some).map_err(|e| self.failed("read output", e))?;
                let kept = n.min(OUTPUT_MAX.saturating_sub(self.text.len()));
                self.text.extend_from_slice(&some[..kept]);
                Ok(n > 0)
            }
            Err(Errno::INTR) => Ok(true),
            Err(error) => Err(self.failed("read output", error.into())),
        }
    }

    /// Reaps the process: status, processor time, wall time. Blocks until it has ended.
    fn reap(&mut self) -> Result<(ExitStatus, Duration, Duration), BenchError> {
        if let Some(ended) = self.ended {
            return Ok(ended);
        }
        let mut status = 0;
        // SAFETY: all-zero is a value of this plain C structure.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        loop {
            // SAFETY: both pointers are to locals; the pid is a child that nobody else reaps.
            let pid = unsafe { libc::wait4(self.pid, &raw mut status, 0, &raw mut usage) };
            if pid == self.pid {
                break;
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(self.failed("await the end", error));
            }
        }
        let cpu = span(usage.ru_utime) + span(usage.ru_stime);
        let ended = (ExitStatus::from_raw(status), cpu, self.begun.elapsed());
        self.ended = Some(ended);
        Ok(ended)
    }

    fn failed(&self, what: &'static str, source: io::Error) -> BenchError {
        BenchError::Watch { what, who: self.who.clone(), source }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended.is_none() {
            // Not reaped yet, so its number is still its own.
            if let Some(pid) = Pid::from_raw(self.pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
            // It cannot be reported from here, and a killed child is reaped by init at the latest.
            let _ = self.reap();
        }
    }
}

fn span(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec).unwrap_or(0);
    Duration::from_secs(seconds).saturating_add(Duration::from_micros(micros))
}

fn contains(text: &[u8], marker: &[u8]) -> bool {
    text.windows(marker.len().max(1)).any(|window| window == marker)
}

/// The last lines of `output`, in one line.
pub(super) fn tail(output: &[u8]) -> String {
    let from = output.len().saturating_sub(TAIL);
    let text = String::from_utf8_lossy(&output[from..]);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { "none".to_owned() } else { lines.join(" | ") }
}

#[cfg(test)]
mod tests;
