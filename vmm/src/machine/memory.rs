//! Guest RAM as KVM memory slots.
#![expect(unsafe_code, reason = "KVM_SET_USER_MEMORY_REGION takes a host address")]

use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use memshare::{GuestRam, Window};

use super::MachineError;
use super::layout;
use crate::spec::PmemMode;

/// Checks that a guest can have this much memory, whatever the host is.
pub(super) fn check_size(memory: u64) -> Result<(), MachineError> {
    if memory < layout::MEMORY_MIN {
        return Err(MachineError::MemoryTooSmall(memory));
    }
    if !memory.is_multiple_of(memshare::PAGE_SIZE) {
        return Err(MachineError::MemoryUneven(memory));
    }
    Ok(())
}

/// Gives the guest its RAM, one slot for each region.
pub(super) fn attach(vm: &VmFd, ram: &GuestRam) -> Result<(), MachineError> {
    for (slot, region) in (0u32..).zip(ram.regions()) {
        let slot = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start.0,
            memory_size: region.len,
            userspace_addr: region.host as u64,
        };
        // SAFETY: the region is memory that guests may read and write. It belongs to `ram`, which
        // the machine drops after its virtual CPUs have ended; no slots overlap.
        unsafe { vm.set_user_memory_region(slot) }
            .map_err(MachineError::kvm("KVM_SET_USER_MEMORY_REGION"))?;
    }
    Ok(())
}

/// Gives the guest window `number`, which `ram` has at `start`, in a slot behind those of RAM.
pub(super) fn attach_window(
    vm: &VmFd,
    ram: &GuestRam,
    number: usize,
    start: u64,
    window: &Window,
    mode: PmemMode,
) -> Result<(), MachineError> {
    let slot = u32::try_from(ram.regions().count().saturating_add(number)).unwrap_or(u32::MAX);
    let slot = kvm_userspace_memory_region {
        slot,
        flags: match mode {
            PmemMode::Shared => KVM_MEM_READONLY,
            PmemMode::Private => 0,
        },
        guest_phys_addr: start,
        memory_size: window.len(),
        userspace_addr: window.host() as u64,
    };
    // SAFETY: the window is memory that guests may use as its slot says. Its address space stays
    // in place, since it is part of `ram`, and no slots overlap.
    unsafe { vm.set_user_memory_region(slot) }
        .map_err(MachineError::kvm("KVM_SET_USER_MEMORY_REGION"))
}

/// End of the guest-physical addresses that are RAM.
pub(super) fn end(ram: &GuestRam) -> u64 {
    ram.regions().map(|region| region.start.0.saturating_add(region.len)).max().unwrap_or(0)
}
