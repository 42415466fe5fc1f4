//! Parameters of the PVH entry: `hvm_start_info` version 1, its module and memory map behind it in
//! one page.

use std::ops::Range;

use linux_loader::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use super::Boot;
use super::error::KernelError;
use crate::machine::layout;

const PAGE: usize = 4096;
const MODULE: u64 = layout::PVH_START_INFO.0 + size_of::<hvm_start_info>() as u64;
const MEMORY_MAP: u64 = MODULE + size_of::<hvm_modlist_entry>() as u64;
const RANGES_MAX: usize = (PAGE - size_of::<hvm_start_info>() - size_of::<hvm_modlist_entry>())
    / size_of::<hvm_memmap_table_entry>();

/// Writes start info, module list and memory map; gives the start info's address.
pub(super) fn write(
    boot: &Boot<'_>,
    initrd: Option<Range<u64>>,
) -> Result<GuestAddress, KernelError> {
    let ranges = boot.memory_map.len();
    let memmap_entries = u32::try_from(ranges).ok().filter(|_| ranges <= RANGES_MAX);
    let Some(memmap_entries) = memmap_entries else {
        return Err(KernelError::MemoryMap { ranges, max: RANGES_MAX });
    };
    let start_info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: 1,
        nr_modules: initrd.is_some().into(),
        modlist_paddr: if initrd.is_some() { MODULE } else { 0 },
        cmdline_paddr: layout::CMDLINE.0,
        rsdp_paddr: boot.rsdp.0,
        memmap_paddr: MEMORY_MAP,
        memmap_entries,
        ..Default::default()
    };
    let module = initrd.map_or_else(Default::default, |range| hvm_modlist_entry {
        paddr: range.start,
        size: range.end - range.start,
        ..Default::default()
    });
    let map = boot.memory_map.iter().map(|range| hvm_memmap_table_entry {
        addr: range.start,
        size: range.len,
        type_: range.kind.number(),
        reserved: 0,
    });
    let memory = boot.ram.memory().memory();
    let fail = |source| KernelError::Parameters { what: "PVH start info", source };
    let write = || {
        memory.write_obj(start_info, layout::PVH_START_INFO)?;
        memory.write_obj(module, GuestAddress(MODULE))?;
        let entry_len = size_of::<hvm_memmap_table_entry>() as u64;
        for (at, entry) in (0..).zip(map) {
            memory.write_obj(entry, GuestAddress(MEMORY_MAP + at * entry_len))?;
        }
        Ok(())
    };
    write().map_err(fail)?;
    Ok(layout::PVH_START_INFO)
}
