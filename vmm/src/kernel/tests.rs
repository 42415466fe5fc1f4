use std::fs;
use std::os::fd::AsRawFd;

use linux_loader::bootparam::boot_params;
use linux_loader::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddressSpace};

use super::fixtures::{
    CODE, CODE_LEN, DATA, DATA_LEN, DATA_MEMORY, ElfFile, PVH_ENTRY, bz_image, file, gzip, memory,
    setup, with_size,
};
use super::*;
use crate::machine::layout;

fn boot<'a>(ram: &'a GuestRam, map: &'a [MemoryRange]) -> Boot<'a> {
    Boot {
        ram,
        placement: Placement::CopyOnWrite,
        initrd: None,
        cmdline: "console=ttyS0",
        memory_map: map,
        rsdp: layout::ACPI_TABLES,
    }
}

fn bytes(ram: &GuestRam, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ram.memory().memory().read_slice(&mut bytes, GuestAddress(at)).unwrap();
    bytes
}

fn object<T: vm_memory::ByteValued>(ram: &GuestRam, at: u64) -> T {
    ram.memory().memory().read_obj(GuestAddress(at)).unwrap()
}

fn open(content: &[u8]) -> Result<Kernel, KernelError> {
    let (_dir, path) = file(content);
    Kernel::open_path(&path, || None)
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

#[test]
fn a_pvh_kernel_finds_its_segments_and_start_info() {
    for placement in [Placement::CopyOnWrite, Placement::Copy] {
        let elf = ElfFile::new().build();
        let (ram, map) = memory();
        let boot = Boot { placement, ..boot(&ram, &map) };
        let entry = open(&elf).unwrap().load(&boot).unwrap();
        assert_eq!(entry, Entry::Pvh { rip: PVH_ENTRY, start_info: layout::PVH_START_INFO });
        assert!(bytes(&ram, CODE, CODE_LEN) == elf[0x1000..0x1000 + CODE_LEN]);
        assert!(bytes(&ram, DATA, DATA_LEN) == elf[0x4000..0x4000 + DATA_LEN]);
        let bss = bytes(&ram, DATA + DATA_LEN as u64, DATA_MEMORY as usize - DATA_LEN);
        assert!(bss.iter().all(|byte| *byte == 0));
        let mapped: u64 = ram.record().iter().map(|record| record.len).sum();
        assert_eq!(mapped, if placement == Placement::Copy { 0 } else { 0x2000 });

        let info: hvm_start_info = object(&ram, layout::PVH_START_INFO.0);
        assert_eq!((info.magic, info.version, info.nr_modules), (0x336e_c578, 1, 0));
        assert_eq!((info.modlist_paddr, info.rsdp_paddr), (0, layout::ACPI_TABLES.0));
        assert_eq!(bytes(&ram, info.cmdline_paddr, 14), b"console=ttyS0\0");
        assert_eq!(info.memmap_entries, 3);
        let last: hvm_memmap_table_entry = object(&ram, info.memmap_paddr + 2 * 24);
        assert_eq!((last.addr, last.size, last.type_), (1 << 20, 63 << 20, 1));
    }
}

#[test]
fn a_kernel_without_a_note_gets_boot_params() {
    let (ram, map) = memory();
    let entry = open(&ElfFile::without_note().build()).unwrap().load(&boot(&ram, &map)).unwrap();
    assert_eq!(entry, Entry::Long { rip: CODE + 0x200, boot_params: layout::ZERO_PAGE });
    let params: boot_params = object(&ram, layout::ZERO_PAGE.0);
    let (magic, loader, cmdline) =
        (params.hdr.header, params.hdr.type_of_loader, params.hdr.cmd_line_ptr);
    assert_eq!((magic, loader, cmdline), (0x5372_6448, 0xff, layout::CMDLINE.0 as u32));
    let (rsdp, entries, reserved) =
        (params.acpi_rsdp_addr, params.e820_entries, params.e820_table[1]);
    assert_eq!((rsdp, entries), (layout::ACPI_TABLES.0, 3));
    let (addr, kind) = (reserved.addr, reserved.r#type);
    assert_eq!((addr, kind), (layout::ACPI_TABLES.0, 2));
}

#[test]
fn a_bzimage_boots_the_vmlinux_inside_it() {
    let elf = ElfFile::new().build();
    let (_dir, path) = file(&bz_image(setup(), &gzip(&elf)));
    let caches = tempfile::tempdir().unwrap();
    let cache = Cache::at(caches.path()).unwrap();
    for cache in [None, Some(cache.clone()), Some(cache)] {
        let kernel = Kernel::open_path(&path, || cache).unwrap();
        let (ram, map) = memory();
        let entry = kernel.load(&boot(&ram, &map)).unwrap();
        assert!(matches!(entry, Entry::Pvh { rip: PVH_ENTRY, .. }));
        assert!(bytes(&ram, CODE, CODE_LEN) == elf[0x1000..0x1000 + CODE_LEN]);
        assert_eq!(ram.record().len(), 1);
        // The header's limits hold for the vmlinux too.
        let long = "x".repeat(101);
        let error = kernel.load(&Boot { cmdline: &long, ..boot(&ram, &map) }).unwrap_err();
        assert!(matches!(error, KernelError::Cmdline(CmdlineError::TooLong { max: 100, .. })));
    }
}

#[test]
fn guests_map_the_same_cached_kernel() {
    let (_dir, path) = file(&bz_image(setup(), &gzip(&ElfFile::new().build())));
    let caches = tempfile::tempdir().unwrap();
    let cache = Cache::at(caches.path()).unwrap();
    let inode = || {
        let (ram, map) = memory();
        Kernel::open_path(&path, || Some(cache.clone())).unwrap().load(&boot(&ram, &map)).unwrap();
        ram.record()[0].file.inode
    };
    assert_eq!(inode(), inode());
}

#[test]
fn a_kernel_in_memory_is_sealed() {
    let elf = ElfFile::new().build();
    let kernel = open(&bz_image(setup(), &gzip(&elf))).unwrap();
    let Content::File { file, len } = &kernel.content else { panic!("not a file") };
    assert_eq!(*len, elf.len() as u64);
    assert!(std::io::Write::write(&mut &*file, b"x").is_err());
    assert!(file.set_len(1).is_err());
    assert!(fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).is_ok());
}

#[test]
fn an_image_with_an_unknown_payload_boots_by_its_own_entry() {
    let image = bz_image(setup(), b"BZh9 compressed by something else");
    let (ram, map) = memory();
    let kernel = open(&image).unwrap();
    let entry = kernel.load(&boot(&ram, &map)).unwrap();
    assert_eq!(entry, Entry::Long { rip: 0x40_0200, boot_params: layout::ZERO_PAGE });
    assert!(bytes(&ram, 0x40_0000, image.len() - 1024) == image[1024..]);
    let params: boot_params = object(&ram, layout::ZERO_PAGE.0);
    let (version, cmdline_size) = (params.hdr.version, params.hdr.cmdline_size);
    assert_eq!((version, cmdline_size), (0x20f, 100));
    let no_entry = bz_image(
        linux_loader::bootparam::setup_header { xloadflags: 0, ..setup() },
        b"BZh9 compressed by something else",
    );
    let error = open(&no_entry).unwrap_err();
    assert!(chain(&error).contains("nor a 64-bit entry"), "{}", chain(&error));
}

#[test]
fn a_damaged_payload_is_an_error_and_not_a_fallback() {
    let mut payload = gzip(&ElfFile::new().build());
    let middle = payload.len() / 2;
    payload[middle] ^= 1;
    let error = open(&bz_image(setup(), &payload)).unwrap_err();
    assert!(matches!(error, KernelError::Payload { .. }));
    assert!(chain(&error).contains("its gzip payload is damaged"));
    assert!(error.help().is_some());
    let text = b"no kernel at all".repeat(100);
    let error = open(&bz_image(setup(), &gzip(&text))).unwrap_err();
    assert!(chain(&error).contains("does not decompress to an ELF"), "{}", chain(&error));
}

#[test]
fn the_initrd_goes_as_high_as_it_can() {
    let initrd: Vec<u8> = (0..10_000u32).map(|at| at as u8).collect();
    let (_dir, path) = file(&initrd);
    let (ram, map) = memory();
    let boot = Boot { initrd: Some(&path), ..boot(&ram, &map) };
    open(&ElfFile::new().build()).unwrap().load(&boot).unwrap();
    let info: hvm_start_info = object(&ram, layout::PVH_START_INFO.0);
    let module: hvm_modlist_entry = object(&ram, info.modlist_paddr);
    assert_eq!((info.nr_modules, module.paddr, module.size), (1, (64 << 20) - 12288, 10_000));
    assert!(bytes(&ram, module.paddr, initrd.len()) == initrd);

    let (ram, map) = memory();
    let boot = Boot { ram: &ram, memory_map: &map, ..boot };
    open(&ElfFile::without_note().build()).unwrap().load(&boot).unwrap();
    let params: boot_params = object(&ram, layout::ZERO_PAGE.0);
    let (image, size) = (params.hdr.ramdisk_image, params.hdr.ramdisk_size);
    assert_eq!((image, size), ((64 << 20) - 12288, 10_000));
}

#[test]
fn initrds_that_cannot_be_loaded_are_named() {
    let kernel = open(&ElfFile::new().build()).unwrap();
    let (dir, path) = file(b"");
    let load = |initrd| {
        let (ram, map) = memory();
        kernel.load(&Boot { initrd: Some(initrd), ..boot(&ram, &map) })
    };
    let empty = load(&path).unwrap_err();
    assert_eq!(
        chain(&empty),
        format!("initrd {} cannot be loaded: the file is empty", path.display())
    );
    let missing = dir.path().join("missing");
    assert!(chain(&load(&missing).unwrap_err()).contains("No such file"));
    fs::File::create(&path).unwrap().set_len(62 << 20).unwrap();
    let large = load(&path).unwrap_err();
    assert!(chain(&large).contains("it has 65011712 bytes"), "{}", chain(&large));
    assert_eq!(large.help().as_deref(), Some("give the guest more memory, at least `-m 128M`"));
}

#[test]
fn segments_outside_memory_are_named() {
    let mut elf = ElfFile::new();
    elf.program_headers[1].p_paddr = 100 << 20;
    let (ram, map) = memory();
    let error = open(&elf.build()).unwrap().load(&boot(&ram, &map)).unwrap_err();
    assert!(ram.record().is_empty());
    assert!(chain(&error).contains("segment 1 needs the guest memory from 0x6400000 to 0x6408000"));
    assert_eq!(error.help().as_deref(), Some("give the guest more memory, at least `-m 192M`"));
}

#[test]
fn files_that_are_no_kernels_are_described() {
    let seems = |content: &[u8]| open(content).unwrap_err().to_string();
    assert!(seems(b"").ends_with("is no kernel, but an empty file"));
    assert!(seems(&gzip(b"x")).ends_with("a gzip file: decompress it first"));
    assert!(seems(b"#!/bin/sh").ends_with("a script"));
    assert!(seems(&[0; 5000]).ends_with("of an unknown format"));
    assert!(open(b"").unwrap_err().help().is_some());
    let dir = tempfile::tempdir().unwrap();
    let error = Kernel::open_path(dir.path(), || None).unwrap_err();
    assert!(matches!(error, KernelError::Open { .. }), "{}", chain(&error));
}

#[test]
fn a_memory_map_beyond_the_protocol_is_refused() {
    for elf in [ElfFile::new(), ElfFile::without_note()] {
        let (ram, map) = memory();
        let long = map.repeat(60);
        let error = open(&elf.build()).unwrap().load(&boot(&ram, &long)).unwrap_err();
        assert!(matches!(error, KernelError::MemoryMap { ranges: 180, .. }));
    }
}

#[test]
fn a_lz4_payload_of_nothing_is_no_kernel() {
    let error = open(&bz_image(setup(), &with_size(0x184c_2102u32.to_le_bytes().into(), 0)));
    assert!(error.is_err());
}

#[test]
fn the_built_in_guest_is_copied_and_entered_by_pvh() {
    let (ram, map) = memory();
    let kernel = Kernel::open(&KernelSource::Builtin).unwrap();
    let entry = kernel.load(&boot(&ram, &map)).unwrap();
    let Entry::Pvh { rip, .. } = entry else { panic!("{entry:?}") };
    assert!(rip >= 1 << 20);
    assert!(bytes(&ram, rip, 16).iter().any(|byte| *byte != 0));
    assert!(ram.record().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever a bzImage holds: it is loaded or refused, without a panic.
    #[test]
    fn mutated_bzimages_are_loaded_or_refused(
        header in prop::collection::vec((0x1f1usize..0x26c, any::<u8>()), 0..4),
        payload in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        keep in 0usize..4096,
    ) {
        let mut image = bz_image(setup(), &gzip(&ElfFile::new().build()));
        for (at, value) in header {
            image[at] = value;
        }
        for (at, value) in payload {
            let at = 1024 + at.index(image.len() - 1024);
            image[at] = value;
        }
        if keep < 1024 {
            image.truncate(image.len() - keep);
        }
        if let Ok(kernel) = open(&image) {
            let (ram, map) = memory();
            let _ = kernel.load(&boot(&ram, &map));
        }
    }
}
