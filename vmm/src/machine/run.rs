//! The way of a guest from its description to its outcome.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use devices::power::PowerEvent;
use memshare::Window;

use super::MachineError;
use super::build::Machine;
use super::ending::End;
use super::events::Events;
use super::lost_pages::Watch;
use super::startup_pages;
use super::usage;
use super::vcpu::Vcpus;
use crate::mem::{Given, OriginUse, account};
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

/// How the guest is stopped from outside, and what was handed over for it.
#[derive(Debug, Default)]
pub struct Control {
    /// A signalfd. A signal read from it ends the guest with [`Ending::Signaled`]; the caller
    /// has blocked the signals it names in every thread.
    pub signals: Option<OwnedFd>,
    /// Sealed copies of files that the process which started this one made, by the number of their
    /// virtio-pmem device.
    pub sealed: BTreeMap<usize, OwnedFd>,
}

/// Runs a guest to its end. Blocks the calling thread until then.
///
/// Failures of the host and mistakes in `spec` end in [`Ending::VmmError`], with `detail` saying
/// what failed and why and, where cohort knows, `help` saying what mends it. The time-out counts
/// from the call.
pub fn run(spec: &VmSpec, console: Console, control: Control) -> Outcome {
    let started = Instant::now();
    let Console { output, input } = console;
    let Control { signals, sealed } = control;
    // Now: later there may be other files under the names that `spec` has.
    let given = Given::of(spec);
    let (end, held) = match Machine::build(spec, output, sealed) {
        Ok(machine) => {
            let deadline = spec.timeout.and_then(|timeout| started.checked_add(timeout));
            execute(machine, input, signals, deadline, &given)
        }
        Err(error) => (End::Failure(error), Vec::new()),
    };
    let failure_status = match &end {
        End::Failure(error) => error.exit_status(),
        _ => None,
    };
    let (ending, detail, help) = account(end, spec.timeout);
    let usage = usage::of_process();
    let memory = MemoryUse::new(usage.peak_rss_kib, held);
    Outcome {
        name: spec.name.clone(),
        ending,
        detail,
        help,
        failure_status,
        wall_ms: millis(started.elapsed()),
        cpu_ms: millis(usage.cpu),
        memory,
    }
}

/// Starts the machine, waits for its end, stops everything. Also returns the memory it held.
fn execute(
    machine: Machine,
    input: Option<OwnedFd>,
    signals: Option<OwnedFd>,
    deadline: Option<Instant>,
    given: &Given,
) -> (End, Vec<OriginUse>) {
    let Machine { vcpus, board, output, ending, files, slots, ram } = machine;
    let windows: Vec<_> = files.windows().chain(board.windows()).cloned().collect();
    let watch = Watch::new(&ram, windows.iter(), &ending).map_err(|source| {
        let what = "a signal handler";
        ending.report(End::Failure(MachineError::Host { what, source }));
    });
    match Vcpus::start(vcpus, &ending) {
        Ok(vcpus) => {
            startup_pages::release();
            Events {
                ending: &ending,
                output: &output,
                signals: signals.map(File::from),
                source: input.map(File::from),
                input: board.input(),
                pending: Vec::new(),
                deadline,
            }
            .serve();
            vcpus.join();
        }
        Err(error) => ending.report(End::Failure(error)),
    }
    let unwatched = files.stop_threads();
    // Requests that devices took from the guest are finished before its memory goes.
    board.stop();
    output.finish();
    let held = account::of_self(given);
    let end = ending.take().map(|end| name_loss(end, watch.as_ref().ok(), &windows));
    drop(watch);
    drop(files);
    drop(board);
    drop(slots);
    drop(ram);
    if let Some(unwatched) = unwatched
        && unwatched.join().is_err()
    {
        tracing::error!("the thread that ends watches of files panicked");
    }
    (end.unwrap_or(End::Crash { detail: "no reason was reported".into(), help: None }), held)
}

/// Names the file and the place where a guest's end is that it touched a page which a file has
/// lost.
fn name_loss(end: End, watch: Option<&Watch>, windows: &[Arc<Window>]) -> End {
    let lost = match &end {
        End::Failure(MachineError::LostPage) => {
            let address = watch.and_then(Watch::lost);
            address.and_then(|address| windows.iter().find_map(|window| window.lookup(address)))
        }
        // The hypervisor does not say where: the first place that is lost.
        End::Failure(MachineError::Run { source, .. })
            if source.raw_os_error() == Some(libc::EFAULT) =>
        {
            windows.iter().find_map(|window| window.lost())
        }
        _ => None,
    };
    lost.map_or(end, |lost| End::Failure(MachineError::LostFilePage(lost.into())))
}

/// Puts an end in the words of an outcome.
fn account(end: End, timeout: Option<Duration>) -> (Ending, Option<String>, Option<String>) {
    match end {
        End::Power(PowerEvent::Exit(status)) => (Ending::Exited { status }, None, None),
        End::Power(PowerEvent::PowerOff) => (Ending::Poweroff, None, None),
        End::Power(PowerEvent::Reset) => (Ending::Reset, None, None),
        End::Power(PowerEvent::Panicked) => {
            (Ending::Panic, Some("the guest's kernel reported a panic (pvpanic)".into()), None)
        }
        End::Crash { detail, help } => (Ending::Crash, Some(detail), help),
        End::Signal(signal) => {
            (Ending::Signaled { signal }, Some(format!("stopped by signal {signal}")), None)
        }
        End::Timeout => {
            let after = timeout.map(|timeout| format!("did not end within {timeout:?}"));
            (Ending::Timeout, after, None)
        }
        End::Failure(error) => (Ending::VmmError, Some(chain(&error)), error.help()),
    }
}

/// An error and its causes, in one sentence.
fn chain(error: &MachineError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
