//! `cohort bench boot`: what it costs to start a guest, to keep one that does nothing, and to boot
//! Linux.

mod idle;
mod linux;
mod start;

use std::time::Duration;

use super::BenchError;
use super::contender::{self, Programs};
use super::report::Report;

pub use linux::Linux;

/// The longest that a guest which ends by itself may take, firmware of the peers included.
const START_LIMIT: Duration = Duration::from_secs(60);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often each contender is run.
    pub rounds: usize,
    /// The programs to run.
    pub programs: Programs,
    /// List what the memory of an idle guest's process consists of.
    pub smaps: bool,
    /// Boot this Linux only, instead of measuring starts and idle guests.
    pub linux: Option<Linux>,
}

/// Runs the benchmark.
///
/// # Errors
/// A contender cannot be started or does not do what is measured.
pub fn run(options: &Options) -> Result<Report, BenchError> {
    let contenders = contender::find(&options.programs)?;
    let mut report = Report::new("boot");
    report.notes.extend(contenders.without_qemu());
    match &options.linux {
        Some(linux) => linux::measure(&mut report, &contenders, linux, options.rounds)?,
        None => {
            start::measure(&mut report, &contenders, options.rounds)?;
            idle::measure(&mut report, &contenders, options.rounds, options.smaps)?;
        }
    }
    Ok(report)
}
