//! One guest process, from the supervisor's side: start, watch, signal, reap.

#![expect(unsafe_code, reason = "pre_exec and wait4 have no safe interface")]

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, getppid, pidfd_open, pidfd_send_signal,
    set_parent_process_death_signal,
};

use crate::spec::VmSpec;

/// Most bytes that a guest process may say about its outcome.
const OUTCOME_MAX: usize = 64 << 10;

/// The program that runs one guest.
///
/// It gets `--spec FD --outcome FD` after its own arguments. The first descriptor holds the
/// [`VmSpec`] as JSON, the [`Outcome`](crate::outcome::Outcome) goes to the second as JSON.
/// Standard output is the guest's console, standard error takes messages about the guest.
#[derive(Clone, Debug)]
pub struct GuestCommand {
    /// The program's file.
    pub program: PathBuf,
    /// Arguments before those that every guest gets.
    pub args: Vec<OsString>,
}

impl GuestCommand {
    /// This very program, as `cohort vm`.
    pub fn this_program() -> GuestCommand {
        GuestCommand { program: "/proc/self/exe".into(), args: vec!["vm".into()] }
    }
}

/// A running guest process. Dropped before it is reaped, it is killed.
#[derive(Debug)]
pub(super) struct GuestProcess {
    pid: Pid,
    pidfd: OwnedFd,
    outcome: File,
    outcome_text: Vec<u8>,
    messages: File,
    reaped: bool,
}

/// How a guest process ended, as the host's kernel tells it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Death {
    pub(super) status: ExitStatus,
    /// Processor time, user and system.
    pub(super) cpu: Duration,
    pub(super) peak_rss_kib: u64,
}

impl GuestProcess {
    /// Starts the process for `spec`, its console going to `console`.
    ///
    /// The process dies with the calling thread, so that must live as long as the supervisor.
    pub(super) fn spawn(
        command: &GuestCommand,
        spec: &VmSpec,
        console: File,
    ) -> io::Result<GuestProcess> {
        let mut spec_file = File::from(memfd_create("cohort-spec", MemfdFlags::CLOEXEC)?);
        spec_file.write_all(&serde_json::to_vec(spec)?)?;
        spec_file.rewind()?;
        let (outcome, outcome_writer) = pipe_with(PipeFlags::CLOEXEC)?;
        let (messages, messages_writer) = pipe_with(PipeFlags::CLOEXEC)?;
        for reader in [&outcome, &messages] {
            rustix::io::ioctl_fionbio(reader, true)?;
        }
        let mut process = Command::new(&command.program);
        process
            // For whoever looks at the process list.
            .arg0(format!("cohort:{}", spec.name))
            .args(&command.args)
            .args(["--spec", &spec_file.as_raw_fd().to_string()])
            .args(["--outcome", &outcome_writer.as_raw_fd().to_string()])
            .stdin(Stdio::null())
            .stdout(console)
            .stderr(messages_writer)
            // Its own group: Ctrl-C reaches the supervisor alone, which then stops the guests.
            .process_group(0);
        let supervisor = getpid();
        let inherited = (spec_file, outcome_writer);
        let prepare = move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // A supervisor that died before that call sends no signal any more.
            if getppid() != Some(supervisor) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            fcntl_setfd(&inherited.0, FdFlags::empty())?;
            fcntl_setfd(&inherited.1, FdFlags::empty())?;
            Ok(())
        };
        // SAFETY: the closure makes system calls alone; it neither allocates nor takes locks.
        unsafe { process.pre_exec(prepare) };
        let child = process.spawn()?;
        // `process` holds our copies of what the child inherits, the pipes' writing ends too.
        drop(process);
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).inspect_err(|_| {
            let mut child = child;
            let _ = child.kill();
            let _ = child.wait();
        })?;
        Ok(GuestProcess {
            pid,
            pidfd,
            outcome: outcome.into(),
            outcome_text: Vec::new(),
            messages: messages.into(),
            reaped: false,
        })
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

    /// What the process said about its outcome, once it has ended.
    pub(super) fn outcome_text(&mut self) -> &[u8] {
        let left = OUTCOME_MAX.saturating_sub(self.outcome_text.len());
        let _ = (&mut self.outcome).take(left as u64).read_to_end(&mut self.outcome_text);
        &self.outcome_text
    }
}

impl Drop for GuestProcess {
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
