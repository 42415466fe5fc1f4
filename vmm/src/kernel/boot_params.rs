//! Parameters of Linux's 64-bit entry: `boot_params`, the zero page.

use std::ops::Range;

use linux_loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestAddressSpace};

use super::Boot;
use super::bzimage;
use super::error::KernelError;
use crate::machine::layout;

/// Loader type for loaders without a number of their own.
const LOADER_UNDEFINED: u8 = 0xff;
const LOADED_HIGH: u8 = 1;
const CAN_USE_HEAP: u8 = 0x80;

/// Writes the zero page; gives its address. `header` is the setup header of a bzImage; a vmlinux
/// has none and gets the fields that Linux reads.
pub(super) fn write(
    boot: &Boot<'_>,
    header: Option<&[u8]>,
    initrd: Option<Range<u64>>,
) -> Result<GuestAddress, KernelError> {
    let params = build(boot, header, initrd)?;
    let memory = boot.ram.memory().memory();
    memory.write_obj(params, layout::ZERO_PAGE).map_err(|source| KernelError::Parameters {
        what: "boot parameters",
        source: source.into(),
    })?;
    Ok(layout::ZERO_PAGE)
}

fn build(
    boot: &Boot<'_>,
    header: Option<&[u8]>,
    initrd: Option<Range<u64>>,
) -> Result<boot_params, KernelError> {
    let mut params = boot_params::default();
    match header {
        Some(header) => {
            let at = bzimage::HEADER;
            let len = header.len().min(bzimage::HEADER_END_MAX - at);
            params.as_mut_slice()[at..at + len].copy_from_slice(&header[..len]);
        }
        None => {
            params.hdr.boot_flag = bzimage::BOOT_FLAG;
            params.hdr.header = u32::from_le_bytes(bzimage::MAGIC);
            params.hdr.loadflags = LOADED_HIGH;
            params.hdr.cmdline_size = boot.cmdline.len().try_into().unwrap_or(u32::MAX);
        }
    }
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.loadflags &= !CAN_USE_HEAP;
    // Both addresses are below 2 GiB, and so is the initrd's length.
    let low = |address: u64| u32::try_from(address).unwrap_or(u32::MAX);
    params.hdr.cmd_line_ptr = low(layout::CMDLINE.0);
    if let Some(initrd) = initrd {
        params.hdr.ramdisk_image = low(initrd.start);
        params.hdr.ramdisk_size = low(initrd.end - initrd.start);
    }
    params.acpi_rsdp_addr = boot.rsdp.0;
    let (ranges, max) = (boot.memory_map.len(), params.e820_table.len());
    params.e820_entries = u8::try_from(ranges)
        .ok()
        .filter(|_| ranges <= max)
        .ok_or(KernelError::MemoryMap { ranges, max })?;
    // The table is packed, so it is filled as a copy.
    let mut table = params.e820_table;
    for (entry, range) in table.iter_mut().zip(boot.memory_map) {
        *entry =
            boot_e820_entry { addr: range.start, size: range.len, r#type: range.kind.number() };
    }
    params.e820_table = table;
    Ok(params)
}
