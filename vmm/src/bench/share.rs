//! `cohort bench share`: what it brings that guests map a file's pages instead of reading them.
//!
//! Reading a persistent memory device in a guest, beside the guest's own memory and beside a block
//! device of the same file under QEMU; starting with a large one; and the host's memory of many
//! guests that have read the same file whole.

mod guests;
mod read;
mod start;

use super::BenchError;
use super::contender::{self, Programs};
use super::report::Report;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often each contender is run.
    pub rounds: usize,
    /// The programs to run.
    pub programs: Programs,
    /// Bytes of the file that is read for its rate.
    pub size: u64,
    /// Bytes of the file that many guests read.
    pub shared: u64,
    /// Numbers of guests that read it, in ascending order.
    pub guests: Vec<u16>,
}

/// Runs the benchmark.
///
/// # Errors
/// A contender cannot be started or does not do what is measured.
pub fn run(options: &Options) -> Result<Report, BenchError> {
    let contenders = contender::find(&options.programs)?;
    let mut report = Report::new("share");
    report.notes.extend(contenders.without_qemu());
    read::measure(&mut report, &contenders, options)?;
    start::measure(&mut report, &contenders, options.rounds)?;
    guests::measure(&mut report, &contenders, options)?;
    Ok(report)
}
