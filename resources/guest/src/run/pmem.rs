//! The commands that use persistent memory.
#![forbid(unsafe_code)]

use super::disk::{fill, verify};
use super::{Guest, Hex, PAGE, Stop};
use crate::machine::clock;
use crate::machine::memory::Dma;
use crate::pattern::{Checksum, Pattern, SECTOR, SECTOR_WORDS};
use crate::script::{Pmem, PmemAction, SectorRange};
use crate::virtio::blk::Operation;
use crate::virtio::requests::Requests;
use crate::virtio::transport::PATIENCE;
use crate::virtio::{DeviceError, pmem};

/// Bytes that `pmem.read` shows.
const SHOWN: usize = 16;
/// Free memory that a benchmark leaves alone.
const SPARE: u64 = 1 << 20;

impl Guest<'_> {
    /// Does something with persistent memory.
    pub(super) fn pmem(&mut self, what: Pmem) -> Result<(), Stop> {
        let name = what.action.name();
        if let PmemAction::Bench { nanoseconds } = what.action {
            return self.bench_pmem(what.index, nanoseconds);
        }
        self.act_on_pmem(what).map_err(|error| self.device(name, error))
    }

    fn act_on_pmem(&mut self, Pmem { index, action }: Pmem) -> Result<(), DeviceError> {
        let name = action.name();
        if action == PmemAction::Flush {
            return pmem::flush(index, &mut self.platform);
        }
        let memory = pmem::memory(index, &mut self.platform)?;
        match action {
            PmemAction::Sum(range) => {
                let all = SectorRange { sector: 0, sectors: memory.len() / SECTOR };
                let range = range.unwrap_or(all);
                let sum = sum(part(memory, range)?, range.sector, range.sectors);
                self.say(format_args!("{name}: pmem {index}: {:016x}", sum.value()));
            }
            PmemAction::Read(range) => {
                let data = part(memory, range)?;
                data.scan();
                let mut first = [0; SHOWN];
                (0..).zip(&mut first).for_each(|(at, byte)| *byte = data.read8(at));
                self.say(format_args!(
                    "{name}: pmem {index}: {} bytes: {}",
                    data.len(),
                    Hex(&first)
                ));
            }
            PmemAction::Write { range, seed, expect_fault } => {
                let data = part(memory, range)?;
                let pattern = Pattern { seed };
                if expect_fault {
                    refused(index, data, range, pattern)?;
                    self.say(format_args!("{name}: pmem {index}: refused, all reads as before"));
                } else {
                    fill(pattern, data, range.sector, range.sectors);
                    verify(index, data, range.sector, range.sectors, |n| pattern.sector(n))
                        .map_err(in_memory)?;
                    self.say(format_args!("{name}: pmem {index}: {} bytes", data.len()));
                }
            }
            PmemAction::ReadFrom { disk, range, at } => {
                let to = SectorRange { sector: at, sectors: range.sectors };
                let data = part(memory, to)?;
                self.read_into(disk, range.sector, data)?;
                let sum = sum(data, range.sector, range.sectors);
                let sum = sum.value();
                self.say(format_args!("{name}: disk {disk}: pmem {index}: {sum:016x}"));
            }
            PmemAction::Flush | PmemAction::Bench { .. } => {}
        }
        Ok(())
    }

    /// Lets disk `index` put what is at `sector` into `data`, one request at a time.
    fn read_into(&mut self, index: u64, mut sector: u64, data: Dma) -> Result<(), DeviceError> {
        let mut disk = self.open(index)?;
        let limit = disk.limit(Operation::Read)? * SECTOR;
        let mut done = 0;
        while done < data.len() {
            let piece = data.part(done, limit);
            disk.prepare(0, 0, Operation::Read, piece);
            disk.submit(0, 0, sector);
            disk.kick(0);
            let start = clock::now();
            while disk.poll(0, Operation::Read)?.is_none() {
                core::hint::spin_loop();
                if clock::now().wrapping_sub(start) > PATIENCE {
                    return Err(disk.transport().silence("read"));
                }
            }
            done += piece.len();
            sector += piece.len() / SECTOR;
        }
        self.keep(index, disk);
        Ok(())
    }

    /// Reads all of a device's memory again and again, and then as much of the guest's own, and
    /// prints one line of `key=value`s.
    fn bench_pmem(&mut self, index: u64, nanoseconds: u64) -> Result<(), Stop> {
        const NAME: &str = "bench.pmem";
        let clock = self.clock()?;
        let memory = pmem::memory(index, &mut self.platform);
        let memory = memory.map_err(|error| self.device(NAME, error))?;
        let pass = |memory: Dma| {
            let start = clock::now();
            memory.scan();
            clock.nanoseconds(clock::now().wrapping_sub(start)).max(1)
        };
        let passes = |memory: Dma| {
            let (mut count, mut spent) = (0u64, 0);
            while spent < nanoseconds || count == 0 {
                spent += pass(memory);
                count += 1;
            }
            rate(count.saturating_mul(memory.len()), spent)
        };
        let size = memory.len();
        let first = rate(size, pass(memory));
        let again = passes(memory);
        let pool = &mut self.platform.pool;
        let mark = pool.mark();
        let own_size = size.min(pool.left().saturating_sub(SPARE) / PAGE * PAGE);
        let own = pool.take(own_size, PAGE).filter(|own| own.len() > 0);
        let own = own.ok_or_else(|| self.device(NAME, DeviceError::Memory))?;
        (0..own_size / PAGE).for_each(|page| own.write64(page * PAGE, page));
        pass(own);
        let own_rate = passes(own);
        self.platform.pool.release(mark);
        self.say(format_args!(
            "{NAME}: pmem={index} size={size} first={first} again={again} memory_size={own_size} \
             memory={own_rate}"
        ));
        Ok(())
    }
}

fn rate(bytes: u64, nanoseconds: u64) -> u128 {
    u128::from(bytes) * 1_000_000_000 / u128::from(nanoseconds.max(1))
}

/// A range of the device's memory.
fn part(memory: Dma, range: SectorRange) -> Result<Dma, DeviceError> {
    let bytes = |sectors: u64| sectors.checked_mul(SECTOR);
    let (at, len) = (bytes(range.sector), bytes(range.sectors));
    let inside =
        |(at, len): &(u64, u64)| at.checked_add(*len).is_some_and(|end| end <= memory.len());
    let (at, len) = at.zip(len).filter(inside).ok_or(DeviceError::Lacks("memory at this range"))?;
    Ok(memory.part(at, len))
}

/// The checksum of `count` sectors of `data`, those from `first` on.
fn sum(data: Dma, first: u64, count: u64) -> Checksum {
    let mut sum = Checksum::default();
    for sector in 0..count {
        let word = |word| data.read64(sector * SECTOR + word * 8);
        sum.add(first + sector, (0..SECTOR_WORDS).map(word));
    }
    sum
}

/// Writes a pattern, and sees that the memory keeps what it has.
fn refused(index: u64, data: Dma, range: SectorRange, pattern: Pattern) -> Result<(), DeviceError> {
    for sector in 0..range.sectors {
        let at = sector * SECTOR;
        // `SECTOR_WORDS` of them.
        let mut before = [0; 64];
        (0..).zip(&mut before).for_each(|(word, old)| *old = data.read64(at + word * 8));
        let piece = data.part(at, SECTOR);
        fill(pattern, piece, range.sector + sector, 1);
        verify(index, piece, range.sector + sector, 1, |_| before.into_iter())
            .map_err(in_memory)?;
    }
    Ok(())
}

/// The same mistake, found in memory and not on a disk.
fn in_memory(error: DeviceError) -> DeviceError {
    match error {
        DeviceError::Mismatch { disk: pmem, offset, expected, found } => {
            DeviceError::MemoryMismatch { pmem, offset, expected, found }
        }
        other => other,
    }
}
