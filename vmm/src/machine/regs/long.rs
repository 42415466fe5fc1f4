//! Long mode from the first instruction: descriptor table and page tables in guest memory.

use kvm_bindings::{kvm_dtable, kvm_segment, kvm_sregs};
use memshare::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

use super::{CODE_SELECTOR, TYPE_CODE, bits, segment, set_data_segments};
use crate::machine::MachineError;
use crate::machine::layout::{GDT, PAGE_TABLES};

/// Descriptors by selector / 8: none, none, 64-bit code, flat data, and the two halves of a task
/// state segment that no guest looks at.
pub(super) const DESCRIPTORS: [u64; 6] =
    [0, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x0000_8B00_0000_0067, 0];

/// Offset of the table's last byte.
const DESCRIPTORS_LIMIT: u16 = 6 * 8 - 1;

const TABLE_SIZE: u64 = 4096;
const ENTRIES: u64 = 512;
const LARGE_PAGE: u64 = 2 << 20;
const GIGABYTES: u64 = 4;

/// Bits of a page table entry: present, writable, large page.
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;

/// Writes the descriptor table, and page tables that map the first 4 GiB to themselves.
pub(super) fn write_tables(memory: &GuestMemory) -> Result<(), MachineError> {
    write(memory, "the descriptor table", GDT, &DESCRIPTORS)?;
    let pdpt = PAGE_TABLES.0 + TABLE_SIZE;
    let directory = |gigabyte| pdpt + TABLE_SIZE * (1 + gigabyte);
    write(memory, "page tables", PAGE_TABLES, &[pdpt | PRESENT | WRITABLE])?;
    let directories: Vec<u64> =
        (0..GIGABYTES).map(|gigabyte| directory(gigabyte) | PRESENT | WRITABLE).collect();
    write(memory, "page tables", GuestAddress(pdpt), &directories)?;
    let pages: Vec<u64> = (0..GIGABYTES * ENTRIES)
        .map(|page| (page * LARGE_PAGE) | PRESENT | WRITABLE | LARGE)
        .collect();
    write(memory, "page tables", GuestAddress(directory(0)), &pages)
}

/// Long mode on those tables.
pub(super) fn set_mode(sregs: &mut kvm_sregs) {
    sregs.cs = kvm_segment { l: 1, ..segment(CODE_SELECTOR, TYPE_CODE) };
    set_data_segments(sregs);
    sregs.gdt = kvm_dtable { base: GDT.0, limit: DESCRIPTORS_LIMIT, ..Default::default() };
    sregs.idt = kvm_dtable::default();
    sregs.cr0 = bits::CR0_PE | bits::CR0_ET | bits::CR0_PG;
    sregs.cr3 = PAGE_TABLES.0;
    sregs.cr4 = bits::CR4_PAE;
    sregs.efer = bits::EFER_LME | bits::EFER_LMA;
}

fn write(
    memory: &GuestMemory,
    what: &'static str,
    at: GuestAddress,
    words: &[u64],
) -> Result<(), MachineError> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    memory.write_slice(&bytes, at).map_err(|source| MachineError::Write { what, source })
}
