//! What a hostile guest would do to its devices. Whatever that does to a device, after a reset it
//! must answer again; anything else is the error that a fuzz command ends with.
//!
//! Garbage keeps clear of one thing: ring and buffer addresses are outside memory or in memory
//! set aside for them, so that a device cannot be made to overwrite this guest itself.
#![forbid(unsafe_code)]

mod chains;
mod headers;
mod registers;

use core::fmt;

use super::blk::Block;
use super::requests::{Requests, Transfer};
use super::scsi::{self, ADAPTERS_MAX, Adapters};
use super::transport::{self, Platform, Transport};
use super::{DeviceError, Kind};
use crate::machine::clock;
use crate::pci::Function;
use crate::script::{Bus, Fuzz};

/// Counts of the time-stamp counter that a device gets to react to something malformed: it may
/// well not answer at all.
const REACTION: u64 = 5_000_000;

/// Prints a line.
pub type Say<'s> = &'s mut dyn FnMut(fmt::Arguments<'_>);

/// Runs one fuzz command.
pub fn run(fuzz: Fuzz, platform: &mut Platform, say: Say<'_>) -> Result<(), DeviceError> {
    let mark = platform.pool.mark();
    match fuzz {
        Fuzz::Registers { seed, count } => {
            each_device(platform, say, "registers", |_, transport, platform| {
                registers::device(transport, seed, count, platform)
            })?;
        }
        Fuzz::Config { seed, count } => {
            each_device(platform, say, "config", |function, _, _| {
                registers::configuration_space(function, seed, count);
                Ok(())
            })?;
        }
        Fuzz::Kick => each_device(platform, say, "kick", |_, transport, platform| {
            registers::doorbells(transport, platform)
        })?,
        Fuzz::Loop { on, disk } => {
            chains::loops(target(on, disk, platform)?, platform)?;
            disk_answers(on, disk, platform, say, "loop")?;
        }
        Fuzz::Wild { on, disk } => {
            chains::wild(target(on, disk, platform)?, platform)?;
            disk_answers(on, disk, platform, say, "wild")?;
        }
        Fuzz::Indirect { on, disk } => {
            chains::indirect(target(on, disk, platform)?, platform)?;
            disk_answers(on, disk, platform, say, "indirect")?;
        }
        Fuzz::Headers { on, disk, seed, count } => {
            let target = target(on, disk, platform)?;
            headers::requests(target, seed, count, platform)?;
            if on == Bus::Scsi {
                headers::task_management(target, seed, count, platform)?;
            }
            disk_answers(on, disk, platform, say, "headers")?;
        }
    }
    // All devices are reset: the memory is nobody's.
    platform.pool.release(mark);
    Ok(())
}

/// Does something to every virtio device, and sees that it answers afterwards.
fn each_device(
    platform: &mut Platform,
    say: Say<'_>,
    what: &str,
    act: impl Fn(Function, &Transport, &mut Platform) -> Result<(), DeviceError>,
) -> Result<(), DeviceError> {
    for function in transport::functions(None) {
        let transport = Transport::new(function, platform)?;
        act(function, &transport, platform)?;
        answers(&transport)?;
        let (device, id) = (function.number >> 3, function.device);
        say(format_args!("virtio.fuzz {what}: device {device} (1af4:{id:04x}) still answers"));
    }
    Ok(())
}

/// Sees that a device can be reset and agrees on features.
fn answers(transport: &Transport) -> Result<(), DeviceError> {
    transport.negotiate(0)?;
    transport.reset()
}

/// The disk under test.
#[derive(Clone, Copy)]
struct Target {
    on: Bus,
    transport: Transport,
    /// Which logical unit of the device it is.
    lun: u16,
}

/// Disk `index`, counted as its other commands count.
fn target(on: Bus, index: u64, platform: &mut Platform) -> Result<Target, DeviceError> {
    let (transport, lun) = match on {
        Bus::Blk => (Transport::find(Kind::Block, index, platform)?, 0),
        Bus::Scsi => {
            let mut adapters = [None; ADAPTERS_MAX];
            let unit = scsi::unit(index, &mut adapters, platform)?;
            let found = (unit.adapter.transport, unit.lun());
            reset(&adapters)?;
            found
        }
    };
    Ok(Target { on, transport, lun })
}

/// Sees that a disk can be started anew and reads its first sectors.
fn disk_answers(
    on: Bus,
    disk: u64,
    platform: &mut Platform,
    say: Say<'_>,
    what: &str,
) -> Result<(), DeviceError> {
    match on {
        Bus::Blk => {
            let mut block = Block::open(disk, platform)?;
            read_first(&mut block, platform)?;
            block.transport().reset()?;
        }
        Bus::Scsi => {
            let mut adapters = [None; ADAPTERS_MAX];
            read_first(&mut scsi::unit(disk, &mut adapters, platform)?, platform)?;
            reset(&adapters)?;
        }
    }
    say(format_args!("virtio.fuzz {what}: disk {disk} still answers"));
    Ok(())
}

fn read_first<R: Requests>(disk: &mut R, platform: &mut Platform) -> Result<(), DeviceError> {
    let (operation, sectors) = (R::READ, disk.granule());
    let first = Transfer { operation, sector: 0, sectors, depth: 1, queues: 1 };
    disk.transfer(first, &mut platform.pool, &mut |_, _, _| {}, &mut |_, _, _| Ok(()))
}

/// Ends what was agreed with the devices that were started.
fn reset(adapters: &Adapters) -> Result<(), DeviceError> {
    adapters.iter().flatten().try_for_each(|adapter| adapter.transport.reset())
}

/// Lets the device react.
fn react() {
    let start = clock::now();
    while clock::now().wrapping_sub(start) < REACTION {
        core::hint::spin_loop();
    }
}
