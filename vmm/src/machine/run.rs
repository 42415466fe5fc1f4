//! The way of a guest from its description to its outcome.

use std::fs::File;
use std::os::fd::OwnedFd;

use crate::outcome::{Ending, MemoryUse, Outcome};
use crate::spec::VmSpec;

/// Where the guest's console is connected.
#[derive(Debug)]
pub struct Console {
    /// What the guest prints goes here: a file, a pipe or a terminal.
    pub output: File,
    /// What the guest reads comes from here, if anything does.
    pub input: Option<OwnedFd>,
}

/// How the guest is stopped from outside.
#[derive(Debug, Default)]
pub struct Control {
    /// A signalfd. A signal read from it ends the guest with [`Ending::Signaled`]; the caller
    /// has blocked the signals it names in every thread.
    pub signals: Option<OwnedFd>,
}

/// Runs a guest to its end. Blocks the calling thread until then.
///
/// Failures of the host and mistakes in `spec` end in [`Ending::VmmError`], with `detail` saying
/// what failed and why and, where cohort knows, `help` saying what mends it.
pub fn run(spec: &VmSpec, _console: Console, _control: Control) -> Outcome {
    Outcome {
        name: spec.name.clone(),
        ending: Ending::VmmError,
        detail: Some("this build has no machine".into()),
        help: None,
        wall_ms: 0,
        cpu_ms: 0,
        memory: MemoryUse::default(),
    }
}
