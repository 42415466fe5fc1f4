//! UNMAP and WRITE SAME.

use super::{CHUNK, Scratch, Step, Steps, ask, flush};
use crate::scsi::sense::{self, Fault};
use crate::scsi::unit::{UNMAP_BLOCKS_MAX, UNMAP_DESCRIPTORS_MAX, Unit};
use crate::{Buffers, Operation};

/// Bytes of one request for zeroes: a file system that cannot make them has them written, which
/// is not to keep others waiting for long.
const ZEROES: u64 = 8 << 20;

/// A range to be zeroed, in bytes.
#[derive(Debug)]
struct Zeroes {
    start: u64,
    end: u64,
}

impl Zeroes {
    /// The next part of it.
    fn next(&mut self, unit: &Unit, unmap: bool) -> Option<Result<Step, Fault>> {
        let most = unit.disk.limits().max_write_zeroes.get().min(ZEROES).max(u64::from(unit.block));
        // Parts end where the host's units of allocation do.
        let aligned = (self.start / most + 1).saturating_mul(most);
        let (start, end) = (self.start, self.end.min(aligned));
        if start >= end {
            return None;
        }
        self.start = end;
        Some(ask(Operation::WriteZeroes { unmap }, start, end - start, Buffers::none()))
    }
}

/// UNMAP (SBC-3 5.28). Blocks that were unmapped read as zeroes (LBPRZ), so they are zeroed, and
/// their space goes back to the host where it can.
#[derive(Debug)]
pub(in crate::scsi) struct Unmap {
    /// The last one first.
    ranges: Vec<Zeroes>,
    durable: bool,
}

/// The ranges of an UNMAP parameter list, as LBA and number of blocks.
pub(in crate::scsi) fn unmap_list(unit: &Unit, list: &[u8]) -> Result<Vec<(u64, u64)>, Fault> {
    if list.is_empty() {
        return Ok(Vec::new());
    }
    let Some((header, descriptors)) = list.split_at_checked(8) else {
        return Err(sense::LIST_LENGTH.into());
    };
    // A descriptor that is not there as a whole is no error (SBC-3 5.28.2).
    let described = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let descriptors = &descriptors[..described.min(descriptors.len())];
    let descriptors = descriptors.chunks_exact(16);
    if descriptors.len() > usize::try_from(UNMAP_DESCRIPTORS_MAX).unwrap_or(usize::MAX) {
        return Err(Fault::list(2, None));
    }
    let mut ranges = Vec::new();
    let mut sum = 0;
    for descriptor in descriptors {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let (lba, count) = (number(&descriptor[..8]), number(&descriptor[8..12]));
        unit.check_range(lba, count)?;
        sum += count;
        if sum > u64::from(UNMAP_BLOCKS_MAX) {
            return Err(sense::INVALID_FIELD_IN_LIST.into());
        }
        if count > 0 {
            ranges.push((lba, count));
        }
    }
    Ok(ranges)
}

impl Unmap {
    pub(in crate::scsi) fn new(unit: &Unit, ranges: &[(u64, u64)], durable: bool) -> Unmap {
        let block = u64::from(unit.block);
        let zeroes =
            |&(lba, count): &(u64, u64)| Zeroes { start: lba * block, end: (lba + count) * block };
        Unmap { ranges: ranges.iter().rev().map(zeroes).collect(), durable }
    }
}

impl Steps for Unmap {
    fn next(&mut self, unit: &Unit) -> Result<Step, Fault> {
        while let Some(zeroes) = self.ranges.last_mut() {
            if let Some(step) = zeroes.next(unit, true) {
                return step;
            }
            self.ranges.pop();
        }
        Ok(if std::mem::take(&mut self.durable) { flush() } else { Step::Done })
    }
}

/// WRITE SAME (SBC-3 5.47).
#[derive(Debug)]
pub(in crate::scsi) struct WriteSame {
    left: Zeroes,
    /// The block, as often as it fits; none if it is all zero.
    pattern: Option<Scratch>,
    unmap: bool,
    durable: bool,
}

impl WriteSame {
    /// Writes `block` to `count` blocks from `lba`. Blocks of zeroes are unmapped where that is
    /// asked for, as they read as zeroes then; others never are (SBC-3 4.7.3.4.4).
    pub(in crate::scsi) fn new(
        unit: &Unit,
        (lba, count): (u64, u64),
        block: &[u8],
        unmap: bool,
        durable: bool,
    ) -> Result<WriteSame, Fault> {
        let size = u64::from(unit.block);
        let left = Zeroes { start: lba * size, end: (lba + count) * size };
        let zero = block.iter().all(|byte| *byte == 0);
        let pattern = match zero {
            true => None,
            false => {
                let len = (left.end - left.start).min(CHUNK / size * size);
                let mut scratch = Scratch::new(len);
                for part in scratch.bytes(len)?.chunks_exact_mut(block.len()) {
                    part.copy_from_slice(block);
                }
                Some(scratch)
            }
        };
        Ok(WriteSame { left, pattern, unmap, durable })
    }
}

impl Steps for WriteSame {
    fn next(&mut self, unit: &Unit) -> Result<Step, Fault> {
        let Some(pattern) = &self.pattern else {
            return match self.left.next(unit, self.unmap) {
                Some(step) => step,
                None if std::mem::take(&mut self.durable) => Ok(flush()),
                None => Ok(Step::Done),
            };
        };
        let (start, len) = (self.left.start, (self.left.end - self.left.start).min(CHUNK));
        if len == 0 {
            return Ok(if std::mem::take(&mut self.durable) { flush() } else { Step::Done });
        }
        self.left.start += len;
        ask(Operation::Write, start, len, pattern.lend(len))
    }
}
