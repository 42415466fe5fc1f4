//! The commands that use a logical unit.
#![forbid(unsafe_code)]

mod counter;
mod reservations;

use super::disk::{fill, range_action};
use super::{Guest, Hex, Stop};
use crate::machine::memory::Dma;
use crate::pattern::{Pattern, SECTOR};
use crate::script::{Command, Script, Scsi, ScsiAction, SectorRange};
use crate::status;
use crate::virtio::DeviceError;
use crate::virtio::requests::{Requests, Transfer};
use crate::virtio::scsi::cdb::{Cdb, unmap_list};
use crate::virtio::scsi::pages::{self, Capacity};
use crate::virtio::scsi::{self, ADAPTERS_MAX, Attention, Operation, Unit};

/// Bytes of a VPD page that are looked at.
const PAGE_LEN: u8 = 252;

impl Guest<'_> {
    /// Does something with logical unit `index`, whose device is kept started for later commands.
    pub(super) fn unit<T>(
        &mut self,
        index: u64,
        act: impl FnOnce(&mut Self, &mut Unit<'_>) -> Result<T, DeviceError>,
    ) -> Result<T, DeviceError> {
        let mut adapters = core::mem::replace(&mut self.adapters, [None; ADAPTERS_MAX]);
        let unit = scsi::unit(index, &mut adapters, &mut self.platform);
        let done = unit.and_then(|mut unit| act(self, &mut unit));
        self.adapters = adapters;
        done
    }

    /// Runs one command.
    pub(super) fn scsi(&mut self, command: Scsi) -> Result<(), DeviceError> {
        let report = command.report_attention;
        self.unit(command.disk, |guest, unit| {
            unit.adapter.attention = if report { Attention::Report } else { Attention::Retry };
            let done = guest.scsi_action(command, unit);
            unit.adapter.attention = Attention::Retry;
            done
        })
    }

    /// Runs commands, each of which must end with RESERVATION CONFLICT.
    pub(super) fn expect_conflict(&mut self, body: Script<'_>) -> Result<(), Stop> {
        for command in body.flatten() {
            // The script was checked: there is nothing else.
            let Command::Scsi(scsi) = command else { continue };
            let name = scsi.action.name();
            let why = match self.scsi(scsi) {
                Err(DeviceError::Scsi(failure)) if failure.is_conflict() => continue,
                Err(DeviceError::Scsi(failure)) => Some(failure),
                Err(error) => return Err(self.device(name, error)),
                Ok(()) => None,
            };
            let expected = "expect-conflict: no RESERVATION CONFLICT, but";
            return Err(match why {
                Some(failure) => {
                    let line = format_args!("{expected} {name}: {failure}");
                    self.fail(status::VERIFY_MISMATCH, line)
                }
                None => {
                    let line = format_args!("{expected} {name} succeeded");
                    self.fail(status::VERIFY_MISMATCH, line)
                }
            });
        }
        Ok(())
    }

    fn scsi_action(&mut self, command: Scsi, unit: &mut Unit<'_>) -> Result<(), DeviceError> {
        let Scsi { disk, action, depth, queues, .. } = command;
        match action {
            ScsiAction::Range(action) => {
                let pool = &mut self.platform.pool;
                if let Some(sum) = range_action(disk, unit, action, depth, queues, pool)? {
                    self.say(format_args!("scsi.sum: disk {disk}: {:016x}", sum.value()));
                }
                Ok(())
            }
            ScsiAction::Unmap(range) => self.unmap(range, unit),
            ScsiAction::Flush => {
                unit.write(&Cdb::synchronize_cache(), &[], &mut self.platform.pool)
            }
            ScsiAction::Identify => self.identify(disk, unit),
            ScsiAction::Increment { sector, count, own } => {
                self.increment(disk, unit, sector, (count, own))
            }
            ScsiAction::Counter { sector, expect } => self.counter(disk, unit, sector, expect),
            ScsiAction::WaitCounter { sector, value, timeout } => {
                self.wait_counter(disk, unit, sector, value, timeout)
            }
            ScsiAction::WriteUntilConflict { range, seed } => {
                self.write_until_conflict(command, range, seed, unit)
            }
            ScsiAction::Reserve(out) => {
                unit.write(&out.cdb(), &out.parameters(), &mut self.platform.pool)
            }
            ScsiAction::Keys => self.keys(unit),
            ScsiAction::Reservation => self.reservation(unit),
            ScsiAction::ReserveUnit => unit.write(&Cdb::reserve(), &[], &mut self.platform.pool),
            ScsiAction::ReleaseUnit => unit.write(&Cdb::release(), &[], &mut self.platform.pool),
            ScsiAction::Reset => unit.reset(),
        }
    }

    fn unmap(&mut self, range: SectorRange, unit: &mut Unit<'_>) -> Result<(), DeviceError> {
        let SectorRange { sector, sectors } = range;
        let (mut first, end) = (unit.block(sector)?, unit.block(sector.saturating_add(sectors))?);
        let mut data = [0; PAGE_LEN as usize];
        let limit = match self.page(pages::BLOCK_LIMITS, &mut data, unit)? {
            Some(page) => pages::unmap_limit(page),
            // Without the page nothing limits it.
            None => u32::MAX,
        };
        if limit == 0 {
            return Err(DeviceError::Lacks("unmap (MAXIMUM UNMAP LBA COUNT is 0)"));
        }
        while first < end {
            let count = u32::try_from(end - first).unwrap_or(u32::MAX).min(limit);
            let list = unmap_list(first, count);
            unit.write(&Cdb::unmap(first), &list, &mut self.platform.pool)?;
            first += u64::from(count);
        }
        Ok(())
    }

    fn identify(&mut self, disk: u64, unit: &mut Unit<'_>) -> Result<(), DeviceError> {
        let (mut serial, mut names) = ([0; PAGE_LEN as usize], [0; PAGE_LEN as usize]);
        let serial = self.page(pages::UNIT_SERIAL_NUMBER, &mut serial, unit)?.unwrap_or_default();
        let serial = serial.trim_ascii().escape_ascii();
        let names = self.page(pages::DEVICE_IDENTIFICATION, &mut names, unit)?;
        let naa = Hex(names.and_then(pages::naa).unwrap_or_default());
        let Capacity { block, .. } = unit.capacity();
        let bytes = Requests::capacity(unit).saturating_mul(SECTOR);
        let lun = unit.lun();
        self.say(format_args!(
            "scsi.id: disk {disk}: {bytes} bytes, LUN {lun}, block {block}, serial \"{serial}\", \
             NAA \"{naa}\""
        ));
        Ok(())
    }

    /// A VPD page; `None` if the logical unit does not have it.
    fn page<'d>(
        &mut self,
        number: u8,
        data: &'d mut [u8],
        unit: &mut Unit<'_>,
    ) -> Result<Option<&'d [u8]>, DeviceError> {
        let inquiry = Cdb::inquiry_page(number, PAGE_LEN);
        match unit.read(&inquiry, data, &mut self.platform.pool) {
            Ok(data) => Ok(pages::page(number, data)),
            Err(DeviceError::Scsi(failure)) if failure.is_illegal() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a range again and again until that is forbidden; counts the requests. Commands that are aborted on the
    /// way are not the end: who aborts forbids, too.
    fn write_until_conflict(
        &mut self,
        command: Scsi,
        range: SectorRange,
        seed: u64,
        unit: &mut Unit<'_>,
    ) -> Result<(), DeviceError> {
        let Scsi { disk, depth, queues, .. } = command;
        let SectorRange { sector, sectors } = range;
        let write = Transfer { operation: Operation::Write, sector, sectors, depth, queues };
        let mut fill = |data: Dma, first, count| fill(Pattern { seed }, data, first, count);
        let (mut writes, mut aborted) = (0u64, 0u64);
        let mut count = |_: Dma, _: u64, _: u64| {
            writes += 1;
            Ok(())
        };
        loop {
            match unit.transfer(write, &mut self.platform.pool, &mut fill, &mut count) {
                Ok(()) => {}
                Err(DeviceError::Scsi(failure)) if failure.is_aborted() => aborted += 1,
                Err(DeviceError::Scsi(failure)) if failure.is_conflict() => break,
                Err(error) => return Err(error),
            }
        }
        self.say(format_args!(
            "scsi.write-until-conflict: disk {disk}: {writes} writes acknowledged, \
             commands aborted {aborted} times"
        ));
        Ok(())
    }
}
