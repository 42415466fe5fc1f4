//! Kernels and memory for tests, small enough to be made on the spot.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use linux_loader::bootparam::setup_header;
use linux_loader::elf::{
    EI_CLASS, EI_DATA, ELFCLASS64, ELFDATA2LSB, ELFMAG, EM_X86_64, ET_EXEC, Elf64_Ehdr, Elf64_Phdr,
    PF_R, PF_X, PT_LOAD, PT_NOTE,
};
use memshare::GuestRam;
use tempfile::TempDir;
use vm_memory::ByteValued;

use super::room::{MemoryKind, MemoryRange};
use crate::machine::layout;

/// Where the test kernel's code goes, and what the code believes.
pub(super) const CODE: u64 = 0x20_0000;
pub(super) const CODE_VIRTUAL: u64 = 0xffff_ffff_8020_0000;
pub(super) const CODE_LEN: usize = 0x2345;
/// Data at an address that disagrees with its file offset modulo a page.
pub(super) const DATA: u64 = 0x30_0010;
pub(super) const DATA_LEN: usize = 0x1200;
pub(super) const DATA_MEMORY: u64 = 0x8000;
pub(super) const PVH_ENTRY: u64 = CODE + 0x100;

/// An ELF kernel whose parts can be changed before it is built.
pub(super) struct ElfFile {
    pub(super) header: Elf64_Ehdr,
    pub(super) program_headers: Vec<Elf64_Phdr>,
    pub(super) note: Vec<u8>,
}

impl ElfFile {
    /// Code, data with bss, and a PVH note.
    pub(super) fn new() -> ElfFile {
        let mut header = Elf64_Ehdr {
            e_type: ET_EXEC,
            e_machine: EM_X86_64,
            e_version: 1,
            e_entry: CODE + 0x200,
            e_phoff: size_of::<Elf64_Ehdr>() as u64,
            e_phentsize: size_of::<Elf64_Phdr>() as u16,
            e_phnum: 3,
            ..Default::default()
        };
        header.e_ident[..4].copy_from_slice(ELFMAG);
        header.e_ident[EI_CLASS] = ELFCLASS64;
        header.e_ident[EI_DATA] = ELFDATA2LSB;
        let note = pvh_note(&PVH_ENTRY.to_le_bytes());
        let code = Elf64_Phdr {
            p_type: PT_LOAD,
            p_flags: PF_R | PF_X,
            p_offset: 0x1000,
            p_vaddr: CODE_VIRTUAL,
            p_paddr: CODE,
            p_filesz: CODE_LEN as u64,
            p_memsz: CODE_LEN as u64,
            p_align: 0x1000,
        };
        let data = Elf64_Phdr {
            p_flags: PF_R,
            p_offset: 0x4000,
            p_vaddr: 0,
            p_paddr: DATA,
            p_filesz: DATA_LEN as u64,
            p_memsz: DATA_MEMORY,
            ..code
        };
        let notes = Elf64_Phdr {
            p_type: PT_NOTE,
            p_offset: 0x800,
            p_paddr: 0,
            p_filesz: note.len() as u64,
            p_memsz: note.len() as u64,
            p_align: 4,
            ..data
        };
        ElfFile { header, program_headers: vec![code, data, notes], note }
    }

    /// The same without its PVH note.
    pub(super) fn without_note() -> ElfFile {
        let mut elf = ElfFile::new();
        elf.program_headers.pop();
        elf.header.e_phnum = 2;
        elf
    }

    pub(super) fn build(&self) -> Vec<u8> {
        let mut file = vec![0; 0x4000 + DATA_LEN];
        for (at, byte) in (0u32..).zip(&mut file[0x1000..]) {
            *byte = (at.wrapping_mul(2_654_435_761) >> 24) as u8;
        }
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, self.header.as_slice());
        for (index, header) in self.program_headers.iter().enumerate() {
            put(64 + index * 56, header.as_slice());
        }
        put(0x800, &self.note);
        file
    }
}

/// A note as Linux has it, behind another one.
pub(super) fn pvh_note(entry: &[u8]) -> Vec<u8> {
    let mut bytes = note(b"GNU\0", 3, b"build id");
    bytes.extend(note(b"Xen\0", 18, entry));
    bytes
}

fn note(name: &[u8], kind: u32, desc: &[u8]) -> Vec<u8> {
    let words = [name.len() as u32, desc.len() as u32, kind];
    let mut bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    bytes.extend(name);
    bytes.extend(desc);
    bytes
}

/// A setup header that boots by the 64-bit entry at 4 MiB.
pub(super) fn setup() -> setup_header {
    setup_header {
        setup_sects: 1,
        boot_flag: 0xaa55,
        jump: 0x6aeb,
        header: u32::from_le_bytes(*b"HdrS"),
        version: 0x20f,
        loadflags: 1,
        initrd_addr_max: 0x7fff_ffff,
        cmdline_size: 100,
        xloadflags: 1,
        pref_address: 0x40_0000,
        init_size: 0x10_0000,
        ..Default::default()
    }
}

/// A bzImage around a payload.
pub(super) fn bz_image(mut setup: setup_header, payload: &[u8]) -> Vec<u8> {
    const PAYLOAD_OFFSET: usize = 0x2cc;
    setup.payload_offset = PAYLOAD_OFFSET as u32;
    setup.payload_length = payload.len() as u32;
    let mut file = vec![0; 1024];
    file[0x1f1..0x1f1 + size_of::<setup_header>()].copy_from_slice(setup.as_slice());
    file.resize(1024 + PAYLOAD_OFFSET, 0x90);
    file.extend(payload);
    file
}

/// Compresses as Linux's build does.
pub(super) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    out.write_all(data).unwrap();
    out.finish().unwrap()
}

/// Appends the size word that all formats but gzip need.
pub(super) fn with_size(mut payload: Vec<u8>, size: usize) -> Vec<u8> {
    payload.extend((size as u32).to_le_bytes());
    payload
}

/// Guest memory of 64 MiB and its map.
pub(super) fn memory() -> (GuestRam, Vec<MemoryRange>) {
    let size = 64 << 20;
    let ram = GuestRam::new(size, layout::LOW_RAM_END, layout::HIGH_RAM_START).unwrap();
    let range = |start, end, kind| MemoryRange { start, len: end - start, kind };
    let map = vec![
        range(0, layout::LEGACY_RAM_END, MemoryKind::Ram),
        range(layout::ACPI_TABLES.0, layout::KERNEL_START.0, MemoryKind::Reserved),
        range(layout::KERNEL_START.0, size, MemoryKind::Ram),
    ];
    (ram, map)
}

/// A folder with a file in it.
pub(super) fn file(content: &[u8]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kernel");
    fs::write(&path, content).unwrap();
    (dir, path)
}
