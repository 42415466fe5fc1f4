//! The commands.
#![forbid(unsafe_code)]

use super::pmem::{self, Pmem};
use super::scsi::{Scsi, scsi};
use super::words::{Mistake, Words};
use super::{Problem, Script, Text};
use crate::pattern::SECTOR;
use crate::units;

/// One command with its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// `print TEXT`: a line on the serial console.
    Print(Text<'a>),
    /// `console.print TEXT`: a line on the virtio console.
    ConsolePrint(Text<'a>),
    /// `sleep DURATION`.
    Sleep {
        /// How long.
        nanoseconds: u64,
    },
    /// `exit STATUS`: ends the guest with a status.
    Exit(u8),
    /// `poweroff`.
    PowerOff,
    /// `reset`.
    Reset,
    /// `panic`: reports a kernel panic through pvpanic.
    Panic,
    /// `triple-fault`: an exception that cannot be delivered.
    TripleFault,
    /// `hang`: halts for ever with interrupts off.
    Hang,
    /// `fault`: reads memory that is not mapped.
    Fault,
    /// `pci.list`: prints the functions on bus 0 and where their memory is.
    PciList,
    /// `repeat N { SCRIPT }`.
    Repeat {
        /// How many times.
        count: u64,
        /// What.
        body: Script<'a>,
    },
    /// `memory.touch LEN`: writes to every page of that much free memory.
    MemoryTouch {
        /// Bytes.
        len: u64,
    },
    /// `rng.read LEN`: reads from virtio-rng.
    RngRead {
        /// Bytes.
        len: u64,
    },
    /// `blk.…`: something with a disk.
    Disk {
        /// Which one, counted from 0.
        disk: u64,
        /// What.
        action: DiskAction,
        /// Requests under way in each queue.
        depth: u16,
        /// Queues to use.
        queues: u16,
    },
    /// `pmem.…`, `blk.read-into-pmem`, `bench.pmem`: something with persistent memory.
    Pmem(Pmem),
    /// `scsi.…`: something with a logical unit.
    Scsi(Scsi),
    /// `expect-conflict { SCRIPT }`: each command must end with RESERVATION CONFLICT.
    ExpectConflict {
        /// `scsi.` commands and nothing else.
        body: Script<'a>,
    },
    /// `bench.randread SIZE`, `bench.randwrite SIZE`: requests at random places.
    Bench(Bench),
    /// `virtio.fuzz WHAT`: what a hostile guest would do.
    Fuzz(Fuzz),
}

/// What to do with a range of a disk of any kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeAction {
    /// `write OFFSET LEN seed=`: writes a pattern.
    Write {
        /// Where.
        range: SectorRange,
        /// The pattern's name.
        seed: u64,
    },
    /// `verify OFFSET LEN seed=`: reads, and compares with the pattern.
    Verify {
        /// Where.
        range: SectorRange,
        /// The pattern's name.
        seed: u64,
    },
    /// `verify-zeroes OFFSET LEN`: reads, and finds nothing but zeroes.
    VerifyZeroes(SectorRange),
    /// `sum OFFSET LEN`: reads, and prints a checksum.
    Sum(SectorRange),
}

/// What to do with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskAction {
    /// `blk.write`, `verify`, `verify-zeroes`, `sum`: what is done with a range of any disk.
    Range(RangeAction),
    /// `blk.discard OFFSET LEN`.
    Discard(SectorRange),
    /// `blk.zeroes OFFSET LEN`.
    WriteZeroes(SectorRange),
    /// `blk.flush`.
    Flush,
    /// `blk.id`: prints the serial string, and the size.
    Identify,
}

/// A range of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SectorRange {
    /// First sector.
    pub sector: u64,
    /// How many.
    pub sectors: u64,
}

/// How a disk is reached: which kind of device `disk=` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// virtio-blk.
    Blk,
    /// virtio-scsi.
    Scsi,
}

/// Random requests for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bench {
    /// Writes, not reads.
    pub write: bool,
    /// Which kind of disk.
    pub on: Bus,
    /// Sectors of each request.
    pub sectors: u64,
    /// Requests under way in each queue.
    pub depth: u16,
    /// Queues to use.
    pub queues: u16,
    /// For how long.
    pub nanoseconds: u64,
    /// Which disk, counted from 0.
    pub disk: u64,
    /// Names the sequence of places, and the pattern that is written.
    pub seed: u64,
}

/// What a hostile guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fuzz {
    /// `registers`: garbage in the registers of every virtio device.
    Registers {
        /// Names the garbage.
        seed: u64,
        /// Random accesses for each device.
        count: u64,
    },
    /// `config`: garbage in the PCI configuration space of every virtio device.
    Config {
        /// Names the garbage.
        seed: u64,
        /// Random accesses for each device.
        count: u64,
    },
    /// `kick`: notifications for queues that do not exist.
    Kick,
    /// `loop`: chains of descriptors without end.
    Loop {
        /// Which kind of disk.
        on: Bus,
        /// Which disk.
        disk: u64,
    },
    /// `wild`: rings and buffers outside memory.
    Wild {
        /// Which kind of disk.
        on: Bus,
        /// Which disk.
        disk: u64,
    },
    /// `indirect`: malformed tables of descriptors.
    Indirect {
        /// Which kind of disk.
        on: Bus,
        /// Which disk.
        disk: u64,
    },
    /// `headers`: garbage in the headers of requests. Some may be commands that change the disk.
    Headers {
        /// Which kind of disk.
        on: Bus,
        /// Which disk.
        disk: u64,
        /// Names the garbage.
        seed: u64,
        /// Requests.
        count: u64,
    },
}

impl<'a> Command<'a> {
    /// Parses one command; `body` is the script in braces behind it.
    pub(super) fn parse(
        words: Words<'a>,
        body: Option<Script<'a>>,
    ) -> Result<Command<'a>, Mistake<'a>> {
        let (at, name) = words.name();
        let command = match name {
            "print" => Command::Print(words.text()),
            "console.print" => Command::ConsolePrint(words.text()),
            "sleep" => {
                words.only(1, &[])?;
                let expected = "a duration such as 500ms or 2s";
                let nanoseconds = words.positional(0, "DURATION", expected, units::duration)?;
                Command::Sleep { nanoseconds }
            }
            "exit" => {
                words.only(1, &[])?;
                let status = |text| u8::try_from(units::number(text)?).ok();
                Command::Exit(words.positional(0, "STATUS", "a number from 0 to 255", status)?)
            }
            "poweroff" => plain(words, Command::PowerOff)?,
            "reset" => plain(words, Command::Reset)?,
            "panic" => plain(words, Command::Panic)?,
            "triple-fault" => plain(words, Command::TripleFault)?,
            "hang" => plain(words, Command::Hang)?,
            "fault" => plain(words, Command::Fault)?,
            "pci.list" => plain(words, Command::PciList)?,
            "repeat" => {
                words.only(1, &[])?;
                let count = words.positional(0, "COUNT", "a number", units::number)?;
                let body = body.ok_or((at, Problem::Block { wanted: true }))?;
                return Ok(Command::Repeat { count, body });
            }
            "expect-conflict" => {
                words.only(0, &[])?;
                let body = body.ok_or((at, Problem::Block { wanted: true }))?;
                // Mistakes in the block are found where they are.
                if body.flatten().any(|command| !matches!(command, Command::Scsi(_))) {
                    return Err((at, Problem::OnlyScsi));
                }
                return Ok(Command::ExpectConflict { body });
            }
            "memory.touch" => Command::MemoryTouch { len: len(words)? },
            "rng.read" => Command::RngRead { len: len(words)? },
            "bench.randread" => Command::Bench(bench(words, false)?),
            "bench.randwrite" => Command::Bench(bench(words, true)?),
            "bench.pmem" => Command::Pmem(pmem::bench(words)?),
            "blk.read-into-pmem" => Command::Pmem(pmem::read_from(words)?),
            "virtio.fuzz" => Command::Fuzz(fuzz(words)?),
            _ => match name.split_once('.') {
                Some(("blk", action)) => disk(words, action)?,
                Some(("pmem", action)) => Command::Pmem(pmem::pmem(words, action)?),
                Some(("scsi", action)) => Command::Scsi(scsi(words, action)?),
                _ => return Err((at, Problem::UnknownCommand(name))),
            },
        };
        match body {
            Some(_) => Err((at, Problem::Block { wanted: false })),
            None => Ok(command),
        }
    }
}

fn plain<'a>(words: Words<'a>, command: Command<'a>) -> Result<Command<'a>, Mistake<'a>> {
    words.only(0, &[]).map(|()| command)
}

fn len(words: Words<'_>) -> Result<u64, Mistake<'_>> {
    words.only(1, &[])?;
    words.positional(0, "LEN", "a size such as 512 or 4k", units::size)
}

fn disk<'a>(words: Words<'a>, action: &str) -> Result<Command<'a>, Mistake<'a>> {
    let range = || plain_range(words);
    let (positional, keys, action): (_, &'static [_], _) = match action {
        "write" => (2, &["seed", "disk", "qd", "queues"], {
            DiskAction::Range(RangeAction::Write { range: range()?, seed: seed(words)? })
        }),
        "verify" => (2, &["seed", "disk", "qd", "queues"], {
            DiskAction::Range(RangeAction::Verify { range: range()?, seed: seed(words)? })
        }),
        "verify-zeroes" => (2, &["disk", "qd", "queues"], {
            DiskAction::Range(RangeAction::VerifyZeroes(range()?))
        }),
        "sum" => (2, &["disk", "qd", "queues"], DiskAction::Range(RangeAction::Sum(range()?))),
        "discard" => (2, &["disk", "qd", "queues"], DiskAction::Discard(range()?)),
        "zeroes" => (2, &["disk", "qd", "queues"], DiskAction::WriteZeroes(range()?)),
        "flush" => (0, &["disk"], DiskAction::Flush),
        "id" => (0, &["disk"], DiskAction::Identify),
        _ => {
            let (at, name) = words.name();
            return Err((at, Problem::UnknownCommand(name)));
        }
    };
    words.only(positional, keys)?;
    Ok(Command::Disk {
        disk: number(words)?,
        action,
        depth: depth(words, 8)?,
        queues: queues(words)?,
    })
}

fn bench(words: Words<'_>, write: bool) -> Result<Bench, Mistake<'_>> {
    words.only(1, &["qd", "secs", "disk", "seed", "queues", "on"])?;
    let sectors = |text| {
        let sectors = units::size(text).filter(|n| n % SECTOR == 0)? / SECTOR;
        (1..=2048).contains(&sectors).then_some(sectors)
    };
    Ok(Bench {
        write,
        on: on(words)?,
        sectors: words.positional(0, "SIZE", "a multiple of 512 up to 1M, such as 4k", sectors)?,
        depth: depth(words, 1)?,
        queues: queues(words)?,
        nanoseconds: words.keyed(
            "secs",
            "seconds, such as 2 or 0.5",
            1_000_000_000,
            units::seconds,
        )?,
        disk: number(words)?,
        seed: seed(words)?,
    })
}

fn fuzz(words: Words<'_>) -> Result<Fuzz, Mistake<'_>> {
    let what = |text| match text {
        "registers" | "config" | "kick" | "loop" | "wild" | "indirect" | "headers" => Some(text),
        _ => None,
    };
    let expected = "registers, config, kick, loop, wild, indirect or headers";
    let what = words.positional(0, "WHAT", expected, what)?;
    let count = || words.keyed("count", "a number", 1000, units::number);
    let (keys, fuzz): (&'static [_], _) = match what {
        "registers" => {
            (&["seed", "count"], Fuzz::Registers { seed: seed(words)?, count: count()? })
        }
        "config" => (&["seed", "count"], Fuzz::Config { seed: seed(words)?, count: count()? }),
        "kick" => (&[], Fuzz::Kick),
        "loop" => (&["disk", "on"], Fuzz::Loop { on: on(words)?, disk: number(words)? }),
        "wild" => (&["disk", "on"], Fuzz::Wild { on: on(words)?, disk: number(words)? }),
        "headers" => (&["seed", "count", "disk", "on"], {
            let (on, disk) = (on(words)?, number(words)?);
            Fuzz::Headers { on, disk, seed: seed(words)?, count: count()? }
        }),
        _ => (&["disk", "on"], Fuzz::Indirect { on: on(words)?, disk: number(words)? }),
    };
    words.only(1, keys)?;
    Ok(fuzz)
}

/// `OFFSET LEN` of a disk.
pub(super) fn plain_range(words: Words<'_>) -> Result<SectorRange, Mistake<'_>> {
    let expected = "a multiple of 512 such as 0 or 1M";
    let some = |text| sectors(text).filter(|n| *n > 0);
    Ok(SectorRange {
        sector: words.positional(0, "OFFSET", expected, sectors)?,
        sectors: words.positional(1, "LEN", "a multiple of 512, not 0, such as 1M", some)?,
    })
}

/// A size in sectors.
pub(super) fn sectors(text: &str) -> Option<u64> {
    units::size(text).filter(|n| n % SECTOR == 0).map(|n| n / SECTOR)
}

fn on(words: Words<'_>) -> Result<Bus, Mistake<'_>> {
    let bus = |text| match text {
        "blk" => Some(Bus::Blk),
        "scsi" => Some(Bus::Scsi),
        _ => None,
    };
    words.keyed("on", "blk or scsi", Bus::Blk, bus)
}

pub(super) fn seed(words: Words<'_>) -> Result<u64, Mistake<'_>> {
    words.keyed("seed", "a number", 1, units::number)
}

pub(super) fn number(words: Words<'_>) -> Result<u64, Mistake<'_>> {
    words.keyed("disk", "a number", 0, units::number)
}

pub(super) fn depth(words: Words<'_>, default: u16) -> Result<u16, Mistake<'_>> {
    words.keyed("qd", "a number from 1 to 85", default, |text| upto(text, 85))
}

pub(super) fn queues(words: Words<'_>) -> Result<u16, Mistake<'_>> {
    words.keyed("queues", "a number from 1 to 8", 1, |text| upto(text, 8))
}

fn upto(text: &str, limit: u16) -> Option<u16> {
    u16::try_from(units::number(text)?).ok().filter(|n| (1..=limit).contains(n))
}
