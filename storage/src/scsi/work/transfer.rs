//! READ, WRITE, SYNCHRONIZE CACHE.

use super::{Scratch, Step, Steps, ask, flush};
use crate::scsi::sense::Fault;
use crate::scsi::unit::Unit;
use crate::{Buffers, Operation};

/// READ(6) to (16). Where there is less room than blocks, as many bytes are filled as there is
/// room for, and the rest is a residual overflow.
#[derive(Debug)]
pub(in crate::scsi) struct Read {
    start: u64,
    data: Buffers,
    /// Bytes of whole blocks, which go where they belong.
    whole: u64,
    /// Bytes of a block for which there is not enough room.
    part: u64,
    /// Of that block.
    scratch: Option<Scratch>,
    /// FUA: what is newer than the medium goes there first (SBC-3 4.15.2).
    durable: bool,
    filled: u64,
}

impl Read {
    /// `len` bytes from byte `start`, in blocks of `block`.
    pub(in crate::scsi) fn new(
        start: u64,
        len: u64,
        block: u64,
        durable: bool,
        mut data: Buffers,
    ) -> Read {
        let room = data.len().min(len);
        let data = data.split_to(room);
        let part = room % block;
        Read { start, data, whole: room - part, part, scratch: None, durable, filled: room }
    }
}

impl Steps for Read {
    fn next(&mut self, unit: &Unit) -> Result<Step, Fault> {
        if std::mem::take(&mut self.durable) {
            return Ok(flush());
        }
        if self.whole > 0 {
            let (start, len) = (self.start, std::mem::take(&mut self.whole));
            self.start += len;
            return ask(Operation::Read, start, len, self.data.split_to(len));
        }
        if let Some(mut scratch) = self.scratch.take() {
            self.data.copy_from(scratch.bytes(std::mem::take(&mut self.part))?);
        } else if self.part > 0 {
            let block = u64::from(unit.block);
            let scratch = Scratch::new(block);
            let buffers = scratch.lend(block);
            self.scratch = Some(scratch);
            return ask(Operation::Read, self.start, block, buffers);
        }
        Ok(Step::Done)
    }

    fn filled(&self) -> u64 {
        self.filled
    }
}

/// WRITE(6) to (16).
#[derive(Debug)]
pub(in crate::scsi) struct Write {
    start: u64,
    data: Buffers,
    /// FUA, or no write cache: durable before the answer.
    durable: bool,
}

impl Write {
    /// All of `data`, which is whole blocks, from byte `start`.
    pub(in crate::scsi) fn new(start: u64, durable: bool, data: Buffers) -> Write {
        Write { start, data, durable }
    }
}

impl Steps for Write {
    fn next(&mut self, _unit: &Unit) -> Result<Step, Fault> {
        if !self.data.is_empty() {
            let data = std::mem::take(&mut self.data);
            return ask(Operation::Write, self.start, data.len(), data);
        }
        Ok(if std::mem::take(&mut self.durable) { flush() } else { Step::Done })
    }
}

/// SYNCHRONIZE CACHE, and the end of other commands that are to be durable.
#[derive(Debug)]
pub(in crate::scsi) struct Sync(bool);

impl Sync {
    pub(in crate::scsi) fn new() -> Sync {
        Sync(true)
    }
}

impl Steps for Sync {
    fn next(&mut self, _unit: &Unit) -> Result<Step, Fault> {
        Ok(if std::mem::take(&mut self.0) { flush() } else { Step::Done })
    }
}
