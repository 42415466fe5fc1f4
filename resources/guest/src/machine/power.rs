//! Ends of the machine.

use super::{ports, ring0};

/// QEMU's `isa-debug-exit` is put here too; there `N` becomes the exit status `2 N + 1`.
const EXIT: u16 = 0xF4;
const PVPANIC: u16 = 0x505;
const PVPANIC_PANICKED: u8 = 1;
const PCI_ADDRESS: u16 = 0xCF8;
const PCI_DATA: u16 = 0xCFC;
const RESET_CONTROL: u16 = 0xCF9;
/// Reset the processor, and the platform with it.
const RESET_CONTROL_FULL: u8 = 0x06;
const I8042_COMMAND: u16 = 0x64;
const I8042_RESET: u8 = 0xFE;

/// Vendor and device of the host bridge of QEMU's q35 (Intel Q35 MCH).
const Q35: u32 = 0x29C0_8086;
/// q35: ACPI PM1a control register; sleep type of S5 is 0 there.
const Q35_PM1A_CONTROL: u16 = 0x604;
const PM1A_SLEEP_ENABLE: u16 = 1 << 13;
/// cohort: ACPI sleep control and reset registers.
const SLEEP_CONTROL: u16 = 0x600;
const SLEEP_TYPE_S5: u8 = 5;
const SLEEP_ENABLE: u8 = 1 << 5;
const RESET_REGISTER: u16 = 0x602;
const RESET_VALUE: u8 = 1;

/// Whether this is QEMU's q35, whose ACPI registers are in other places.
pub fn is_q35() -> bool {
    ports::write32(PCI_ADDRESS, 1 << 31);
    ports::read32(PCI_DATA) == Q35
}

/// Ends the guest with `status`. Returns only on a machine without an exit register.
pub fn exit(status: u8) {
    ports::write32(EXIT, u32::from(status));
    // QEMU lets the guest go on a little. Where there is no register, all ones are read.
    while ports::read32(EXIT) != u32::MAX {}
}

/// Switches the machine off.
pub fn off() -> ! {
    if is_q35() {
        ports::write16(Q35_PM1A_CONTROL, PM1A_SLEEP_ENABLE);
    } else {
        ports::write8(SLEEP_CONTROL, SLEEP_TYPE_S5 << 2 | SLEEP_ENABLE);
    }
    ring0::halt()
}

/// Resets the machine, trying one way after the other.
pub fn reset() -> ! {
    if !is_q35() {
        ports::write8(RESET_REGISTER, RESET_VALUE);
    }
    ports::write8(RESET_CONTROL, RESET_CONTROL_FULL);
    ports::write8(I8042_COMMAND, I8042_RESET);
    ring0::halt()
}

/// Reports a kernel panic and halts.
pub fn panicked() -> ! {
    ports::write8(PVPANIC, PVPANIC_PANICKED);
    ring0::halt()
}
