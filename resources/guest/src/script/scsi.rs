//! The `scsi.` commands.
#![forbid(unsafe_code)]

use super::command::{depth, number, plain_range, queues, seed};
use super::words::{Mistake, Words};
use super::{Problem, RangeAction, SectorRange};
use crate::units;
use crate::virtio::scsi::cdb::{ReserveAction, ReserveOut};
use crate::virtio::scsi::pages::RESERVATION_TYPES;

/// Something with a logical unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scsi {
    /// Which one, counted from 0.
    pub disk: u64,
    /// What.
    pub action: ScsiAction,
    /// Requests under way in each queue.
    pub depth: u16,
    /// Queues to use.
    pub queues: u16,
    /// A unit attention fails the command, which is otherwise sent again.
    pub report_attention: bool,
}

/// What to do with a logical unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScsiAction {
    /// `scsi.write`, `verify`, `verify-zeroes`, `sum`: what is done with a range of any disk.
    Range(RangeAction),
    /// `scsi.unmap OFFSET LEN`.
    Unmap(SectorRange),
    /// `scsi.flush`.
    Flush,
    /// `scsi.id`: prints size, block size and names.
    Identify,
    /// `scsi.caw OFFSET repeat= as=`: increments a counter with COMPARE AND WRITE.
    Increment {
        /// The sector that the counter is at the start of.
        sector: u64,
        /// How many times.
        count: u64,
        /// The word of the counter's block, 1 to 63, that only this guest counts in, in the same
        /// step.
        own: Option<u64>,
    },
    /// `scsi.counter OFFSET expect=`: prints a counter.
    Counter {
        /// The sector that the counter is at the start of.
        sector: u64,
        /// What it must be.
        expect: Option<u64>,
    },
    /// `scsi.wait-counter OFFSET value= timeout=`: waits until a counter is large enough.
    WaitCounter {
        /// The sector that the counter is at the start of.
        sector: u64,
        /// What it must reach.
        value: u64,
        /// How long that may take, in nanoseconds.
        timeout: u64,
    },
    /// `scsi.write-until-conflict OFFSET LEN seed=`: writes until another's reservation forbids.
    WriteUntilConflict {
        /// Where.
        range: SectorRange,
        /// The pattern's name.
        seed: u64,
    },
    /// `scsi.pr register` and the like: PERSISTENT RESERVE OUT.
    Reserve(ReserveOut),
    /// `scsi.pr keys`: prints who is registered.
    Keys,
    /// `scsi.pr reservation`: prints who has reserved.
    Reservation,
    /// `scsi.reserve`: RESERVE(6).
    ReserveUnit,
    /// `scsi.release`: RELEASE(6).
    ReleaseUnit,
    /// `scsi.reset`: LOGICAL UNIT RESET.
    Reset,
}

impl ScsiAction {
    /// The command's name.
    pub fn name(self) -> &'static str {
        match self {
            ScsiAction::Range(RangeAction::Write { .. }) => "scsi.write",
            ScsiAction::Range(RangeAction::Verify { .. }) => "scsi.verify",
            ScsiAction::Range(RangeAction::VerifyZeroes(_)) => "scsi.verify-zeroes",
            ScsiAction::Range(RangeAction::Sum(_)) => "scsi.sum",
            ScsiAction::Unmap(_) => "scsi.unmap",
            ScsiAction::Flush => "scsi.flush",
            ScsiAction::Identify => "scsi.id",
            ScsiAction::Increment { .. } => "scsi.caw",
            ScsiAction::Counter { .. } => "scsi.counter",
            ScsiAction::WaitCounter { .. } => "scsi.wait-counter",
            ScsiAction::WriteUntilConflict { .. } => "scsi.write-until-conflict",
            ScsiAction::Reserve(_) | ScsiAction::Keys | ScsiAction::Reservation => "scsi.pr",
            ScsiAction::ReserveUnit => "scsi.reserve",
            ScsiAction::ReleaseUnit => "scsi.release",
            ScsiAction::Reset => "scsi.reset",
        }
    }
}

/// Which arguments a command takes: how many positional ones, and the keys.
type Takes = (usize, &'static [&'static str]);

const MOVES: Takes = (2, &["disk", "qd", "queues", "attention"]);
const MOVES_PATTERN: Takes = (2, &["seed", "disk", "qd", "queues", "attention"]);
const PLAIN: Takes = (0, &["disk", "attention"]);

/// Parses the command `scsi.` `action`.
pub(super) fn scsi<'a>(words: Words<'a>, action: &str) -> Result<Scsi, Mistake<'a>> {
    let range = || plain_range(words);
    let (takes, action): (Takes, _) = match action {
        "write" => {
            let write = RangeAction::Write { range: range()?, seed: seed(words)? };
            (MOVES_PATTERN, ScsiAction::Range(write))
        }
        "verify" => {
            let verify = RangeAction::Verify { range: range()?, seed: seed(words)? };
            (MOVES_PATTERN, ScsiAction::Range(verify))
        }
        "verify-zeroes" => (MOVES, ScsiAction::Range(RangeAction::VerifyZeroes(range()?))),
        "sum" => (MOVES, ScsiAction::Range(RangeAction::Sum(range()?))),
        "write-until-conflict" => {
            let (range, seed) = (range()?, seed(words)?);
            (MOVES_PATTERN, ScsiAction::WriteUntilConflict { range, seed })
        }
        "unmap" => ((2, PLAIN.1), ScsiAction::Unmap(range()?)),
        "flush" => (PLAIN, ScsiAction::Flush),
        "id" => (PLAIN, ScsiAction::Identify),
        "reserve" => (PLAIN, ScsiAction::ReserveUnit),
        "release" => (PLAIN, ScsiAction::ReleaseUnit),
        "reset" => (PLAIN, ScsiAction::Reset),
        "caw" => {
            let count = words.keyed("repeat", "a number", 1, units::number)?;
            let word = |text| units::number(text).filter(|word| (1..64).contains(word)).map(Some);
            let own = words.keyed("as", "a number from 1 to 63", None, word)?;
            let action = ScsiAction::Increment { sector: offset(words)?, count, own };
            ((1, &["repeat", "as", "disk", "attention"]), action)
        }
        "counter" => {
            let some = |text| units::number(text).map(Some);
            let expect = words.keyed("expect", "a number", None, some)?;
            let action = ScsiAction::Counter { sector: offset(words)?, expect };
            ((1, &["expect", "disk", "attention"]), action)
        }
        "wait-counter" => {
            let duration = "a duration such as 500ms or 2s";
            let action = ScsiAction::WaitCounter {
                sector: offset(words)?,
                value: words.required("value", "a number", units::number)?,
                timeout: words.keyed("timeout", duration, 60_000_000_000, units::duration)?,
            };
            ((1, &["value", "timeout", "disk", "attention"]), action)
        }
        "pr" => reservations(words)?,
        _ => {
            let (at, name) = words.name();
            return Err((at, Problem::UnknownCommand(name)));
        }
    };
    words.only(takes.0, takes.1)?;
    let report = |text| match text {
        "retry" => Some(false),
        "report" => Some(true),
        _ => None,
    };
    Ok(Scsi {
        disk: number(words)?,
        action,
        depth: depth(words, 8)?,
        queues: queues(words)?,
        report_attention: words.keyed("attention", "retry or report", false, report)?,
    })
}

/// `scsi.pr WHAT`.
fn reservations(words: Words<'_>) -> Result<(Takes, ScsiAction), Mistake<'_>> {
    let actions = [
        ("register", Some(ReserveAction::Register)),
        ("register-ignore", Some(ReserveAction::RegisterAndIgnore)),
        ("reserve", Some(ReserveAction::Reserve)),
        ("release", Some(ReserveAction::Release)),
        ("clear", Some(ReserveAction::Clear)),
        ("preempt", Some(ReserveAction::Preempt)),
        ("preempt-abort", Some(ReserveAction::PreemptAndAbort)),
        ("keys", None),
        ("reservation", None),
    ];
    let expected = "register, register-ignore, reserve, release, clear, preempt, preempt-abort, \
                    keys or reservation";
    let what = |text| actions.into_iter().find(|(name, _)| *name == text);
    let action = match words.positional(0, "WHAT", expected, what)? {
        (_, Some(action)) => action,
        ("keys", None) => return Ok(((1, PLAIN.1), ScsiAction::Keys)),
        _ => return Ok(((1, PLAIN.1), ScsiAction::Reservation)),
    };
    let number = |name, default| words.keyed(name, "a number such as 0xa1", default, units::number);
    let key = words.required("key", "a number such as 0xa1", units::number)?;
    let mut out = ReserveOut { action, key, service_key: 0, kind: 0, aptpl: false };
    let takes: Takes = match action {
        ReserveAction::Register => {
            (out.key, out.service_key) = (number("old", 0)?, key);
            out.aptpl = words.flag(1, "aptpl")?;
            (2, &["key", "old", "disk", "attention"])
        }
        ReserveAction::RegisterAndIgnore => {
            (out.key, out.service_key) = (0, key);
            out.aptpl = words.flag(1, "aptpl")?;
            (2, &["key", "disk", "attention"])
        }
        ReserveAction::Reserve | ReserveAction::Release => {
            out.kind = kind(words)?;
            (1, &["key", "type", "disk", "attention"])
        }
        ReserveAction::Clear => (1, &["key", "disk", "attention"]),
        ReserveAction::Preempt | ReserveAction::PreemptAndAbort => {
            out.service_key = words.required("victim", "a number such as 0xa1", units::number)?;
            out.kind = kind(words)?;
            (1, &["key", "victim", "type", "disk", "attention"])
        }
    };
    Ok((takes, ScsiAction::Reserve(out)))
}

/// The type of a reservation: its number, or its name.
fn kind(words: Words<'_>) -> Result<u8, Mistake<'_>> {
    let kind = |text| {
        let number = units::number(text);
        let known = |(name, kind): &(&str, u8)| *name == text || number == Some((*kind).into());
        RESERVATION_TYPES.into_iter().find(known).map(|(_, kind)| kind)
    };
    let expected = "we, ea, we-ro, ea-ro, we-ar or ea-ar (1, 3, 5, 6, 7, 8)";
    words.required("type", expected, kind)
}

/// The place of a counter.
fn offset(words: Words<'_>) -> Result<u64, Mistake<'_>> {
    words.positional(0, "OFFSET", "a multiple of 512 such as 0 or 1M", super::command::sectors)
}

#[cfg(test)]
mod tests;
