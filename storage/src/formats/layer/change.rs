//! Writes and erasures: which steps they take, and what becomes true with them
//! (`docs/layer-format.md`, "Changes").

use std::ops::Range;

use super::blocks::State;
use super::geometry::{BLOCK, BLOCK_BYTES, disk_range};
use super::{FormatError, RuntimeLayer};
use crate::formats::pins::Hold;
use crate::layer::{LayerError, Outcome, Ticket, WriteStep};
use crate::units::{DiskRange, FileOffset, SECTOR};

/// A ticket is a number of the pins, and above all what was planned. From the low end: 2 bits for
/// the kind, 3 bits each for the sector within a block where an erasure starts and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    /// Bytes are replaced where they are.
    Overwrite,
    /// Blocks become data.
    Write,
    /// Blocks become zero.
    Erase,
}

const KIND_BITS: u64 = 2;
const EDGE_BITS: u64 = 3;
const PIN_SHIFT: u64 = KIND_BITS + 2 * EDGE_BITS;

/// The ticket of a request that pins nothing.
pub(super) fn read_ticket() -> Ticket {
    Ticket::new(Kind::Read as u64)
}

/// The part of a request's blocks that it takes whole, and where in the blocks around it it
/// starts and ends: 0 where at their edge.
fn edges(range: DiskRange, size: u64) -> (u64, u64) {
    let tail = if range.end() == size { 0 } else { range.end() % BLOCK / SECTOR };
    (range.start() % BLOCK / SECTOR, tail)
}

/// The bytes of a disk of `size` bytes in the first and the last of `blocks` that a request with
/// these edges covers in part only; both in one where that is the same block.
fn parts(blocks: &Range<u64>, (head, tail): (u64, u64), size: u64) -> [Option<Range<u64>>; 2] {
    let (first, last) = (blocks.start * BLOCK, blocks.end.saturating_sub(1) * BLOCK);
    let (head, tail) = (head * SECTOR, tail * SECTOR);
    let from_head = first + head..(first + BLOCK).min(size);
    match (head, tail) {
        (0, 0) => [None, None],
        (_, 0) => [Some(from_head), None],
        (_, _) if first == last => [Some(first + head..first + tail), None],
        (0, _) => [None, Some(last..last + tail)],
        _ => [Some(from_head), Some(last..last + tail)],
    }
}

/// The blocks that a request with these edges covers whole.
fn whole(blocks: &Range<u64>, (head, tail): (u64, u64)) -> Range<u64> {
    let (start, end) = (blocks.start + u64::from(head > 0), blocks.end - u64::from(tail > 0));
    start..end.max(start)
}

impl RuntimeLayer {
    fn ticket(pin: u64, kind: Kind, (head, tail): (u64, u64)) -> Ticket {
        let edges = head << KIND_BITS | tail << (KIND_BITS + EDGE_BITS);
        Ticket::new(pin << PIN_SHIFT | edges | kind as u64)
    }

    pub(super) fn plan_write(
        &self,
        range: DiskRange,
        out: &mut Vec<WriteStep>,
    ) -> Result<Ticket, LayerError> {
        self.require_within(range)?;
        let blocks = self.geometry.touched(range);
        let at = self.geometry.offset(range.start()).ok_or(LayerError::Gap { range })?;
        let store = WriteStep::Store { range, file: self.file, at };
        if self.blocks.are_data(blocks.clone())? {
            let pin = self.pins.try_hold(blocks.clone(), Hold::Shared).ok_or(LayerError::Busy)?;
            // Until then, another request may have taken the blocks away.
            match self.blocks.are_data(blocks.clone()) {
                Ok(true) => {
                    out.push(store);
                    return Ok(Self::ticket(pin, Kind::Overwrite, (0, 0)));
                }
                Ok(false) => drop(self.pins.release(pin)),
                Err(error) => {
                    self.pins.release(pin);
                    return Err(error.into());
                }
            }
        }
        let pin = self.begin_change(&blocks)?;
        let edges = edges(range, self.info.size);
        if let Err(error) = self.fill_around(&blocks, edges, out) {
            self.end_change(pin, blocks);
            return Err(error);
        }
        out.push(store);
        Ok(Self::ticket(pin, Kind::Write, edges))
    }

    pub(super) fn plan_erase(
        &self,
        range: DiskRange,
        out: &mut Vec<WriteStep>,
    ) -> Result<Ticket, LayerError> {
        self.require_within(range)?;
        let blocks = self.geometry.touched(range);
        let pin = self.begin_change(&blocks)?;
        let edges = edges(range, self.info.size);
        match self.plan_erase_held(&blocks, edges, out) {
            Ok(()) => Ok(Self::ticket(pin, Kind::Erase, edges)),
            Err(error) => {
                self.end_change(pin, blocks);
                Err(error)
            }
        }
    }

    fn plan_erase_held(
        &self,
        blocks: &Range<u64>,
        edges: (u64, u64),
        out: &mut Vec<WriteStep>,
    ) -> Result<(), LayerError> {
        let whole = whole(blocks, edges);
        // Before anything is taken away: if the machine stops in between, what is not written any
        // more must not be the parent's.
        self.blocks.mark_zero(whole.clone())?;
        let mut data: Option<Range<u64>> = None;
        self.blocks.runs(whole, |run, state| {
            if state == State::Data {
                let start = data.as_ref().map_or(run.start, |data| data.start);
                data = Some(start..run.end);
            }
        })?;
        if let Some(data) = data {
            let (at, len) = self.geometry.place(&data);
            let range = disk_range(&self.geometry.bytes(&data)).unwrap_or_default();
            let at = FileOffset::new(at).ok_or(LayerError::Gap { range })?;
            out.push(WriteStep::ZeroFill { file: self.file, at, len, unmap: true });
        }
        for part in parts(blocks, edges, self.info.size).into_iter().flatten() {
            let block = part.start / BLOCK;
            if self.blocks.state(block)? == State::Transparent && self.info.parent.is_some() {
                // Zeroed by `end`, when the rest of it is there.
                out.extend(self.copy_up(block));
            }
        }
        Ok(())
    }

    /// Sees to the bytes around a write in the blocks that it covers in part, where these are no
    /// data yet.
    fn fill_around(
        &self,
        blocks: &Range<u64>,
        edges: (u64, u64),
        out: &mut Vec<WriteStep>,
    ) -> Result<(), LayerError> {
        for part in parts(blocks, edges, self.info.size).into_iter().flatten() {
            let block = part.start / BLOCK;
            match self.blocks.state(block)? {
                State::Data => {}
                State::Transparent if self.info.parent.is_some() => out.extend(self.copy_up(block)),
                // A file system whose blocks are smaller would leave the rest a hole.
                State::Transparent | State::Zero => {
                    self.write_zeroes(&self.geometry.bytes(&(block..block + 1)))?;
                }
            }
        }
        Ok(())
    }

    fn copy_up(&self, block: u64) -> Option<WriteStep> {
        let bytes = self.geometry.bytes(&(block..block + 1));
        let at = self.geometry.offset(bytes.start)?;
        Some(WriteStep::CopyUp { range: disk_range(&bytes)?, file: self.file, at })
    }

    /// Writes zeroes to at most a block of the disk, as bytes: every other way would leave it
    /// unwritten.
    fn write_zeroes(&self, bytes: &Range<u64>) -> Result<(), FormatError> {
        let zeroes = [0; BLOCK_BYTES];
        let len = usize::try_from(bytes.end.saturating_sub(bytes.start)).unwrap_or(zeroes.len());
        let at = self.geometry.body() + bytes.start;
        let zeroes = zeroes.get(..len).unwrap_or(&zeroes);
        self.image.write_at(zeroes, at).map_err(FormatError::host("write", at))
    }

    /// Takes blocks for a request that changes their state.
    fn begin_change(&self, blocks: &Range<u64>) -> Result<u64, LayerError> {
        let pin = self.pins.try_hold(blocks.clone(), Hold::Exclusive).ok_or(LayerError::Busy)?;
        if let Err(error) = self.blocks.hold(blocks.clone()) {
            self.pins.release(pin);
            return Err(error.into());
        }
        Ok(pin)
    }

    /// Gives them back. States were published before.
    fn end_change(&self, pin: u64, blocks: Range<u64>) {
        self.blocks.let_go(blocks);
        self.pins.release(pin);
    }

    /// Redeems the ticket with this number.
    pub(super) fn end(&self, ticket: u64, how: Outcome) -> Result<(), LayerError> {
        let pin = ticket >> PIN_SHIFT;
        let field = |shift: u64, bits: u64| ticket >> shift & ((1 << bits) - 1);
        let edges = (field(KIND_BITS, EDGE_BITS), field(KIND_BITS + EDGE_BITS, EDGE_BITS));
        let kind = field(0, KIND_BITS);
        if kind == Kind::Read as u64 {
            return Ok(());
        }
        if kind == Kind::Overwrite as u64 {
            self.pins.release(pin);
            return Ok(());
        }
        let Some((blocks, _)) = self.pins.held(pin) else { return Ok(()) };
        let result = match (kind == Kind::Write as u64, how) {
            (true, Outcome::Done) => {
                self.blocks.now_data(blocks.clone());
                Ok(())
            }
            (true, Outcome::Abort) => self.abandon_write(&blocks),
            (false, Outcome::Done) => self.end_erase(&blocks, edges),
            (false, Outcome::Abort) => self.abandon_erase(&blocks, edges),
        };
        self.end_change(pin, blocks);
        Ok(result?)
    }

    /// Takes back what a failed write left in blocks that were no data.
    fn abandon_write(&self, blocks: &Range<u64>) -> Result<(), FormatError> {
        let mut left = Vec::new();
        self.blocks.runs(blocks.clone(), |run, state| {
            if state != State::Data {
                left.push(run);
            }
        })?;
        left.into_iter().map(|run| self.take_away(&run)).fold(Ok(()), Result::and)
    }

    /// Punches blocks that are not to be data. Those that the file keeps all the same are: an
    /// erasure must know of them.
    fn take_away(&self, blocks: &Range<u64>) -> Result<(), FormatError> {
        let (at, len) = self.geometry.place(blocks);
        let punched = self.image.punch(at, len).map_err(FormatError::host("punch", at));
        match punched {
            Ok(()) => self.blocks.now_empty(blocks.clone()),
            Err(_) => self.blocks.ask_again(blocks.clone())?,
        }
        punched
    }

    fn end_erase(&self, blocks: &Range<u64>, edges: (u64, u64)) -> Result<(), FormatError> {
        self.blocks.now_empty(whole(blocks, edges));
        let mut result = Ok(());
        for part in parts(blocks, edges, self.info.size).into_iter().flatten() {
            let block = part.start / BLOCK;
            match self.blocks.state(block)? {
                State::Data => {}
                // The copy has put it there, whatever becomes of its parts: what is not known to be
                // in the body would stay there when it is erased.
                State::Transparent if self.info.parent.is_some() => {
                    self.blocks.now_data(block..block + 1);
                }
                State::Zero | State::Transparent => continue,
            }
            result = result.and_then(|()| self.write_zeroes(&part));
        }
        result
    }

    /// After an erasure that failed, whole blocks are zero all the same if that can be had: what
    /// is in the body is not known any more. Blocks that were copied in part are given up again.
    fn abandon_erase(&self, blocks: &Range<u64>, edges: (u64, u64)) -> Result<(), FormatError> {
        let whole = whole(blocks, edges);
        let mut left = Vec::new();
        self.blocks.runs(blocks.clone(), |run, state| {
            let inside = run.start.max(whole.start)..run.end.min(whole.end);
            match state {
                State::Data if !inside.is_empty() => left.push(inside),
                State::Transparent => left.push(run),
                State::Data | State::Zero => {}
            }
        })?;
        left.into_iter().map(|run| self.take_away(&run)).fold(Ok(()), Result::and)
    }
}
