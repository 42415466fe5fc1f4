//! What a lab found: its guests' outcomes, held against what was expected, and its exit status.

use std::path::PathBuf;

use serde::Serialize;

use super::Guest;
use crate::mem::Sizes;
use crate::outcome::{Ending, Outcome};

/// The report on a lab's run, as `lab.json` keeps it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this form.
    pub schema: u32,
    /// The lab's name.
    pub lab: String,
    /// The exit status of `cohort lab run`.
    pub status: u8,
    /// The signal that stopped the lab early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interrupted: Option<u8>,
    /// From the first start to the last end, in milliseconds.
    pub wall_ms: u64,
    /// Shared disks that were not served to the end.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lost_shared_disks: Vec<SharedDiskReport>,
    /// What the guests held of the host's memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<LabMemory>,
    /// The guests, in the order of the lab file.
    pub guests: Vec<GuestReport>,
}

/// The report on a shared disk whose server failed.
#[derive(Clone, Debug, Serialize)]
pub struct SharedDiskReport {
    /// Its name.
    pub name: String,
    /// What happened.
    pub detail: String,
}

/// What the guests of a lab held of the host's memory.
#[derive(Clone, Debug, Serialize)]
pub struct LabMemory {
    /// How often they were looked at.
    pub samples: u64,
    /// Processor time that this took altogether, in milliseconds.
    pub sampling_ms: u64,
    /// When they held most; none if the lab ended before it was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak: Option<LabPeak>,
}

/// The moment at which the guests of a lab held most, their resident sets taken together.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LabPeak {
    /// Time since the first guest started, in milliseconds.
    pub at_ms: u64,
    /// Guests that ran.
    pub guests: usize,
    /// What they held, pages that they share counted once.
    pub held_kib: u64,
    /// What they would have held if each had pages of its own.
    pub unshared_kib: u64,
}

/// The report on one guest.
#[derive(Clone, Debug, Serialize)]
pub struct GuestReport {
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The exit status `cohort run` would have given.
    pub exit_status: u8,
    /// What was expected, in words.
    pub expected: String,
    /// Whether the outcome is what was expected.
    pub as_expected: bool,
    /// What it held when it held most, as far as it was looked at while it ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_peak: Option<Sizes>,
    /// Where its console output is.
    pub console: PathBuf,
}

impl Report {
    /// The exit status of a lab that ended by itself with these guests: 0 all as expected, 1 not,
    /// 125 when the host failed one that was not expected to fail.
    pub fn exit_status(guests: &[GuestReport]) -> u8 {
        let failed = |guest: &&GuestReport| !guest.as_expected;
        if guests.iter().filter(failed).any(|guest| guest.outcome.ending == Ending::VmmError) {
            125
        } else if guests.iter().any(|guest| !guest.as_expected) {
            1
        } else {
            0
        }
    }
}

impl GuestReport {
    /// Holds `outcome` against what `guest` was expected to do.
    pub fn new(guest: &Guest, outcome: Outcome, console: PathBuf) -> GuestReport {
        GuestReport {
            exit_status: outcome.exit_status(),
            expected: guest.expected.to_string(),
            as_expected: guest.expected.accepts(outcome.ending),
            memory_peak: None,
            console,
            outcome,
        }
    }
}
