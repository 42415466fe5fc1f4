//! Waiting without using the host's processor.
#![expect(unsafe_code, reason = "the local APIC is reached by its address")]

use super::clock::{self, Clock};
use super::physical::Registers;
use super::{ports, ring0, traps};

/// Where every processor finds its own local APIC, and how long its registers are.
const LOCAL_APIC: u64 = 0xFEE0_0000;
const LOCAL_APIC_LEN: u64 = 0x1000;
const VERSION: u64 = 0x30;
const SPURIOUS: u64 = 0xF0;
const SPURIOUS_ENABLE: u32 = 1 << 8;
const LVT_TIMER: u64 = 0x320;
const INITIAL_COUNT: u64 = 0x380;
const DIVIDE: u64 = 0x3E0;
const DIVIDE_BY_1: u32 = 0b1011;
/// Interrupt masks of the two 8259 interrupt controllers.
const PIC_MASKS: [u16; 2] = [0x21, 0xA1];
/// Timer counts of one wait at most. They are nanoseconds with KVM and QEMU; where they are not,
/// the counter tells and the wait is repeated.
const SLICE: u64 = 1_000_000_000;

/// Waits for `nanoseconds`: halted until the local APIC's timer fires, or, in a machine without
/// one, busily.
pub fn sleep(clock: Clock, nanoseconds: u64) {
    let start = clock::now();
    // SAFETY: mapped by the tables of `entry.s`; these registers write no memory.
    let apic = unsafe { Registers::new(LOCAL_APIC, LOCAL_APIC_LEN) };
    let halting = !matches!(apic.read32(VERSION), 0 | u32::MAX);
    if halting {
        apic.write32(SPURIOUS, SPURIOUS_ENABLE | u32::from(traps::TIMER_VECTOR));
        // Firmware may have left a timer ticking through the 8259s.
        PIC_MASKS.into_iter().for_each(|mask| ports::write8(mask, 0xFF));
        apic.write32(LVT_TIMER, u32::from(traps::TIMER_VECTOR));
        apic.write32(DIVIDE, DIVIDE_BY_1);
    }
    loop {
        let elapsed = clock.nanoseconds(clock::now().wrapping_sub(start));
        let Some(left) = nanoseconds.checked_sub(elapsed).filter(|left| *left > 0) else { break };
        if halting {
            let count = u32::try_from(left.min(SLICE)).unwrap_or(u32::MAX);
            apic.write32(INITIAL_COUNT, count);
            ring0::wait_for_interrupt();
        } else {
            core::hint::spin_loop();
        }
    }
}
