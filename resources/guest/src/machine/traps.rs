//! The interrupt table. Its gates are made at CPL 3, where that is fast.
#![expect(unsafe_code, reason = "the interrupt table and its handlers are assembler's")]

use core::cell::UnsafeCell;

/// Vector of the local APIC's timer.
pub const TIMER_VECTOR: u8 = 0x40;

/// Gates in the table: `entry.s` gives the processor this many.
const GATES: usize = TIMER_VECTOR as usize + 1;
/// Vector of the invalid-opcode exception.
const UNDEFINED_OPCODE: u8 = 6;
const CODE64: u64 = 0x10;
/// Present, 64-bit interrupt gate, for CPL 0 only (SDM 3, 7.14.1).
const GATE: u64 = 0x8E00;

/// The interrupt table in memory.
#[repr(C, align(4096))]
#[derive(Debug)]
pub struct InterruptTable(UnsafeCell<[[u64; 2]; GATES]>);

// SAFETY: a single processor runs this guest, and its handlers do not change the table.
unsafe impl Sync for InterruptTable {}

/// Addresses of the handlers in `traps.s`.
#[derive(Clone, Copy, Debug)]
pub struct Handlers {
    /// The 32 exception stubs, 16 bytes each.
    pub exceptions: u64,
    /// The handler of invalid opcodes, by which [`super::ring0`] calls.
    pub undefined_opcode: u64,
    /// The timer's.
    pub timer: u64,
}

impl InterruptTable {
    /// A table without gates: any interrupt is a triple fault.
    pub const fn new() -> InterruptTable {
        InterruptTable(UnsafeCell::new([[0; 2]; GATES]))
    }

    /// Makes the gates.
    pub fn install(&self, handlers: Handlers) {
        for vector in 0..32 {
            self.set(vector, handlers.exceptions + u64::from(vector) * 16);
        }
        self.set(UNDEFINED_OPCODE, handlers.undefined_opcode);
        self.set(TIMER_VECTOR, handlers.timer);
    }

    /// Takes all gates away again.
    pub fn clear(&self) {
        // SAFETY: the processor reads the table only on an interrupt, which does not happen here.
        unsafe { self.0.get().write_volatile([[0; 2]; GATES]) };
    }

    fn set(&self, vector: u8, handler: u64) {
        let low = handler & 0xFFFF | CODE64 << 16 | GATE << 32 | (handler >> 16 & 0xFFFF) << 48;
        // SAFETY: as in `clear`; the index is one of the constants above, below `GATES`.
        unsafe { (*self.0.get())[usize::from(vector)] = [low, handler >> 32] };
    }
}

impl Default for InterruptTable {
    fn default() -> InterruptTable {
        InterruptTable::new()
    }
}
