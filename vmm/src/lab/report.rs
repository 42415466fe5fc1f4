//! What a lab found: its guests' outcomes, held against what was expected, and its exit status.

use std::path::PathBuf;

use serde::Serialize;

use super::Guest;
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
            console,
            outcome,
        }
    }
}
