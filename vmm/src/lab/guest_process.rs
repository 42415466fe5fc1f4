//! One guest's process.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::pipe::{PipeFlags, pipe_with};

use super::process::Process;
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
    /// This very program, as `cohort vm` of the lab `lab`.
    pub fn this_program(lab: &str) -> GuestCommand {
        let args = vec!["vm".into(), format!("--lab={lab}").into()];
        GuestCommand { program: "/proc/self/exe".into(), args }
    }
}

/// A running guest process.
#[derive(Debug)]
pub(super) struct GuestProcess {
    pub(super) process: Process,
    outcome: File,
    outcome_text: Vec<u8>,
}

impl GuestProcess {
    /// Starts the process for `spec`, its console going to `console`. It inherits `handed` under
    /// the numbers that they have here.
    pub(super) fn spawn(
        command: &GuestCommand,
        spec: &VmSpec,
        console: File,
        handed: Vec<OwnedFd>,
    ) -> io::Result<GuestProcess> {
        let mut spec_file = File::from(memfd_create("cohort-spec", MemfdFlags::CLOEXEC)?);
        spec_file.write_all(&serde_json::to_vec(spec)?)?;
        spec_file.rewind()?;
        let (outcome, outcome_writer) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&outcome, true)?;
        let mut process = Command::new(&command.program);
        process
            // For whoever looks at the process list.
            .arg0(format!("cohort:{}", spec.name))
            .args(&command.args)
            .args(["--spec", &spec_file.as_raw_fd().to_string()])
            .args(["--outcome", &outcome_writer.as_raw_fd().to_string()]);
        let mut inherited = handed;
        inherited.extend([spec_file.into(), outcome_writer]);
        let process = Process::spawn(process, console, inherited)?;
        Ok(GuestProcess { process, outcome: outcome.into(), outcome_text: Vec::new() })
    }

    /// What the process said about its outcome, once it has ended.
    pub(super) fn outcome_text(&mut self) -> &[u8] {
        let left = OUTCOME_MAX.saturating_sub(self.outcome_text.len());
        let _ = (&mut self.outcome).take(left as u64).read_to_end(&mut self.outcome_text);
        &self.outcome_text
    }
}
