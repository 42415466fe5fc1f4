//! A process of a lab, from the supervisor's side: start, watch, signal, reap.

#![expect(unsafe_code, reason = "pre_exec and wait4 have no safe interface")]

use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, getppid, pidfd_open, pidfd_send_signal,
    set_parent_process_death_signal,
};

/// A running process. Dropped before it is reaped, it is killed.
#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    pidfd: OwnedFd,
    messages: File,
    reaped: bool,
}

/// How a process ended, as the host's kernel tells it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Death {
    pub(super) status: ExitStatus,
    /// Processor time, user and system.
    pub(super) cpu: Duration,
    pub(super) peak_rss_kib: u64,
}

impl Process {
    /// Starts a process that reads nothing, writes to `output`, inherits the descriptors
    /// `inherited` under their numbers here, and whose standard error are its messages.
    ///
    /// It dies with the calling thread, so that must live as long as the supervisor.
    pub(super) fn spawn(
        mut command: Command,
        output: impl Into<Stdio>,
        inherited: Vec<OwnedFd>,
    ) -> io::Result<Process> {
        let (messages, messages_writer) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&messages, true)?;
        command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(messages_writer)
            // Its own group: Ctrl-C reaches the supervisor alone, which then stops the others.
            .process_group(0);
        let supervisor = getpid();
        let prepare = move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // A supervisor that died before that call sends no signal any more.
            if getppid() != Some(supervisor) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            for descriptor in &inherited {
                fcntl_setfd(descriptor, FdFlags::empty())?;
            }
            Ok(())
        };
        // SAFETY: the closure makes system calls alone; it neither allocates nor takes locks.
        unsafe { command.pre_exec(prepare) };
        let child = command.spawn()?;
        // `command` holds our copies of what the child inherits, the pipes' writing ends too.
        drop(command);
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).inspect_err(|_| {
            let mut child = child;
            let _ = child.kill();
            let _ = child.wait();
        })?;
        Ok(Process { pid, pidfd, messages: messages.into(), reaped: false })
    }

    /// Its number.
    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Readable when the process has ended.
    pub(super) fn end(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Readable when there are messages, or no more of them.
    pub(super) fn messages(&self) -> BorrowedFd<'_> {
        self.messages.as_fd()
    }

    /// Takes the messages that wait, without blocking; empty when there are none.
    pub(super) fn take_messages(&mut self) -> Vec<u8> {
        let mut text = Vec::new();
        // Reading ends with an error where a blocking read would wait.
        let _ = (&mut self.messages).take(1 << 20).read_to_end(&mut text);
        text
    }

    /// Sends a signal; nothing happens if the process has ended.
    pub(super) fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    /// Waits for the end of the process.
    pub(super) fn reap(&mut self) -> io::Result<Death> {
        let mut status = 0;
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: both pointers are to live variables of the right types; every rusage field
        // is an integer, so zeroes are a valid value.
        let usage = unsafe {
            let pid = self.pid.as_raw_nonzero().get();
            while libc::wait4(pid, &mut status, 0, usage.as_mut_ptr()) < 0 {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            usage.assume_init()
        };
        self.reaped = true;
        Ok(Death {
            status: ExitStatus::from_raw(status),
            cpu: duration(usage.ru_utime) + duration(usage.ru_stime),
            peak_rss_kib: u64::try_from(usage.ru_maxrss).unwrap_or(0),
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.reaped {
            self.signal(Signal::KILL);
            let _ = self.reap();
        }
    }
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}
