//! I/O ports. The task state's I/O bitmap opens 0 to 0xFFF to CPL 3.
#![expect(unsafe_code, reason = "port instructions exist only in assembler")]

use core::arch::asm;

/// Reads a byte.
pub fn read8(port: u16) -> u8 {
    let value;
    // SAFETY: no device of this machine changes memory when a port is read.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack)) };
    value
}

/// Reads 32 bits.
pub fn read32(port: u16) -> u32 {
    let value;
    // SAFETY: as for `read8`.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack)) };
    value
}

/// Writes a byte.
pub fn write8(port: u16, value: u8) {
    // SAFETY: no device of this machine does DMA on a write to a port; virtio's are in memory.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) };
}

/// Writes 16 bits.
pub fn write16(port: u16, value: u16) {
    // SAFETY: as for `write8`.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack)) };
}

/// Writes 32 bits.
pub fn write32(port: u16, value: u32) {
    // SAFETY: as for `write8`.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack)) };
}
