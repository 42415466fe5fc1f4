//! What a hostile guest would do to its devices. Whatever that does to a device, after a reset it
//! must answer again; anything else is the error that a fuzz command ends with.
//!
//! Garbage keeps clear of one thing: ring and buffer addresses are outside memory or in memory
//! set aside for them, so that a device cannot be made to overwrite this guest itself.
#![forbid(unsafe_code)]

mod chains;
mod registers;

use core::fmt;

use super::blk::{Block, Operation};
use super::requests::{Requests, Transfer};
use super::transport::{self, Platform, Transport};
use super::{DeviceError, Kind};
use crate::machine::clock;
use crate::pci::Function;
use crate::script::Fuzz;

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
        Fuzz::Loop { disk } => {
            chains::loops(disk, platform)?;
            disk_answers(disk, platform, say, "loop")?;
        }
        Fuzz::Wild { disk } => {
            chains::wild(disk, platform)?;
            disk_answers(disk, platform, say, "wild")?;
        }
        Fuzz::Indirect { disk } => {
            chains::indirect(disk, platform)?;
            disk_answers(disk, platform, say, "indirect")?;
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

/// Sees that a disk can be started anew and reads its first sector.
fn disk_answers(
    disk: u64,
    platform: &mut Platform,
    say: Say<'_>,
    what: &str,
) -> Result<(), DeviceError> {
    let mut block = Block::open(disk, platform)?;
    let first = Transfer { operation: Operation::Read, sector: 0, sectors: 1, depth: 1, queues: 1 };
    block.transfer(first, &mut platform.pool, |_, _, _| {}, |_, _, _| Ok(()))?;
    block.transport().reset()?;
    say(format_args!("virtio.fuzz {what}: disk {disk} still answers"));
    Ok(())
}

/// The transport of disk `index`.
fn disk(index: u64, platform: &mut Platform) -> Result<Transport, DeviceError> {
    Transport::find(Kind::Block, index, platform)
}

/// Lets the device react.
fn react() {
    let start = clock::now();
    while clock::now().wrapping_sub(start) < REACTION {
        core::hint::spin_loop();
    }
}
