//! Commands that look at what is there: VERIFY, WRITE AND VERIFY, COMPARE AND WRITE, ORWRITE.

use super::{CHUNK, Scratch, Step, Steps, ask, difference, flush, miscompare};
use crate::scsi::sense::Fault;
use crate::scsi::unit::Unit;
use crate::{Buffers, Operation};

/// Copies the next `len` bytes out of a command's data.
fn take(data: &mut Buffers, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(len.min(data.len())).unwrap_or_default()];
    data.copy_to(&mut bytes);
    bytes
}

/// What VERIFY compares the medium with.
#[derive(Debug)]
pub(in crate::scsi) enum Against {
    /// Nothing: it can be read (BYTCHK 00b).
    Nothing,
    /// The data, byte by byte (BYTCHK 01b).
    Data(Buffers),
    /// One block, again and again (BYTCHK 11b).
    Block(Vec<u8>),
}

/// VERIFY(10), (12), (16) (SBC-3 5.33).
#[derive(Debug)]
pub(in crate::scsi) struct Verify {
    start: u64,
    left: u64,
    /// Bytes that were compared, which is the offset in the data.
    seen: u64,
    against: Against,
    scratch: Scratch,
    /// Bytes that were asked for last.
    asked: u64,
}

impl Verify {
    /// `len` bytes from byte `start`.
    pub(in crate::scsi) fn new(start: u64, len: u64, against: Against) -> Verify {
        let scratch = Scratch::new(len.min(CHUNK));
        Verify { start, left: len, seen: 0, against, scratch, asked: 0 }
    }
}

impl Steps for Verify {
    fn next(&mut self, _unit: &Unit) -> Result<Step, Fault> {
        if self.asked > 0 {
            let found = self.scratch.bytes(self.asked)?;
            match &mut self.against {
                Against::Nothing => {}
                Against::Data(data) => {
                    if let Some(at) = difference(found, &take(data, self.asked)) {
                        return Err(miscompare(self.seen + at as u64));
                    }
                }
                Against::Block(block) => {
                    for found in found.chunks(block.len().max(1)) {
                        if let Some(at) = difference(found, block) {
                            return Err(miscompare(at as u64));
                        }
                    }
                }
            }
            self.seen += self.asked;
        }
        self.asked = self.left.min(CHUNK);
        if self.asked == 0 {
            return Ok(Step::Done);
        }
        let start = self.start;
        self.start += self.asked;
        self.left -= self.asked;
        ask(Operation::Read, start, self.asked, self.scratch.lend(self.asked))
    }
}

/// Where a command that works on chunks stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Begin,
    /// The chunk has been read.
    HasRead,
    /// It has been written.
    HasWritten,
    /// All is flushed.
    Flushed,
}

/// WRITE AND VERIFY(10), (12), (16) (SBC-3 5.43): writes, makes it durable, reads it back. With
/// BYTCHK 00b it only has to be readable, but comparing it costs no more.
#[derive(Debug)]
pub(in crate::scsi) struct WriteAndVerify {
    start: u64,
    data: Buffers,
    seen: u64,
    written: Scratch,
    found: Scratch,
    chunk: u64,
    stage: Stage,
}

impl WriteAndVerify {
    /// All of `data`, which is whole blocks, from byte `start`.
    pub(in crate::scsi) fn new(start: u64, data: Buffers) -> WriteAndVerify {
        let len = data.len().min(CHUNK);
        let (written, found) = (Scratch::new(len), Scratch::new(len));
        WriteAndVerify { start, data, seen: 0, written, found, chunk: 0, stage: Stage::Begin }
    }
}

impl Steps for WriteAndVerify {
    fn next(&mut self, _unit: &Unit) -> Result<Step, Fault> {
        if self.stage == Stage::HasRead {
            let found = self.found.bytes(self.chunk)?;
            if let Some(at) = difference(found, self.written.bytes(self.chunk)?) {
                return Err(miscompare(self.seen + at as u64));
            }
            self.seen += self.chunk;
            self.start += self.chunk;
            self.stage = Stage::Begin;
        }
        match self.stage {
            Stage::HasWritten => {
                self.stage = Stage::Flushed;
                Ok(flush())
            }
            Stage::Flushed => {
                self.stage = Stage::HasRead;
                ask(Operation::Read, self.start, self.chunk, self.found.lend(self.chunk))
            }
            Stage::Begin | Stage::HasRead => {
                self.chunk = self.data.len().min(CHUNK);
                if self.chunk == 0 {
                    return Ok(Step::Done);
                }
                self.data.copy_to(self.written.bytes(self.chunk)?);
                self.stage = Stage::HasWritten;
                ask(Operation::Write, self.start, self.chunk, self.written.lend(self.chunk))
            }
        }
    }
}

/// COMPARE AND WRITE (SBC-3 5.2), under a range of its own.
#[derive(Debug)]
pub(in crate::scsi) struct CompareAndWrite {
    start: u64,
    /// The first half is compared, the second one written.
    data: Buffers,
    len: u64,
    found: Scratch,
    durable: bool,
    stage: Stage,
}

impl CompareAndWrite {
    /// `len` bytes from byte `start`; `data` has twice as many.
    pub(in crate::scsi) fn new(
        start: u64,
        len: u64,
        durable: bool,
        data: Buffers,
    ) -> CompareAndWrite {
        let found = Scratch::new(len);
        CompareAndWrite { start, data, len, found, durable, stage: Stage::Begin }
    }
}

impl Steps for CompareAndWrite {
    fn next(&mut self, _unit: &Unit) -> Result<Step, Fault> {
        match self.stage {
            Stage::Begin => {
                self.stage = Stage::HasRead;
                ask(Operation::Read, self.start, self.len, self.found.lend(self.len))
            }
            Stage::HasRead => {
                let wanted = take(&mut self.data, self.len);
                if let Some(at) = difference(self.found.bytes(self.len)?, &wanted) {
                    return Err(miscompare(at as u64));
                }
                self.stage = Stage::HasWritten;
                let data = std::mem::take(&mut self.data);
                ask(Operation::Write, self.start, self.len, data)
            }
            Stage::HasWritten if self.durable => {
                self.stage = Stage::Flushed;
                Ok(flush())
            }
            Stage::HasWritten | Stage::Flushed => Ok(Step::Done),
        }
    }
}

/// ORWRITE(16) (SBC-3 5.9), under a range of its own.
#[derive(Debug)]
pub(in crate::scsi) struct OrWrite {
    start: u64,
    data: Buffers,
    scratch: Scratch,
    chunk: u64,
    durable: bool,
    stage: Stage,
}

impl OrWrite {
    /// All of `data`, which is whole blocks, from byte `start`.
    pub(in crate::scsi) fn new(start: u64, durable: bool, data: Buffers) -> OrWrite {
        let scratch = Scratch::new(data.len().min(CHUNK));
        OrWrite { start, data, scratch, chunk: 0, durable, stage: Stage::Begin }
    }
}

impl Steps for OrWrite {
    fn next(&mut self, _unit: &Unit) -> Result<Step, Fault> {
        if self.stage == Stage::HasRead {
            let bits = take(&mut self.data, self.chunk);
            for (byte, bits) in self.scratch.bytes(self.chunk)?.iter_mut().zip(bits) {
                *byte |= bits;
            }
            let start = self.start;
            self.start += self.chunk;
            self.stage = Stage::HasWritten;
            return ask(Operation::Write, start, self.chunk, self.scratch.lend(self.chunk));
        }
        self.chunk = self.data.len().min(CHUNK);
        if self.chunk > 0 {
            self.stage = Stage::HasRead;
            return ask(Operation::Read, self.start, self.chunk, self.scratch.lend(self.chunk));
        }
        Ok(if std::mem::take(&mut self.durable) { flush() } else { Step::Done })
    }
}
