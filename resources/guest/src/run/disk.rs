//! The commands that use a disk.
#![forbid(unsafe_code)]

use super::{Guest, Stop};
use crate::machine::memory::{Dma, Pool};
use crate::pattern::{Checksum, Pattern, SECTOR, SECTOR_WORDS};
use crate::script::{DiskAction, RangeAction, SectorRange};
use crate::virtio::DeviceError;
use crate::virtio::blk::{Block, ID_LEN, Operation};
use crate::virtio::requests::{Requests, Transfer};

impl Guest<'_> {
    /// Does `action` with disk `index`.
    pub(super) fn disk(
        &mut self,
        index: u64,
        action: DiskAction,
        depth: u16,
        queues: u16,
    ) -> Result<(), Stop> {
        let name = match action {
            DiskAction::Range(RangeAction::Write { .. }) => "blk.write",
            DiskAction::Range(RangeAction::Verify { .. }) => "blk.verify",
            DiskAction::Range(RangeAction::VerifyZeroes(_)) => "blk.verify-zeroes",
            DiskAction::Range(RangeAction::Sum(_)) => "blk.sum",
            DiskAction::Discard(_) => "blk.discard",
            DiskAction::WriteZeroes(_) => "blk.zeroes",
            DiskAction::Flush => "blk.flush",
            DiskAction::Identify => "blk.id",
        };
        let mut disk = self.open(index).map_err(|error| self.device(name, error))?;
        let done = self.act(index, &mut disk, action, depth, queues);
        self.keep(index, disk);
        done.map_err(|error| self.device(name, error))
    }

    fn act(
        &mut self,
        index: u64,
        disk: &mut Block,
        action: DiskAction,
        depth: u16,
        queues: u16,
    ) -> Result<(), DeviceError> {
        let pool = &mut self.platform.pool;
        let transfer = |operation, range: SectorRange| {
            let SectorRange { sector, sectors } = range;
            Transfer { operation, sector, sectors, depth, queues }
        };
        let nothing = &mut |_: Dma, _: u64, _: u64| {};
        let fine = &mut |_: Dma, _: u64, _: u64| Ok(());
        match action {
            DiskAction::Range(action) => {
                let sum = range_action(index, disk, action, depth, queues, pool)?;
                if let Some(sum) = sum {
                    self.say(format_args!("blk.sum: disk {index}: {:016x}", sum.value()));
                }
                Ok(())
            }
            DiskAction::Discard(range) => {
                disk.transfer(transfer(Operation::Discard, range), pool, nothing, fine)
            }
            DiskAction::WriteZeroes(range) => {
                disk.transfer(transfer(Operation::WriteZeroes, range), pool, nothing, fine)
            }
            DiskAction::Flush => disk.transfer(single(Operation::Flush), pool, nothing, fine),
            DiskAction::Identify => {
                let mut id = [0; ID_LEN];
                let copy = &mut |data: Dma, _, _| {
                    (0..).zip(&mut id).for_each(|(at, byte)| *byte = data.read8(at));
                    Ok(())
                };
                disk.transfer(single(Operation::Identify), pool, nothing, copy)?;
                let text = id.split(|byte| *byte == 0).next().unwrap_or_default();
                let bytes = disk.capacity().saturating_mul(SECTOR);
                let text = text.escape_ascii();
                self.say(format_args!("blk.id: disk {index}: {bytes} bytes, serial \"{text}\""));
                Ok(())
            }
        }
    }

    /// Disk `index`, open: as an earlier command left it, or new.
    pub(super) fn open(&mut self, index: u64) -> Result<Block, DeviceError> {
        let kept = usize::try_from(index).ok().and_then(|index| *self.disks.get(index)?);
        match kept {
            Some(disk) => Ok(disk),
            None => Block::open(index, &mut self.platform),
        }
    }

    /// Keeps `disk` for later commands. [`Block`] is a copy of the driver's state, so what was
    /// done with it has to come back here.
    pub(super) fn keep(&mut self, index: u64, disk: Block) {
        let place = usize::try_from(index).ok().and_then(|index| self.disks.get_mut(index));
        if let Some(place) = place {
            *place = Some(disk);
        }
    }
}

/// Does something with a range of disk `index`, whatever kind of disk it is. Gives the checksum if
/// that is what was asked for.
pub(super) fn range_action<R: Requests>(
    index: u64,
    disk: &mut R,
    action: RangeAction,
    depth: u16,
    queues: u16,
    pool: &mut Pool,
) -> Result<Option<Checksum>, DeviceError> {
    let transfer = |operation, range: SectorRange| {
        let SectorRange { sector, sectors } = range;
        Transfer { operation, sector, sectors, depth, queues }
    };
    let nothing = &mut |_: Dma, _: u64, _: u64| {};
    match action {
        RangeAction::Write { range, seed } => {
            let pattern = Pattern { seed };
            let fill = &mut |data: Dma, first, count| fill(pattern, data, first, count);
            disk.transfer(transfer(R::WRITE, range), pool, fill, &mut |_, _, _| Ok(()))?;
        }
        RangeAction::Verify { range, seed } => {
            let pattern = Pattern { seed };
            let check = &mut |data: Dma, first, count| {
                verify(index, data, first, count, |sector| pattern.sector(sector))
            };
            disk.transfer(transfer(R::READ, range), pool, nothing, check)?;
        }
        RangeAction::VerifyZeroes(range) => {
            let zeroes = |_| (0..SECTOR_WORDS).map(|_| 0);
            let check = &mut |data: Dma, first, count| verify(index, data, first, count, zeroes);
            // Fresh memory is zeroes already: only the device may make these some.
            let taint =
                &mut |data: Dma, first, count| fill(Pattern { seed: 1 }, data, first, count);
            disk.transfer(transfer(R::READ, range), pool, taint, check)?;
        }
        RangeAction::Sum(range) => {
            let mut sum = Checksum::default();
            let add = &mut |data: Dma, first, count| {
                for sector in 0..count {
                    let word = |word| data.read64(sector * SECTOR + word * 8);
                    sum.add(first + sector, (0..SECTOR_WORDS).map(word));
                }
                Ok(())
            };
            disk.transfer(transfer(R::READ, range), pool, nothing, add)?;
            return Ok(Some(sum));
        }
    }
    Ok(None)
}

/// A request without a range.
fn single(operation: Operation) -> Transfer<Operation> {
    Transfer { operation, sector: 0, sectors: 1, depth: 1, queues: 1 }
}

/// Fills `count` sectors of `data` with a pattern, as those from `first` on.
pub(super) fn fill(pattern: Pattern, data: Dma, first: u64, count: u64) {
    for sector in 0..count {
        for (word, value) in (0..).zip(pattern.sector(first.wrapping_add(sector))) {
            data.write64(sector * SECTOR + word * 8, value);
        }
    }
}

/// Compares `count` sectors of `data`, those from `first` on, with the words that `expected` says.
pub(super) fn verify<W: Iterator<Item = u64>>(
    disk: u64,
    data: Dma,
    first: u64,
    count: u64,
    expected: impl Fn(u64) -> W,
) -> Result<(), DeviceError> {
    for sector in 0..count {
        for (word, expected) in (0..).zip(expected(first.wrapping_add(sector))) {
            let found = data.read64(sector * SECTOR + word * 8);
            if found != expected {
                let offset = (first.wrapping_add(sector)).wrapping_mul(SECTOR) + word * 8;
                return Err(DeviceError::Mismatch { disk, offset, expected, found });
            }
        }
    }
    Ok(())
}
