//! `cohort vm`: one guest of a lab. Started by the supervisor, not by people.

#![expect(unsafe_code, reason = "inherited descriptors arrive as numbers")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, anyhow};
use cohort::machine::{self, Console, Control};
use cohort::mem::Guest;
use cohort::mem::registry::LabRun;
use cohort::signals::StopSignals;
use cohort::spec::VmSpec;
use rustix::io::{FdFlags, fcntl_setfd};

use super::{Done, Failure};

/// Runs one guest of a lab
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Descriptor that holds the guest's description as JSON
    #[arg(long)]
    spec: RawFd,
    /// Descriptor that the outcome is written to as JSON
    #[arg(long)]
    outcome: RawFd,
    /// Name of the lab
    #[arg(long)]
    lab: Option<String>,
}

pub(super) fn main(args: &Args) -> Done {
    let signals = StopSignals::block().map_err(Failure::host)?;
    // The program was started through /proc/self/exe: without this, ps calls it "exe".
    let _ = rustix::thread::set_name(c"cohort");
    let spec = File::from(inherited(args.spec)?);
    let mut outcome_file = File::from(inherited(args.outcome)?);
    let spec: VmSpec = serde_json::from_reader(io::BufReader::new(spec))
        .context("the guest's description cannot be read")
        .map_err(Failure::host)?;
    let sealed = sealed(&spec, args)?;
    let output = io::stdout().as_fd().try_clone_to_owned().map_err(Failure::host)?;
    let console = Console { output: output.into(), input: None };
    // Its supervisor is the parent; it watches the guest without this, `cohort mem` needs it.
    let supervisor =
        rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    let lab = args.lab.clone().zip(supervisor);
    let lab = lab.map(|(name, supervisor)| LabRun { name, supervisor });
    let entry = Guest::of_this_process(&spec, lab).and_then(|guest| guest.announce());
    let outcome = machine::run(&spec, console, Control { signals: Some(signals.into()), sealed });
    let text = serde_json::to_vec(&outcome).map_err(Failure::host)?;
    drop(entry);
    outcome_file.write_all(&text).map_err(Failure::host)?;
    Ok(outcome.exit_status())
}

/// Takes the sealed copies that the supervisor hands over, each number once.
fn sealed(spec: &VmSpec, args: &Args) -> Result<BTreeMap<usize, OwnedFd>, Failure> {
    let mut taken = BTreeSet::from([args.spec, args.outcome]);
    let mut copies = BTreeMap::new();
    for (number, pmem) in spec.pmem.iter().enumerate() {
        let Some(copy) = &pmem.sealed else { continue };
        if !taken.insert(copy.descriptor) {
            return Err(Failure::usage(anyhow!("{} is named twice", copy.descriptor)));
        }
        copies.insert(number, inherited(copy.descriptor)?);
    }
    Ok(copies)
}

/// Takes an inherited descriptor and keeps it from being inherited further.
fn inherited(fd: RawFd) -> Result<OwnedFd, Failure> {
    let not_open = || Failure::usage(anyhow!("{fd} is no inherited descriptor"));
    if fd <= 2 {
        return Err(not_open());
    }
    // SAFETY: the number is only borrowed for a call that fails if it is no open descriptor.
    fcntl_setfd(unsafe { BorrowedFd::borrow_raw(fd) }, FdFlags::CLOEXEC).map_err(|_| not_open())?;
    // SAFETY: the descriptor is open, it was inherited for this process to own, and nothing
    // else here was told its number. `main` takes each number once, before opening anything
    // that it keeps in a variable of its own, bar the signals' descriptor, which came later than
    // the inherited ones and so has another number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
