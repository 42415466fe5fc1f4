use vm_memory::{Bytes, GuestAddress};

use super::long::{DESCRIPTORS, set_mode, write_tables};
use super::*;
use crate::machine::layout::{GDT, PAGE_TABLES};

/// Walks the page tables as a processor would.
fn translate(memory: &GuestMemory, address: u64) -> Option<u64> {
    let mut table = PAGE_TABLES.0;
    for shift in [39, 30, 21, 12] {
        let index = (address >> shift) & 511;
        let entry: u64 = memory.read_obj(GuestAddress(table + index * 8)).expect("in RAM");
        if entry & 1 == 0 {
            return None;
        }
        let frame = entry & 0x000F_FFFF_FFFF_F000;
        if entry & (1 << 7) != 0 {
            let mask = (1 << shift) - 1;
            return Some((frame & !mask) | (address & mask));
        }
        table = frame;
    }
    None
}

#[test]
fn long_mode_maps_four_gigabytes_to_themselves() {
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 2 << 20)]).expect("memory");
    write_tables(&memory).expect("room");
    for address in [0, 0x1000, 0x10_0000, 0x7FFF_FFFF, 0xC000_0000, 0xFEE0_0000, 0xFFFF_FFFF] {
        assert_eq!(translate(&memory, address), Some(address));
    }
    assert_eq!(translate(&memory, 1 << 32), None);
    assert_eq!(translate(&memory, 1 << 39), None);
}

#[test]
fn tables_stay_in_their_place() {
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 2 << 20)]).expect("memory");
    write_tables(&memory).expect("room");
    let end = PAGE_TABLES.0 + 6 * 4096;
    for (from, to) in [(0, GDT.0), (GDT.0 + 48, PAGE_TABLES.0), (end, end + 4096)] {
        let mut bytes = vec![0; usize::try_from(to - from).expect("small")];
        memory.read_slice(&mut bytes, GuestAddress(from)).expect("in RAM");
        assert!(bytes.iter().all(|byte| *byte == 0), "{from:#x} to {to:#x}");
    }
}

/// The hidden parts of segment registers and the table must agree: a guest that reloads a
/// selector gets the same segment.
#[test]
fn descriptors_describe_the_segments() {
    let mut sregs = kvm_sregs::default();
    set_mode(&mut sregs);
    for segment in [sregs.cs, sregs.ds, sregs.ss] {
        let descriptor = DESCRIPTORS[usize::from(segment.selector / 8)];
        let field = |shift: u32, bits: u32| {
            u8::try_from((descriptor >> shift) & ((1 << bits) - 1)).expect("narrow")
        };
        assert_eq!(
            [
                segment.type_,
                segment.s,
                segment.dpl,
                segment.present,
                segment.l,
                segment.db,
                segment.g
            ],
            [
                field(40, 4),
                field(44, 1),
                field(45, 2),
                field(47, 1),
                field(53, 1),
                field(54, 1),
                field(55, 1)
            ],
        );
    }
    assert_eq!(sregs.gdt.limit, 47);
}

#[test]
fn local_interrupts_are_nmi_and_nothing() {
    let mut lapic = kvm_lapic_state::default();
    set_local_interrupts(&mut lapic);
    assert_eq!(lapic.regs[0x350..0x354], [0, 0, 1, 0]);
    assert_eq!(lapic.regs[0x360..0x364], [0, 4, 0, 0]);
}
