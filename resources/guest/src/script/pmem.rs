//! The `pmem.` commands.
#![forbid(unsafe_code)]

use super::command::{number, plain_range, sectors, seed};
use super::words::{Mistake, Words};
use super::{Problem, SectorRange};
use crate::units;

/// Something with persistent memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pmem {
    /// Which device, counted from 0.
    pub index: u64,
    /// What.
    pub action: PmemAction,
}

/// What to do with persistent memory. Ranges are in sectors, as those of disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PmemAction {
    /// `pmem.sum [OFFSET LEN]`: reads a range, or all of it, and prints a checksum.
    Sum(Option<SectorRange>),
    /// `pmem.read OFFSET LEN`: reads, and prints the first bytes.
    Read(SectorRange),
    /// `pmem.write OFFSET LEN seed= [expect-fault]`: writes a pattern.
    Write {
        /// Where.
        range: SectorRange,
        /// The pattern's name.
        seed: u64,
        /// The memory must read as before, not as the pattern.
        expect_fault: bool,
    },
    /// `pmem.flush`.
    Flush,
    /// `blk.read-into-pmem OFFSET LEN AT`: lets a disk write to it.
    ReadFrom {
        /// Which disk.
        disk: u64,
        /// What is read.
        range: SectorRange,
        /// Where to, in sectors.
        at: u64,
    },
    /// `bench.pmem`: how fast it is read.
    Bench {
        /// For how long passes are repeated.
        nanoseconds: u64,
    },
}

impl PmemAction {
    /// The command's name.
    pub fn name(self) -> &'static str {
        match self {
            PmemAction::Sum(_) => "pmem.sum",
            PmemAction::Read(_) => "pmem.read",
            PmemAction::Write { .. } => "pmem.write",
            PmemAction::Flush => "pmem.flush",
            PmemAction::ReadFrom { .. } => "blk.read-into-pmem",
            PmemAction::Bench { .. } => "bench.pmem",
        }
    }
}

/// Parses a `pmem.` command.
pub(super) fn pmem<'a>(words: Words<'a>, action: &str) -> Result<Pmem, Mistake<'a>> {
    let (positional, keys, action): (_, &'static [_], _) = match action {
        "sum" => (2, &["pmem"], {
            let all = words.is_alone();
            PmemAction::Sum(if all { None } else { Some(plain_range(words)?) })
        }),
        "read" => (2, &["pmem"], PmemAction::Read(plain_range(words)?)),
        "write" => (3, &["seed", "pmem"], {
            let (range, seed) = (plain_range(words)?, seed(words)?);
            PmemAction::Write { range, seed, expect_fault: words.flag(2, "expect-fault")? }
        }),
        "flush" => (0, &["pmem"], PmemAction::Flush),
        _ => {
            let (at, name) = words.name();
            return Err((at, Problem::UnknownCommand(name)));
        }
    };
    words.only(positional, keys)?;
    Ok(Pmem { index: index(words)?, action })
}

/// Parses `blk.read-into-pmem`.
pub(super) fn read_from(words: Words<'_>) -> Result<Pmem, Mistake<'_>> {
    words.only(3, &["pmem", "disk"])?;
    let (disk, range) = (number(words)?, plain_range(words)?);
    let at = words.positional(2, "AT", "a multiple of 512 such as 0 or 1M", sectors)?;
    Ok(Pmem { index: index(words)?, action: PmemAction::ReadFrom { disk, range, at } })
}

/// Parses `bench.pmem`.
pub(super) fn bench(words: Words<'_>) -> Result<Pmem, Mistake<'_>> {
    words.only(0, &["pmem", "secs"])?;
    let expected = "seconds, such as 2 or 0.5";
    let nanoseconds = words.keyed("secs", expected, 1_000_000_000, units::seconds)?;
    Ok(Pmem { index: index(words)?, action: PmemAction::Bench { nanoseconds } })
}

fn index(words: Words<'_>) -> Result<u64, Mistake<'_>> {
    words.keyed("pmem", "a number", 0, units::number)
}
