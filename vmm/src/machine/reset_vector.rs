//! The one piece of firmware that the machine has: what is executed where a PC's firmware begins.
//!
//! A Linux kernel on a hardware-reduced ACPI machine takes EFI for the way to reset it. When there
//! is no EFI, it goes on in real mode at F000:FFF0, where a PC's firmware would start again. What
//! it finds there is a write to the reset register.

use memshare::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

use super::MachineError;
use super::layout::{PORT_RESET, RESET_VALUE};

/// F000:FFF0. The last 16 bytes below 1 MiB, among what the guest is told is reserved.
pub(super) const AT: GuestAddress = GuestAddress(0xF_FFF0);

const CODE: [u8; 9] = {
    let [low, high] = PORT_RESET.to_le_bytes();
    // mov dx, PORT_RESET; mov al, RESET_VALUE; out dx, al; hlt; jmp to hlt
    [0xBA, low, high, 0xB0, RESET_VALUE, 0xEE, 0xF4, 0xEB, 0xFD]
};

/// Puts the code in its place.
pub(super) fn write(memory: &GuestMemory) -> Result<(), MachineError> {
    memory
        .write_slice(&CODE, AT)
        .map_err(|source| MachineError::Write { what: "the reset vector", source })
}
