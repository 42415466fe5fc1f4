use proptest::prelude::*;

use super::*;
use crate::kernel::fixtures::{
    CODE, CODE_LEN, CODE_VIRTUAL, DATA, ElfFile, PVH_ENTRY, file, memory, pvh_note,
};

fn parse(bytes: &[u8]) -> Result<Elf, ElfError> {
    let (_dir, path) = file(bytes);
    Elf::parse(&Content::open(&path).unwrap())
}

fn changed(change: impl FnOnce(&mut ElfFile)) -> Result<Elf, ElfError> {
    let mut elf = ElfFile::new();
    change(&mut elf);
    parse(&elf.build())
}

#[test]
fn the_pvh_entry_is_preferred() {
    assert_eq!(changed(|_| {}).unwrap().entry, EntryPoint::Pvh(PVH_ENTRY));
    let short = changed(|elf| {
        elf.note = pvh_note(&(PVH_ENTRY as u32).to_le_bytes());
        elf.program_headers[2].p_filesz = elf.note.len() as u64;
    });
    assert_eq!(short.unwrap().entry, EntryPoint::Pvh(PVH_ENTRY));
}

#[test]
fn a_64_bit_entry_may_be_physical_or_virtual() {
    for entry in [CODE + 0x200, CODE_VIRTUAL + 0x200] {
        let mut elf = ElfFile::without_note();
        elf.header.e_entry = entry;
        assert_eq!(parse(&elf.build()).unwrap().entry, EntryPoint::Long(CODE + 0x200));
    }
}

#[test]
fn an_entry_outside_executable_segments_is_refused() {
    // Address 0 is in the data segment by its virtual address, as in Linux's per-CPU segment.
    for entry in [0, DATA, CODE + CODE_LEN as u64, u64::MAX] {
        let mut elf = ElfFile::without_note();
        elf.header.e_entry = entry;
        assert!(matches!(parse(&elf.build()), Err(ElfError::Entry { protocol: "64-bit", .. })));
        let pvh = changed(|elf| elf.note = pvh_note(&entry.to_le_bytes()));
        assert!(matches!(pvh, Err(ElfError::Entry { protocol: "PVH", .. })));
    }
}

#[test]
fn files_for_other_machines_are_refused() {
    let class = changed(|elf| elf.header.e_ident[EI_CLASS] = 1).unwrap_err();
    assert_eq!(class.to_string(), "its ELF class is 1, but must be 2, 64-bit");
    assert!(class.help().is_some());
    let machine = changed(|elf| elf.header.e_machine = 183).unwrap_err();
    assert_eq!(machine.to_string(), "its ELF machine is 183, but must be 62, x86-64");
    let object = changed(|elf| elf.header.e_type = 1).unwrap_err();
    assert!(matches!(object, ElfError::NotExecutable { value: 1 }));
}

#[test]
fn every_truncation_is_noticed() {
    let whole = ElfFile::new().build();
    for len in (0..0x900).chain([0x1000, 0x3000, 0x4000, whole.len() - 1]) {
        let error = parse(&whole[..len]).unwrap_err();
        assert!(matches!(error, ElfError::Truncated { .. }), "{len}: {error}");
    }
    let error = parse(&whole[..0x1800]).unwrap_err();
    let message = "segment 0 ends at byte 13125, but the file has only 6144 bytes";
    assert_eq!(error.to_string(), message);
}

#[test]
fn impossible_segments_are_refused() {
    let size = changed(|elf| elf.program_headers[1].p_memsz = 1);
    assert!(matches!(size, Err(ElfError::SegmentSize { index: 1, memory: 1, .. })));
    let wraps = changed(|elf| elf.program_headers[1].p_paddr = u64::MAX - 5);
    assert!(matches!(wraps, Err(ElfError::SegmentWraps { index: 1, .. })));
    let low = changed(|elf| elf.program_headers[1].p_paddr = 0xf_f000);
    assert!(matches!(low, Err(ElfError::SegmentTooLow { index: 1, addr: 0xf_f000 })));
    let overlap = changed(|elf| elf.program_headers[1].p_paddr = CODE + CODE_LEN as u64 - 1);
    assert!(matches!(overlap, Err(ElfError::Overlap { first: 0, second: 1, .. })));
    let touching = changed(|elf| elf.program_headers[1].p_paddr = CODE + CODE_LEN as u64);
    assert_eq!(touching.unwrap().segments.len(), 2);
    let offset = changed(|elf| elf.program_headers[0].p_offset = u64::MAX);
    assert!(matches!(offset, Err(ElfError::Truncated { .. })));
}

#[test]
fn absurd_counts_are_refused() {
    let count = changed(|elf| elf.header.e_phnum = 0xffff);
    assert!(matches!(count, Err(ElfError::ProgramHeaders { count: 0xffff, .. })));
    let none = changed(|elf| elf.header.e_phnum = 0);
    assert!(matches!(none, Err(ElfError::NothingToLoad)));
    let mut elf = ElfFile::new();
    elf.program_headers[2].p_filesz = NOTES_MAX + 1;
    let mut bytes = elf.build();
    bytes.resize(1 << 20, 0);
    assert!(matches!(parse(&bytes), Err(ElfError::Note { index: 2, .. })));
}

#[test]
fn notes_that_do_not_fit_are_refused() {
    for cut in 1..8 {
        let note = pvh_note(&PVH_ENTRY.to_le_bytes());
        assert_eq!(pvh_note_at(&note[..note.len() - cut]), Err(24));
    }
    assert_eq!(pvh_note_at(&[0xff; 12]), Err(0));
    assert_eq!(pvh_note_at(&pvh_note(b"six by")), Err(24));
    assert_eq!(pvh_note_at(b""), Ok(None));
}

fn pvh_note_at(notes: &[u8]) -> Result<Option<u64>, usize> {
    super::pvh_note(notes, 4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever the headers hold: no panic, and nothing lands outside memory or below 1 MiB.
    #[test]
    fn mutated_headers_are_loaded_or_refused(
        changes in prop::collection::vec((0usize..0x900, any::<u8>()), 1..12),
        words in prop::collection::vec((0usize..0x1c, prop::sample::select(
            vec![0, 1, 0xfff, 1 << 20, 1 << 31, 1 << 32, 1 << 63, u64::MAX - 1, u64::MAX])), 0..3),
    ) {
        let mut bytes = ElfFile::new().build();
        for (at, value) in changes {
            // Spread over the parts that mean something.
            bytes[if at < 0xe8 { at } else { 0x800 + at % 0x40 }] = value;
        }
        for (at, word) in words {
            bytes[at * 8..at * 8 + 8].copy_from_slice(&u64::to_le_bytes(word));
        }
        let (_dir, path) = file(&bytes);
        let content = Content::open(&path).unwrap();
        if let Ok(elf) = Elf::parse(&content) {
            let (ram, map) = memory();
            let mut room = Room::new(&map);
            let boot = Boot {
                ram: &ram,
                placement: memshare::Placement::CopyOnWrite,
                initrd: None,
                cmdline: "",
                memory_map: &map,
                rsdp: layout::ACPI_TABLES,
            };
            let _ = elf.load("fuzzed", &content, &boot, &mut room);
            for record in ram.record() {
                prop_assert!(record.guest >= 1 << 20);
            }
        }
    }

    #[test]
    fn arbitrary_notes_do_not_panic(
        notes in prop::collection::vec(any::<u8>(), 0..200), align in prop::sample::select(vec![4usize, 8])
    ) {
        let _ = super::pvh_note(&notes, align);
    }
}
