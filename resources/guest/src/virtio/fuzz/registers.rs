//! Garbage in registers: of devices, doorbells, configuration space.
#![forbid(unsafe_code)]
#![expect(clippy::cast_possible_truncation, reason = "garbage of every width")]

use super::react;
use crate::machine::physical::Registers;
use crate::machine::ports;
use crate::pattern::Random;
use crate::pci::Function;
use crate::virtio::DeviceError;
use crate::virtio::transport::{F_EVENT_IDX, Platform, Transport, common};

/// What garbage often is not by chance.
const INTERESTING: [u64; 8] =
    [0, 1, 0x7F, 0x80, 0xFFFF, 0x8000_0000, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF];
/// Doorbells looked at one by one; the structure may be far larger.
const DOORBELLS: u64 = 256;

const CONFIG_PORTS: u16 = 0xCFC;
const CONFIG_ADDRESS: u16 = 0xCF8;
const CONFIG_DWORDS: u8 = 64;
const CONFIG_COMMAND: u8 = 4;

/// Every register of a device in every width, then `count` random accesses.
pub(super) fn device(
    transport: &Transport,
    seed: u64,
    count: u64,
    platform: &mut Platform,
) -> Result<(), DeviceError> {
    let mut random = Random::new(seed);
    let scratch = platform.pool.take(64 << 10, 4096).ok_or(DeviceError::Memory)?;
    let empty = transport.common;
    let regions = [
        (transport.common, true),
        (transport.isr, false),
        (transport.notify, false),
        (transport.device.unwrap_or(empty), transport.device.is_none()),
    ];
    for (registers, is_common) in regions {
        for offset in 0..registers.len().min(DOORBELLS) {
            for width in [1, 2, 4, 8] {
                access(registers, is_common, offset, width, scratch.address(), &mut random);
            }
        }
    }
    transport.reset()?;
    for _ in 0..count {
        let pick = random.below(regions.len() as u64) as usize;
        let Some((registers, is_common)) = regions.get(pick).copied() else { continue };
        let offset = random.below(registers.len().min(4096));
        let width = 1 << random.below(4);
        access(registers, is_common, offset, width, scratch.address(), &mut random);
    }
    Ok(())
}

/// Reads or writes one register, in a width that may not be its own.
fn access(
    registers: Registers,
    is_common: bool,
    offset: u64,
    width: u64,
    scratch: u64,
    random: &mut Random,
) {
    let mut value = match random.below(2) {
        0 => random.number(),
        _ => INTERESTING.get(random.below(8) as usize).copied().unwrap_or(0),
    };
    // Ring addresses: outside memory, or in the memory set aside.
    if is_common && offset + width > common::QUEUE_DESC && offset < common::QUEUE_DEVICE + 8 {
        let upper = offset % 8 >= 4;
        value = match (width, random.below(2)) {
            (4.., 0) if offset.is_multiple_of(4) => {
                if upper {
                    0
                } else {
                    scratch
                }
            }
            _ => u64::MAX,
        };
    }
    if random.below(2) == 0 {
        match width {
            1 => registers.write8(offset, value as u8),
            2 => registers.write16(offset, value as u16),
            4 => registers.write32(offset, value as u32),
            _ => registers.write64(offset, value),
        }
    } else {
        match width {
            1 => drop(registers.read8(offset)),
            2 => drop(registers.read16(offset)),
            4 => drop(registers.read32(offset)),
            _ => drop(registers.read64(offset)),
        }
    }
}

/// Notifications for queues that do not exist, in every state of the device.
pub(super) fn doorbells(transport: &Transport, platform: &mut Platform) -> Result<(), DeviceError> {
    let ring = || {
        for offset in (0..transport.notify.len().min(DOORBELLS)).step_by(2) {
            for queue in [0, 1, 63, 64, 1023, 0x7FFF, 0xFFFF] {
                transport.notify.write16(offset, queue);
            }
        }
        react();
    };
    transport.reset()?;
    ring();
    let features = transport.negotiate(F_EVENT_IDX)?;
    ring();
    transport.queue(0, 4, features, &mut platform.pool)?;
    transport.start();
    ring();
    Ok(())
}

/// `count` random accesses to configuration space, then everything as it was.
pub(super) fn configuration_space(function: Function, seed: u64, count: u64) {
    let mut random = Random::new(seed);
    let mut saved = [0; CONFIG_DWORDS as usize];
    (0..).step_by(4).zip(&mut saved).for_each(|(at, word)| *word = function.read(at));
    for _ in 0..count {
        let (offset, value) = (random.number() as u8, random.number() as u32);
        match random.below(7) {
            0 => function.write8(offset, value as u8),
            1 => function.write16(offset, value as u16),
            2 => function.write(offset, value),
            3 => drop(function.read(offset)),
            // Accesses that the data ports do not line up with.
            4 => ports::write32(CONFIG_PORTS + random.below(4) as u16, value),
            5 => ports::write16(CONFIG_PORTS + random.below(4) as u16, value as u16),
            // Other buses and functions, and the mechanism switched off. Reads only: the machine
            // has other devices than this one.
            _ => {
                ports::write32(CONFIG_ADDRESS, value);
                let _ = ports::read32(CONFIG_PORTS);
            }
        }
    }
    // Where the memory is before the function answers there.
    for (at, word) in (0..).step_by(4).zip(saved) {
        if at != CONFIG_COMMAND {
            function.write(at, word);
        }
    }
    let command = saved.get(1).copied().unwrap_or(0) & 0xFFFF;
    function.write(CONFIG_COMMAND, command);
}
