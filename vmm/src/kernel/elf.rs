//! ELF kernels: what to load where, and where to enter.
//!
//! Only headers and notes are read. Everything in them is checked here, at open, against the file
//! and against itself; whether it fits a guest's memory is checked at load.

use std::io;
use std::ops::Range;

use linux_loader::elf::{
    EI_CLASS, EI_DATA, ELFCLASS64, ELFDATA2LSB, ELFMAG, EM_X86_64, ET_DYN, ET_EXEC, Elf64_Ehdr,
    Elf64_Nhdr, Elf64_Phdr, PF_X, PT_LOAD, PT_NOTE,
};
use thiserror::Error;
use vm_memory::{ByteValued, GuestAddress};

use super::content::Content;
use super::error::KernelError;
use super::room::Room;
use super::{Boot, Start};
use crate::machine::layout;

/// More program headers than any kernel has; Linux has five.
const PROGRAM_HEADERS_MAX: u16 = 256;
/// Longest note segment that is read; Linux's has half a KiB.
const NOTES_MAX: u64 = 64 << 10;
/// `XEN_ELFNOTE_PHYS32_ENTRY`: its value is the physical address of the 32-bit PVH entry.
const NOTE_PHYS32_ENTRY: u32 = 18;
const NOTE_OWNER: &[u8] = b"Xen\0";

/// What is wrong with an ELF kernel.
#[derive(Debug, Error)]
pub enum ElfError {
    /// The file cannot be read.
    #[error("its {what} cannot be read")]
    Read {
        /// What was to be read.
        what: &'static str,
        /// The host's reason.
        source: io::Error,
    },
    /// The file ends before something that its headers announce.
    #[error("{what} ends at byte {end}, but the file has only {len} bytes")]
    Truncated {
        /// What the headers announce.
        what: String,
        /// Where it would end in the file.
        end: u64,
        /// The file's length.
        len: u64,
    },
    /// The file is not for this machine.
    #[error("{field} is {value}, but must be {wanted}")]
    Machine {
        /// The field of the ELF header.
        field: &'static str,
        /// What it holds.
        value: u16,
        /// What it must hold, and what that means.
        wanted: &'static str,
    },
    /// The file is not an executable.
    #[error("its ELF type is {value}, which is not an executable's")]
    NotExecutable {
        /// `e_type`.
        value: u16,
    },
    /// The table of program headers has an absurd shape.
    #[error("it announces {count} program headers of {size} bytes, but no kernel has such")]
    ProgramHeaders {
        /// `e_phnum`.
        count: u16,
        /// `e_phentsize`.
        size: u16,
    },
    /// A segment has more bytes in the file than in memory.
    #[error("segment {index} has {file} bytes in the file, but only {memory} in memory")]
    SegmentSize {
        /// Number of its program header.
        index: usize,
        /// `p_filesz`.
        file: u64,
        /// `p_memsz`.
        memory: u64,
    },
    /// A segment's end is past the last address.
    #[error("segment {index} at {addr:#x} wraps around the end of the address space")]
    SegmentWraps {
        /// Number of its program header.
        index: usize,
        /// `p_paddr`.
        addr: u64,
    },
    /// A segment lies where the machine keeps its own tables.
    #[error("segment {index} belongs at {addr:#x}, but memory below 1 MiB is the machine's own")]
    SegmentTooLow {
        /// Number of its program header.
        index: usize,
        /// `p_paddr`.
        addr: u64,
    },
    /// Two segments claim the same memory.
    #[error("segments {first} and {second} overlap at {addr:#x}")]
    Overlap {
        /// Number of the lower one's program header.
        first: usize,
        /// Number of the higher one's program header.
        second: usize,
        /// First address that both claim.
        addr: u64,
    },
    /// There is nothing to load.
    #[error("no program header says what to load (PT_LOAD)")]
    NothingToLoad,
    /// The notes are damaged or absurdly long.
    #[error("the note at byte {at} of segment {index} does not fit its segment")]
    Note {
        /// Number of the note segment's program header.
        index: usize,
        /// Offset of the note in its segment.
        at: u64,
    },
    /// The entry point lies in no segment that is loaded with permission to execute.
    #[error("the {protocol} entry point {entry:#x} is in no executable segment")]
    Entry {
        /// Which entry point.
        protocol: &'static str,
        /// The address that the file gives.
        entry: u64,
    },
}

impl ElfError {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        let help = match self {
            ElfError::Read { .. } => return None,
            ElfError::Truncated { .. } => "the file is incomplete: copy or build it again",
            ElfError::Machine { .. } => "cohort boots 64-bit x86-64 kernels only",
            ElfError::NotExecutable { .. } => {
                "name the linked vmlinux, not an object file or core dump"
            }
            ElfError::SegmentTooLow { .. } => "link the kernel at 1 MiB or above",
            ElfError::ProgramHeaders { .. }
            | ElfError::SegmentSize { .. }
            | ElfError::SegmentWraps { .. }
            | ElfError::Overlap { .. }
            | ElfError::NothingToLoad
            | ElfError::Note { .. }
            | ElfError::Entry { .. } => {
                "check it with `readelf -lhn`; a kernel's vmlinux has physical addresses (p_paddr) \
                 in its program headers"
            }
        };
        Some(help.to_owned())
    }
}

/// An ELF kernel, understood and checked.
#[derive(Debug)]
pub(super) struct Elf {
    segments: Vec<Segment>,
    entry: EntryPoint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EntryPoint {
    Pvh(u64),
    Long(u64),
}

/// A segment to load. Segments are sorted by address and do not overlap.
#[derive(Debug)]
struct Segment {
    index: usize,
    offset: u64,
    file_len: u64,
    /// Guest-physical range.
    memory: Range<u64>,
    /// Where the segment's code believes it is.
    virtual_start: u64,
    executable: bool,
}

/// Whether this is the beginning of an ELF file of any kind.
pub(super) fn recognises(head: &[u8]) -> bool {
    head.starts_with(ELFMAG)
}

impl Elf {
    /// Reads and checks headers and notes.
    pub(super) fn parse(content: &Content) -> Result<Elf, ElfError> {
        let header = read_header(content)?;
        let program_headers = read_program_headers(content, &header)?;
        let segments = segments(&program_headers, content.len())?;
        let pvh = find_pvh_entry(content, &program_headers)?;
        let entry = match pvh {
            Some(rip) => EntryPoint::Pvh(physical_entry(&segments, rip, "PVH")?),
            None => EntryPoint::Long(long_entry(&segments, header.e_entry)?),
        };
        Ok(Elf { segments, entry })
    }

    /// Puts the segments into guest memory. What they have in memory only (bss) stays as the
    /// fresh memory is: zero.
    pub(super) fn load(
        &self,
        name: &str,
        content: &Content,
        boot: &Boot<'_>,
        room: &mut Room,
    ) -> Result<Start, KernelError> {
        // From the top, so that what does not fit tells how much memory all of it needs.
        for segment in self.segments.iter().rev() {
            room.take(format!("segment {}", segment.index), segment.memory.clone())
                .map_err(|source| KernelError::Misfit { kernel: name.to_owned(), source })?;
        }
        for segment in &self.segments {
            let from = (segment.offset, segment.file_len);
            let placed = content
                .place(boot.ram, from, GuestAddress(segment.memory.start), boot.placement)
                .map_err(|source| KernelError::Place { what: name.to_owned(), source })?;
            tracing::debug!(
                kernel = name,
                segment = segment.index,
                addr = segment.memory.start,
                mapped = placed.mapped,
                copied = placed.copied,
                "segment loaded"
            );
        }
        Ok(match self.entry {
            EntryPoint::Pvh(rip) => Start::Pvh { rip },
            EntryPoint::Long(rip) => Start::Long { rip },
        })
    }
}

fn read_header(content: &Content) -> Result<Elf64_Ehdr, ElfError> {
    let mut header = Elf64_Ehdr::default();
    let what = "ELF header";
    check_inside(|| format!("the {what}"), 0, size_of::<Elf64_Ehdr>() as u64, content.len())?;
    content.read_at(header.as_mut_slice(), 0).map_err(|source| ElfError::Read { what, source })?;
    let ident = |at: usize| u16::from(header.e_ident[at]);
    let fields = [
        ("its ELF class", ident(EI_CLASS), ELFCLASS64.into(), "2, 64-bit"),
        ("its ELF byte order", ident(EI_DATA), ELFDATA2LSB.into(), "1, little-endian"),
        ("its ELF machine", header.e_machine, EM_X86_64, "62, x86-64"),
    ];
    for (field, value, must, wanted) in fields {
        if value != must {
            return Err(ElfError::Machine { field, value, wanted });
        }
    }
    if ![ET_EXEC, ET_DYN].contains(&header.e_type) {
        return Err(ElfError::NotExecutable { value: header.e_type });
    }
    let (count, size) = (header.e_phnum, header.e_phentsize);
    if count > PROGRAM_HEADERS_MAX || usize::from(size) != size_of::<Elf64_Phdr>() {
        return Err(ElfError::ProgramHeaders { count, size });
    }
    Ok(header)
}

fn read_program_headers(
    content: &Content,
    header: &Elf64_Ehdr,
) -> Result<Vec<Elf64_Phdr>, ElfError> {
    let what = "program headers";
    let mut headers = vec![Elf64_Phdr::default(); header.e_phnum.into()];
    let len = size_of::<Elf64_Phdr>() as u64;
    let total = u64::from(header.e_phnum) * len;
    check_inside(|| format!("the {what}"), header.e_phoff, total, content.len())?;
    for (index, program_header) in (0..).zip(&mut headers) {
        content
            .read_at(program_header.as_mut_slice(), header.e_phoff + index * len)
            .map_err(|source| ElfError::Read { what, source })?;
    }
    Ok(headers)
}

/// Whether the file has `len` bytes at `offset`.
fn check_inside(
    what: impl FnOnce() -> String,
    offset: u64,
    len: u64,
    file_len: u64,
) -> Result<(), ElfError> {
    let end = offset.saturating_add(len);
    if end > file_len {
        return Err(ElfError::Truncated { what: what(), end, len: file_len });
    }
    Ok(())
}

fn segments(headers: &[Elf64_Phdr], file_len: u64) -> Result<Vec<Segment>, ElfError> {
    let mut segments = Vec::new();
    for (index, header) in headers.iter().enumerate() {
        if header.p_type == PT_LOAD && header.p_memsz > 0 {
            segments.push(segment(index, header, file_len)?);
        }
    }
    if segments.is_empty() {
        return Err(ElfError::NothingToLoad);
    }
    segments.sort_by_key(|segment| segment.memory.start);
    for pair in segments.windows(2) {
        if let [low, high] = pair
            && high.memory.start < low.memory.end
        {
            let (first, second) = (low.index, high.index);
            return Err(ElfError::Overlap { first, second, addr: high.memory.start });
        }
    }
    Ok(segments)
}

fn segment(index: usize, header: &Elf64_Phdr, file_len: u64) -> Result<Segment, ElfError> {
    let (addr, file, memory) = (header.p_paddr, header.p_filesz, header.p_memsz);
    check_inside(|| format!("segment {index}"), header.p_offset, file, file_len)?;
    if file > memory {
        return Err(ElfError::SegmentSize { index, file, memory });
    }
    let end = addr.checked_add(memory).ok_or(ElfError::SegmentWraps { index, addr })?;
    if addr < layout::KERNEL_START.0 {
        return Err(ElfError::SegmentTooLow { index, addr });
    }
    Ok(Segment {
        index,
        offset: header.p_offset,
        file_len: file,
        memory: addr..end,
        virtual_start: header.p_vaddr,
        executable: header.p_flags & PF_X != 0,
    })
}

fn find_pvh_entry(content: &Content, headers: &[Elf64_Phdr]) -> Result<Option<u64>, ElfError> {
    for (index, header) in headers.iter().enumerate() {
        if header.p_type != PT_NOTE {
            continue;
        }
        let (offset, len) = (header.p_offset, header.p_filesz);
        check_inside(|| format!("note segment {index}"), offset, len, content.len())?;
        if len > NOTES_MAX {
            return Err(ElfError::Note { index, at: NOTES_MAX });
        }
        let mut notes = vec![0; usize::try_from(len).unwrap_or_default()];
        content
            .read_at(&mut notes, offset)
            .map_err(|source| ElfError::Read { what: "notes", source })?;
        // Notes are padded to 4 bytes, in segments aligned to 8 to 8 bytes.
        let align = if header.p_align == 8 { 8 } else { 4 };
        let found =
            pvh_note(&notes, align).map_err(|at| ElfError::Note { index, at: at as u64 })?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The address in the PVH note, if there is one; or where a note is cut off.
fn pvh_note(notes: &[u8], align: usize) -> Result<Option<u64>, usize> {
    let mut at = 0;
    while notes.len() - at >= size_of::<Elf64_Nhdr>() {
        let mut header = Elf64_Nhdr::default();
        let name_at = at + size_of::<Elf64_Nhdr>();
        header.as_mut_slice().copy_from_slice(&notes[at..name_at]);
        // Both lengths have 32 bits, so sums cannot overflow.
        let desc_at = (name_at + header.n_namesz as usize).next_multiple_of(align);
        let desc_end = desc_at + header.n_descsz as usize;
        let name = notes.get(name_at..name_at + header.n_namesz as usize).ok_or(at)?;
        let desc = notes.get(desc_at..desc_end).ok_or(at)?;
        if name == NOTE_OWNER && header.n_type == NOTE_PHYS32_ENTRY {
            let mut value = [0; 8];
            let value_len = desc.len();
            if ![4, 8].contains(&value_len) {
                return Err(at);
            }
            value[..value_len].copy_from_slice(desc);
            return Ok(Some(u64::from_le_bytes(value)));
        }
        at = desc_end.next_multiple_of(align).min(notes.len());
    }
    Ok(None)
}

/// Checks that a physical entry point, which 32-bit code must reach, is in a segment.
fn physical_entry(
    segments: &[Segment],
    entry: u64,
    protocol: &'static str,
) -> Result<u64, ElfError> {
    let inside = |segment: &Segment| segment.executable && segment.memory.contains(&entry);
    let reachable = u32::try_from(entry).is_ok() && segments.iter().any(inside);
    if reachable { Ok(entry) } else { Err(ElfError::Entry { protocol, entry }) }
}

/// The physical address of `e_entry`. Linux gives a physical address there (`phys_startup_64`);
/// other kernels give a virtual one, as the ELF specification has it.
fn long_entry(segments: &[Segment], entry: u64) -> Result<u64, ElfError> {
    let executable = || segments.iter().filter(|segment| segment.executable);
    if executable().any(|segment| segment.memory.contains(&entry)) {
        return Ok(entry);
    }
    executable()
        .find_map(|segment| {
            let within = entry.checked_sub(segment.virtual_start)?;
            let physical = segment.memory.start.checked_add(within)?;
            segment.memory.contains(&physical).then_some(physical)
        })
        .ok_or(ElfError::Entry { protocol: "64-bit", entry })
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "lengths of small test data")]
mod tests;
