//! Guest RAM and windows as KVM memory slots.
#![expect(unsafe_code, reason = "KVM_SET_USER_MEMORY_REGION takes a host address")]

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

/// Whatever keeps a slot's memory mapped in this process.
pub(super) type Owner = Arc<dyn Any + Send + Sync>;

/// The memory slots of a machine: which numbers are taken, and what keeps their memory mapped.
/// Every slot is set and removed here.
pub(super) struct Slots {
    vm: Arc<VmFd>,
    taken: Mutex<BTreeMap<u32, Option<Owner>>>,
}

/// What a slot shows the guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlotMemory {
    /// First guest-physical address, at a page.
    pub(super) start: u64,
    /// Bytes, whole pages.
    pub(super) len: u64,
    /// Where they are in this process.
    pub(super) host: *mut u8,
    /// Writes of virtual CPUs do not reach the memory: each is an exit to this process.
    pub(super) read_only: bool,
}

impl Slots {
    /// No slot of `vm` is taken.
    pub(super) fn new(vm: Arc<VmFd>) -> Arc<Slots> {
        Arc::new(Slots { vm, taken: Mutex::default() })
    }

    /// Shows `memory` to the guest; returns the number of its slot, the lowest that is free.
    /// `owner` is kept for as long as the slot is there.
    ///
    /// # Errors
    /// What KVM answers, such as `EEXIST` for addresses that another slot has.
    ///
    /// # Safety
    /// `memory` is mapped, and nothing but guest memory, for as long as `owner` is, or without
    /// one for as long as virtual CPUs run. Rust references into it do not exist.
    pub(super) unsafe fn add(&self, memory: SlotMemory, owner: Option<Owner>) -> io::Result<u32> {
        let mut taken = self.lock();
        let free = (0..).zip(taken.keys()).find(|(free, number)| free != *number);
        let number = free.map_or_else(|| u32::try_from(taken.len()).unwrap_or(u32::MAX), |f| f.0);
        // SAFETY: as the caller promises. No slots overlap: KVM refuses that.
        unsafe { set(&self.vm, number, memory)? };
        taken.insert(number, owner);
        Ok(number)
    }

    /// Takes a slot away; its addresses are nothing then. Nothing happens to a slot that is free.
    pub(super) fn remove(&self, number: u32) -> io::Result<()> {
        let mut taken = self.lock();
        if taken.contains_key(&number) {
            let nothing =
                SlotMemory { start: 0, len: 0, host: std::ptr::null_mut(), read_only: false };
            // SAFETY: no memory is shown to the guest.
            unsafe { set(&self.vm, number, nothing)? };
            taken.remove(&number);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Option<Owner>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slots {
    /// Virtual CPUs may still hold the virtual machine.
    fn drop(&mut self) {
        let numbers: Vec<u32> = self.lock().keys().copied().collect();
        for number in numbers {
            if let Err(error) = self.remove(number) {
                tracing::error!(%error, number, "cannot remove a memory slot");
                // Its memory must not become something else.
                std::mem::forget(self.lock().remove(&number));
            }
        }
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").field("taken", &self.lock().keys()).finish_non_exhaustive()
    }
}

/// Sets or, without length, removes a slot.
///
/// # Safety
/// As for [`Slots::add`].
unsafe fn set(vm: &VmFd, number: u32, memory: SlotMemory) -> io::Result<()> {
    let slot = kvm_userspace_memory_region {
        slot: number,
        flags: if memory.read_only { KVM_MEM_READONLY } else { 0 },
        guest_phys_addr: memory.start,
        memory_size: memory.len,
        userspace_addr: memory.host as u64,
    };
    // SAFETY: as the caller promises.
    Ok(unsafe { vm.set_user_memory_region(slot) }?)
}

/// Gives the guest its RAM, one slot for each region.
pub(super) fn attach(slots: &Slots, ram: &GuestRam) -> Result<(), MachineError> {
    for region in ram.regions() {
        let memory = SlotMemory {
            start: region.start.0,
            len: region.len,
            host: region.host,
            read_only: false,
        };
        // SAFETY: the region is memory that guests may read and write. It belongs to `ram`, which
        // the machine drops after its virtual CPUs have ended.
        unsafe { slots.add(memory, None) }
            .map_err(|source| MachineError::Kvm { step: "KVM_SET_USER_MEMORY_REGION", source })?;
    }
    Ok(())
}

/// Gives the guest a window, which `ram` has at `start`.
pub(super) fn attach_window(
    slots: &Slots,
    start: u64,
    window: &Arc<Window>,
    mode: PmemMode,
) -> Result<(), MachineError> {
    let memory = SlotMemory {
        start,
        len: window.len(),
        host: window.host(),
        read_only: mode == PmemMode::Shared,
    };
    let owner: Owner = window.clone();
    // SAFETY: the window is memory that guests may use as its slot says. Its address space stays
    // in place for as long as its owner, and to none of it are there Rust references.
    unsafe { slots.add(memory, Some(owner)) }
        .map_err(|source| MachineError::Kvm { step: "KVM_SET_USER_MEMORY_REGION", source })?;
    Ok(())
}

/// End of the guest-physical addresses that are RAM.
pub(super) fn end(ram: &GuestRam) -> u64 {
    ram.regions().map(|region| region.start.0.saturating_add(region.len)).max().unwrap_or(0)
}
