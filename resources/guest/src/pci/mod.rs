//! PCI: configuration space through ports 0xCF8 and 0xCFC, the functions on bus 0, their
//! memory.
#![forbid(unsafe_code)]

pub mod capability;

use crate::machine::memory::Pool;
use crate::machine::paging::PageTables;
use crate::machine::physical::Registers;
use crate::machine::ports;

const ADDRESS: u16 = 0xCF8;
const DATA: u16 = 0xCFC;
const ENABLE: u32 = 1 << 31;

const ID: u8 = 0x00;
const COMMAND: u8 = 0x04;
const COMMAND_MEMORY: u32 = 1 << 1;
const COMMAND_MASTER: u32 = 1 << 2;
const COMMAND_INTERRUPT_OFF: u32 = 1 << 10;
/// The status half of the command register clears bits that are written as ones.
const COMMAND_HALF: u32 = 0xFFFF;
const HEADER: u8 = 0x0C;
const MULTIFUNCTION: u32 = 1 << 23;
const BAR: u8 = 0x10;
const BAR_IO: u32 = 1;
const BAR_WIDTH: u32 = 0b110;
const BAR_64: u32 = 0b100;
const BAR_FLAGS: u32 = 0xF;
const SUBSYSTEM: u8 = 0x2C;

/// Where memory is assigned from when firmware assigned none: the upper half of cohort's window.
const WINDOW: core::ops::Range<u64> = 0xD000_0000..0xE000_0000;

/// One function on bus 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Device number in bits 3 to 7, function number in bits 0 to 2.
    pub number: u8,
    /// Vendor identifier.
    pub vendor: u16,
    /// Device identifier.
    pub device: u16,
}

impl Function {
    /// Reads the 32 bits at `offset`, which is rounded down to a multiple of 4.
    pub fn read(self, offset: u8) -> u32 {
        self.select(offset);
        ports::read32(DATA)
    }

    /// Writes the 32 bits at `offset`, which is rounded down to a multiple of 4.
    pub fn write(self, offset: u8, value: u32) {
        self.select(offset);
        ports::write32(DATA, value);
    }

    /// Writes one byte at `offset`.
    pub fn write8(self, offset: u8, value: u8) {
        self.select(offset);
        ports::write8(DATA + u16::from(offset & 3), value);
    }

    /// Writes 16 bits at `offset`, which is rounded down to a multiple of 2.
    pub fn write16(self, offset: u8, value: u16) {
        self.select(offset);
        ports::write16(DATA + u16::from(offset & 2), value);
    }

    fn select(self, offset: u8) {
        let function = u32::from(self.number) << 8;
        ports::write32(ADDRESS, ENABLE | function | u32::from(offset & !3));
    }

    /// The subsystem's identifier: transitional virtio devices have their type there.
    pub fn subsystem(self) -> u16 {
        upper(self.read(SUBSYSTEM))
    }

    /// Lets the function answer at its memory and reach ours, and sets its interrupt line off.
    pub fn enable(self) {
        let command = self.read(COMMAND) & COMMAND_HALF;
        let wanted = command | COMMAND_MEMORY | COMMAND_MASTER | COMMAND_INTERRUPT_OFF;
        if wanted != command {
            self.write(COMMAND, wanted);
        }
    }

    /// `len` bytes at `offset` of what base address register `bar` points to, mapped.
    pub fn memory(
        self,
        bar: u8,
        offset: u32,
        len: u32,
        window: &mut Window,
        (tables, pool): (&mut PageTables, &mut Pool),
    ) -> Option<Registers> {
        let (mut base, wide) = self.base(bar)?;
        if base == 0 {
            base = self.assign(BAR + 4 * bar, wide, window)?;
        }
        tables.map(base.checked_add(u64::from(offset))?, u64::from(len), pool)
    }

    /// Where base address register `bar` points to, and whether the next one is its upper half.
    /// `None` if it is not for memory.
    fn base(self, bar: u8) -> Option<(u64, bool)> {
        let register = BAR + 4 * bar;
        let low = self.read(register);
        if low & BAR_IO != 0 {
            return None;
        }
        let wide = low & BAR_WIDTH == BAR_64 && bar < 5;
        let high = if wide { self.read(register + 4) } else { 0 };
        Some((u64::from(high) << 32 | u64::from(low & !BAR_FLAGS), wide))
    }

    /// The memory that firmware gave the function: base address registers and where they point.
    pub fn bases(self) -> impl Iterator<Item = (u8, u64)> {
        let mut next = 0;
        (0..6).filter_map(move |bar| {
            if bar < next {
                return None;
            }
            let (base, wide) = self.base(bar)?;
            next = bar + if wide { 2 } else { 1 };
            (base != 0).then_some((bar, base))
        })
    }

    /// Gives a base address register a place in the window.
    fn assign(self, register: u8, wide: bool, window: &mut Window) -> Option<u64> {
        self.write(register, u32::MAX);
        let size = u64::from((!(self.read(register) & !BAR_FLAGS)).wrapping_add(1));
        let base = window.next.checked_next_multiple_of(size.max(1))?;
        window.next = base.checked_add(size).filter(|end| *end <= WINDOW.end && size != 0)?;
        self.write(register, u32::try_from(base).ok()?);
        if wide {
            self.write(register + 4, 0);
        }
        Some(base)
    }
}

/// What is left of the range that memory is assigned from.
#[derive(Debug)]
pub struct Window {
    next: u64,
}

impl Default for Window {
    fn default() -> Window {
        Window { next: WINDOW.start }
    }
}

/// The functions on bus 0, in the order of their numbers.
pub fn functions() -> impl Iterator<Item = Function> {
    (0..32u8).flat_map(|device| {
        let first = function(device << 3);
        let others = first.is_some_and(|first| first.read(HEADER) & MULTIFUNCTION != 0);
        let rest = if others { 1..8 } else { 1..1 };
        first.into_iter().chain(rest.filter_map(move |number| function(device << 3 | number)))
    })
}

fn function(number: u8) -> Option<Function> {
    let id = Function { number, vendor: 0, device: 0 }.read(ID);
    let vendor = (id & 0xFFFF) as u16;
    (vendor != 0xFFFF).then(|| Function { number, vendor, device: upper(id) })
}

fn upper(word: u32) -> u16 {
    (word >> 16) as u16
}
