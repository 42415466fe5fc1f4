//! What commands do to the medium, as requests to the disk one after another.

mod compare;
mod erase;
mod transfer;

pub(super) use compare::{Against, CompareAndWrite, OrWrite, Verify, WriteAndVerify};
pub(super) use erase::{Unmap, WriteSame, unmap_list};
pub(super) use transfer::{Read, Sync, Write};

use std::sync::Arc;

use super::sense::{self, Fault};
use super::unit::Unit;
use crate::{AlignedBuffer, Buffers, DiskRange, DiskRequest, Operation};

/// Bytes that commands work on at a time in memory of the target's own.
const CHUNK: u64 = 256 << 10;

/// What comes next.
#[derive(Debug)]
pub(super) enum Step {
    /// A request; the next step follows when it has succeeded.
    Ask(DiskRequest),
    /// The command is carried out.
    Done,
}

/// A command under way. It is asked for one step after another, each when the last request has
/// succeeded. A request that fails ends the command.
pub(super) trait Steps: Send {
    /// The next step.
    fn next(&mut self, unit: &Unit) -> Result<Step, Fault>;

    /// Bytes of data-in that have been filled, once the command is carried out.
    fn filled(&self) -> u64 {
        0
    }
}

/// The steps of a command.
pub(super) enum Work {
    /// Those of most commands, in place.
    Read(Read),
    Write(Write),
    Other(Box<dyn Steps>),
}

impl Work {
    pub(super) fn next(&mut self, unit: &Unit) -> Result<Step, Fault> {
        match self {
            Work::Read(steps) => steps.next(unit),
            Work::Write(steps) => steps.next(unit),
            Work::Other(steps) => steps.next(unit),
        }
    }

    pub(super) fn filled(&self) -> u64 {
        match self {
            Work::Read(steps) => steps.filled(),
            Work::Write(steps) => steps.filled(),
            Work::Other(steps) => steps.filled(),
        }
    }
}

/// A flush.
fn flush() -> Step {
    let buffers = Buffers::none();
    Step::Ask(DiskRequest { operation: Operation::Flush, range: DiskRange::EMPTY, buffers })
}

/// A request for a range of bytes, which the unit is known to have.
fn ask(operation: Operation, start: u64, len: u64, buffers: Buffers) -> Result<Step, Fault> {
    let range = DiskRange::new(start, len).ok_or(Fault::from(sense::LBA_OUT_OF_RANGE))?;
    Ok(Step::Ask(DiskRequest { operation, range, buffers }))
}

/// Memory of the target's own that lends itself to one request at a time.
#[derive(Debug)]
struct Scratch(Arc<AlignedBuffer>);

impl Scratch {
    fn new(len: u64) -> Scratch {
        Scratch(Arc::new(AlignedBuffer::new(usize::try_from(len).unwrap_or_default())))
    }

    /// The first `len` bytes, for a request.
    fn lend(&self, len: u64) -> Buffers {
        Buffers::whole(&self.0).split_to(len)
    }

    /// The first `len` bytes, when the request has ended.
    fn bytes(&mut self, len: u64) -> Result<&mut [u8], Fault> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        Arc::get_mut(&mut self.0)
            .and_then(|memory| memory.bytes().get_mut(..len))
            .ok_or(Fault::from(sense::INTERNAL_FAILURE))
    }
}

/// Where two runs of bytes first differ.
fn difference(one: &[u8], other: &[u8]) -> Option<usize> {
    if one == other {
        return None;
    }
    one.iter().zip(other).position(|(one, other)| one != other)
}

/// MISCOMPARE DURING VERIFY OPERATION; INFORMATION is the offset of the first byte that differs
/// within the data-out buffer (SBC-3 5.2, 5.33).
fn miscompare(offset: u64) -> Fault {
    Fault::from(sense::MISCOMPARE).with_information(offset)
}
