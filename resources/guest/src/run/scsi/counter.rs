//! Counters on disks: 64 bits, little-endian, at the start of a logical block. Guests that share
//! a disk count and wait by them.
#![forbid(unsafe_code)]

use super::Guest;
use crate::machine::clock;
use crate::machine::memory::Dma;
use crate::machine::sleep;
use crate::virtio::DeviceError;
use crate::virtio::scsi::Unit;
use crate::virtio::scsi::cdb::Cdb;
use crate::virtio::transport::PATIENCE;

/// Time between two looks at a counter.
const PAUSE_NANOSECONDS: u64 = 1_000_000;

/// A counter's block in memory, and one for what it shall become: what COMPARE AND WRITE takes.
struct Place {
    lba: u64,
    both: Dma,
    old: Dma,
    new: Dma,
}

impl Place {
    fn read(&self, unit: &mut Unit<'_>) -> Result<u64, DeviceError> {
        let cdb = Cdb::read(self.lba, 1);
        if unit.execute(&cdb, self.old)? < self.old.len() {
            return Err(DeviceError::Lacks("whole block to read"));
        }
        Ok(self.old.read64(0))
    }
}

impl Guest<'_> {
    /// Adds 1 to a counter `count` times, each time as one step that nobody can come between. With
    /// `own`, the same step counts in a word of the block that nobody else writes: it tells,
    /// where an answer was lost or the command carried out twice, whether it was done.
    pub(super) fn increment(
        &mut self,
        disk: u64,
        unit: &mut Unit<'_>,
        sector: u64,
        (count, own): (u64, Option<u64>),
    ) -> Result<(), DeviceError> {
        let mut tally = Tally::default();
        self.with_counter(unit, sector, |_, place, unit| {
            (0..count).try_for_each(|_| add_one(place, unit, own, &mut tally))
        })?;
        let Tally { retries, found } = tally;
        match own {
            Some(own) => self.say(format_args!(
                "caw: {count} increments as {own}, {retries} retries, {found} found done \
                 (disk {disk})"
            )),
            None => {
                self.say(format_args!("caw: {count} increments, {retries} retries (disk {disk})"))
            }
        }
        Ok(())
    }

    /// Prints a counter, which must be `expect`.
    pub(super) fn counter(
        &mut self,
        disk: u64,
        unit: &mut Unit<'_>,
        sector: u64,
        expect: Option<u64>,
    ) -> Result<(), DeviceError> {
        let value = self.with_counter(unit, sector, |_, place, unit| place.read(unit))?;
        self.say(format_args!("scsi.counter: disk {disk}: {value}"));
        match expect {
            Some(expected) if expected != value => Err(DeviceError::Counter { expected, value }),
            _ => Ok(()),
        }
    }

    /// Waits until a counter is `wanted` or more.
    pub(super) fn wait_counter(
        &mut self,
        disk: u64,
        unit: &mut Unit<'_>,
        sector: u64,
        wanted: u64,
        timeout: u64,
    ) -> Result<(), DeviceError> {
        let clock = self.any_clock().ok_or(DeviceError::Lacks("clock beside it"))?;
        let start = clock::now();
        let value = self.with_counter(unit, sector, |_, place, unit| {
            loop {
                let value = place.read(unit)?;
                if value >= wanted {
                    return Ok(value);
                }
                if clock.nanoseconds(clock::now().wrapping_sub(start)) > timeout {
                    return Err(DeviceError::Counter { expected: wanted, value });
                }
                sleep::sleep(clock, PAUSE_NANOSECONDS);
            }
        })?;
        self.say(format_args!("scsi.wait-counter: disk {disk}: {value}"));
        Ok(())
    }

    fn with_counter<T>(
        &mut self,
        unit: &mut Unit<'_>,
        sector: u64,
        act: impl FnOnce(&mut Self, &Place, &mut Unit<'_>) -> Result<T, DeviceError>,
    ) -> Result<T, DeviceError> {
        let (lba, len) = (unit.block(sector)?, u64::from(unit.capacity().block));
        let mark = self.platform.pool.mark();
        let both = self.platform.pool.take(2 * len, 4096).ok_or(DeviceError::Memory)?;
        let place = Place { lba, both, old: both.part(0, len), new: both.part(len, len) };
        let done = act(self, &place, unit);
        // A command that was never answered may still be under way.
        if done.as_ref().err().is_none_or(|error| error.is_answer()) {
            self.platform.pool.release(mark);
        }
        done
    }
}

/// How increments went.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// Commands that were sent again.
    retries: u64,
    /// Increments that were done although the command did not succeed.
    found: u64,
}

/// Reads a counter's block and writes it back with 1 added, if it is still the same on disk; again,
/// if it is not.
fn add_one(
    place: &Place,
    unit: &mut Unit<'_>,
    own: Option<u64>,
    tally: &mut Tally,
) -> Result<(), DeviceError> {
    let start = clock::now();
    let mut wanted = None;
    loop {
        let value = place.read(unit)?;
        for word in (0..place.old.len()).step_by(8) {
            place.new.write64(word, place.old.read64(word));
        }
        place.new.write64(0, value.wrapping_add(1));
        if let Some(word) = own {
            let mine = place.old.read64(8 * word);
            if wanted == Some(mine) {
                tally.found += 1;
                return Ok(());
            }
            wanted = Some(mine.wrapping_add(1));
            place.new.write64(8 * word, mine.wrapping_add(1));
        }
        let error = match unit.execute(&Cdb::compare_and_write(place.lba), place.both) {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        let DeviceError::Scsi(failure) = error else { return Err(error) };
        let again = failure.is_miscompare() || failure.is_lost() && own.is_some();
        // Others come first now and then, not all the time.
        if !again || clock::now().wrapping_sub(start) > PATIENCE {
            return Err(error);
        }
        tally.retries += 1;
    }
}
