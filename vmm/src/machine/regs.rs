//! The state in which processors start.
//!
//! The boot processor starts as the boot protocol says; the others wait for the start-up
//! interrupt that the guest sends them, as KVM arranges by itself.

mod long;
#[cfg(test)]
mod tests;

use kvm_bindings::{
    Msrs, kvm_fpu, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs,
};
use kvm_ioctls::VcpuFd;
use memshare::GuestMemory;

use super::MachineError;
use crate::kernel::Entry;

/// Bits of CR0, CR4 and EFER (Intel SDM, volume 3, 2.5 and 2.2.1).
mod bits {
    pub(super) const CR0_PE: u64 = 1 << 0;
    pub(super) const CR0_ET: u64 = 1 << 4;
    pub(super) const CR0_PG: u64 = 1 << 31;
    pub(super) const CR4_PAE: u64 = 1 << 5;
    pub(super) const EFER_LME: u64 = 1 << 8;
    pub(super) const EFER_LMA: u64 = 1 << 10;
    /// The bit of RFLAGS that is always one.
    pub(super) const RFLAGS_FIXED: u64 = 1 << 1;
}

const MSR_IA32_MISC_ENABLE: u32 = 0x1A0;
const MSR_MTRR_DEF_TYPE: u32 = 0x2FF;
/// Fast string operations are on.
const MISC_ENABLE_FAST_STRING: u64 = 1;
/// Memory type range registers on, everything write-back: what a firmware would leave behind.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;

/// Selectors of the flat segments, as Linux's boot protocol numbers them.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TSS_SELECTOR: u16 = 0x20;

/// Segment types (Intel SDM, volume 3, 3.4.5.1 and 3.5).
const TYPE_CODE: u8 = 0xB;
const TYPE_DATA: u8 = 0x3;
const TYPE_TSS_BUSY: u8 = 0xB;

/// Entries of the local vector table and their bits (Intel SDM, volume 3,
/// 12.5.1).
const LAPIC_LINT0: usize = 0x350;
const LAPIC_LINT1: usize = 0x360;
const LVT_NMI: u32 = 4 << 8;
const LVT_MASKED: u32 = 1 << 16;

/// Puts a processor in the state that firmware would leave it in.
pub(super) fn set_defaults(vcpu: &VcpuFd) -> Result<(), MachineError> {
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    let entries = [
        entry(MSR_MTRR_DEF_TYPE, MTRR_WRITE_BACK),
        entry(MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
    ];
    // Two entries are far below the limit that makes this fail.
    if let Ok(msrs) = Msrs::from_entries(&entries) {
        // KVM answers how many it set. Guests run without them, so a host whose KVM refuses one
        // is no reason to stop.
        let set = vcpu.set_msrs(&msrs).map_err(MachineError::kvm("KVM_SET_MSRS"))?;
        if set < entries.len() {
            tracing::debug!(msr = entries[set].index, "the host's KVM refuses a register");
        }
    }
    Ok(())
}

/// Makes the boot processor start at the kernel's entry, as its boot protocol says.
pub(super) fn set_entry(
    vcpu: &VcpuFd,
    memory: &GuestMemory,
    entry: Entry,
) -> Result<(), MachineError> {
    let mut sregs = vcpu.get_sregs().map_err(MachineError::kvm("KVM_GET_SREGS"))?;
    let regs = match entry {
        // 32-bit protected mode without paging (Xen, `docs/misc/pvh.pandoc`).
        Entry::Pvh { rip, start_info } => {
            set_protected_mode(&mut sregs);
            kvm_regs { rip, rbx: start_info.0, rflags: bits::RFLAGS_FIXED, ..Default::default() }
        }
        // Long mode, memory identity-mapped (Linux, `Documentation/arch/x86/boot.rst`).
        Entry::Long { rip, boot_params } => {
            long::write_tables(memory)?;
            long::set_mode(&mut sregs);
            kvm_regs { rip, rsi: boot_params.0, rflags: bits::RFLAGS_FIXED, ..Default::default() }
        }
    };
    vcpu.set_sregs(&sregs).map_err(MachineError::kvm("KVM_SET_SREGS"))?;
    vcpu.set_regs(&regs).map_err(MachineError::kvm("KVM_SET_REGS"))?;
    // All exceptions masked, 64-bit precision, empty.
    let fpu = kvm_fpu { fcw: 0x37F, mxcsr: 0x1F80, ..Default::default() };
    vcpu.set_fpu(&fpu).map_err(MachineError::kvm("KVM_SET_FPU"))?;
    let mut lapic = vcpu.get_lapic().map_err(MachineError::kvm("KVM_GET_LAPIC"))?;
    set_local_interrupts(&mut lapic);
    vcpu.set_lapic(&lapic).map_err(MachineError::kvm("KVM_SET_LAPIC"))
}

/// LINT0 is where a PC connects its 8259 controllers: there are none, so it is masked. LINT1
/// carries NMIs.
fn set_local_interrupts(lapic: &mut kvm_lapic_state) {
    for (offset, value) in [(LAPIC_LINT0, LVT_MASKED), (LAPIC_LINT1, LVT_NMI)] {
        // The register page is an array of C's `char`.
        for (register, byte) in lapic.regs[offset..offset + 4].iter_mut().zip(value.to_le_bytes()) {
            *register = byte.cast_signed();
        }
    }
}

/// 32-bit protected mode, flat segments, no paging.
fn set_protected_mode(sregs: &mut kvm_sregs) {
    sregs.cs = kvm_segment { db: 1, ..segment(CODE_SELECTOR, TYPE_CODE) };
    set_data_segments(sregs);
    sregs.cr0 = bits::CR0_PE | bits::CR0_ET;
    sregs.cr3 = 0;
    sregs.cr4 = 0;
    sregs.efer = 0;
}

fn set_data_segments(sregs: &mut kvm_sregs) {
    let data = kvm_segment { db: 1, ..segment(DATA_SELECTOR, TYPE_DATA) };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment { s: 0, g: 0, limit: 0x67, ..segment(TSS_SELECTOR, TYPE_TSS_BUSY) };
}

/// A present segment over all of the address space.
fn segment(selector: u16, type_: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}
