//! Kernels of a few instructions, written as ELF files: what a monitor costs when its guest does
//! nothing.
//!
//! ```text
//! file                                   guest memory
//! 0x0000  ELF header, program headers
//! 0x0200  PVH note                       (not loaded)
//! 0x1000  code, one page            ──►  0x10_0000   entry, 32-bit (PVH) and 64-bit alike
//! 0x2000  ballast, any length       ──►  0x20_0000   read-only data
//! ```
//! Every instruction used means the same in 32-bit and in 64-bit mode, so that one entry point
//! serves the PVH protocol and the Linux 64-bit protocol.

use super::BenchError;
use super::scratch::Scratch;

/// Where the code is loaded and entered.
const ENTRY: u32 = 0x10_0000;
/// Where the ballast is loaded.
const BALLAST: u32 = 0x20_0000;
/// Where the PVH note is in the file.
const NOTE: u64 = 0x200;
/// Where the code is in the file.
const CODE: u64 = 0x1000;
/// Where the ballast is in the file.
const BALLAST_OFFSET: u64 = 0x2000;
/// A page.
const PAGE: u32 = 0x1000;

/// What [`Program::Idle`] and [`Program::ReadAndIdle`] print on the first serial port before they
/// halt.
pub const IDLE_MARKER: &str = "~idle~";

/// What a synthesized kernel does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Writes 0 to the exit register at port 0xF4 and asks for a reset where there is none.
    Exit,
    /// Prints [`IDLE_MARKER`] and halts for ever, interrupts off.
    Idle,
    /// Reads a byte of every page of the ballast first, then does as [`Program::Idle`].
    ReadAndIdle,
}

/// Writes a kernel that runs `program`, with `ballast` bytes of data, rounded up to a page, that it
/// brings along.
///
/// # Errors
/// No room for the file.
pub fn kernel(program: Program, ballast: u32) -> Result<Scratch, BenchError> {
    let ballast = ballast.next_multiple_of(PAGE);
    let code = program.code(ballast);
    let file = Scratch::holding(&headers(code.len() as u64, u64::from(ballast)))?;
    file.write(NOTE, &note())?;
    file.write(CODE, &code)?;
    if ballast > 0 {
        file.fill(BALLAST_OFFSET, u64::from(ballast))?;
    }
    Ok(file)
}

impl Program {
    /// The program as machine code.
    fn code(self, ballast: u32) -> Vec<u8> {
        let mut code = Vec::new();
        match self {
            Program::Exit => {
                code.extend([0x31, 0xC0]); // xor eax, eax
                code.extend([0xE7, 0xF4]); // out 0xF4, eax
                code.extend([0xB0, 0xFE]); // mov al, 0xFE: pulse the reset line
                code.extend([0xE6, 0x64]); // out 0x64, al: of the i8042
            }
            Program::Idle => print_marker(&mut code),
            Program::ReadAndIdle => {
                code.push(0xBE); // mov esi, BALLAST
                code.extend(BALLAST.to_le_bytes());
                code.extend([0x8A, 0x06]); // again: mov al, [esi]
                code.extend([0x81, 0xC6]); // add esi, PAGE
                code.extend(PAGE.to_le_bytes());
                code.extend([0x81, 0xFE]); // cmp esi, the end
                code.extend(BALLAST.saturating_add(ballast).to_le_bytes());
                code.extend([0x72, 0xF0]); // jb again
                print_marker(&mut code);
            }
        }
        code.extend([0xFA]); // cli
        code.extend([0xF4]); // halt: hlt
        code.extend([0xEB, 0xFD]); // jmp halt
        code
    }
}

fn print_marker(code: &mut Vec<u8>) {
    code.extend([0x66, 0xBA, 0xF8, 0x03]); // mov dx, 0x3F8
    for byte in IDLE_MARKER.bytes().chain([b'\n']) {
        code.extend([0xB0, byte]); // mov al, byte
        code.push(0xEE); // out dx, al
    }
}

/// ELF header and program headers: the note, the code, the ballast if there is any.
fn headers(code: u64, ballast: u64) -> Vec<u8> {
    const PT_LOAD: u32 = 1;
    const PT_NOTE: u32 = 4;
    const READ: u32 = 4;
    const EXECUTE: u32 = 1;
    let mut segments = vec![
        segment(PT_NOTE, READ, NOTE, 0, note().len() as u64, 4),
        segment(PT_LOAD, READ | EXECUTE, CODE, ENTRY, code, u64::from(PAGE)),
    ];
    if ballast > 0 {
        segments.push(segment(PT_LOAD, READ, BALLAST_OFFSET, BALLAST, ballast, u64::from(PAGE)));
    }

    let mut out = vec![0x7F, b'E', b'L', b'F', 2, 1, 1, 0];
    out.resize(16, 0);
    out.extend(2u16.to_le_bytes()); // ET_EXEC
    out.extend(62u16.to_le_bytes()); // EM_X86_64
    out.extend(1u32.to_le_bytes());
    out.extend(u64::from(ENTRY).to_le_bytes());
    out.extend(64u64.to_le_bytes()); // program headers follow this header
    out.extend(0u64.to_le_bytes()); // no section headers
    out.extend(0u32.to_le_bytes());
    out.extend(64u16.to_le_bytes()); // size of this header
    out.extend(56u16.to_le_bytes()); // size of a program header
    out.extend(u16::try_from(segments.len()).unwrap_or(0).to_le_bytes());
    out.extend([0; 6]); // no section headers
    out.extend(segments.concat());
    out
}

fn segment(kind: u32, flags: u32, offset: u64, address: u32, len: u64, align: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(56);
    out.extend(kind.to_le_bytes());
    out.extend(flags.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out.extend(u64::from(address).to_le_bytes()); // virtual
    out.extend(u64::from(address).to_le_bytes()); // physical
    out.extend(len.to_le_bytes()); // in the file
    out.extend(len.to_le_bytes()); // in memory
    out.extend(align.to_le_bytes());
    out
}

/// The ELF note that names the PVH entry point (`XEN_ELFNOTE_PHYS32_ENTRY`).
fn note() -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(4u32.to_le_bytes()); // length of the name
    out.extend(8u32.to_le_bytes()); // length of the address
    out.extend(18u32.to_le_bytes());
    out.extend(*b"Xen\0");
    out.extend(u64::from(ENTRY).to_le_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Kernel;
    use crate::spec::KernelSource;

    #[test]
    fn cohort_takes_them_for_kernels() {
        for (program, ballast) in [(Program::Exit, 0), (Program::ReadAndIdle, 3 << 20)] {
            let file = kernel(program, ballast).expect("memory has room");
            Kernel::open(&KernelSource::Path(file.path())).expect("a kernel");
        }
    }

    #[test]
    fn ballast_starts_on_a_page_and_fills_whole_pages() {
        let file = kernel(Program::Exit, 5000).expect("memory has room");
        let len = std::fs::metadata(file.path()).expect("it is there").len();
        assert_eq!(len, BALLAST_OFFSET + 8192);
    }

    #[test]
    fn the_loop_jumps_to_its_load() {
        let code = Program::ReadAndIdle.code(8192);
        let jump = code.windows(2).position(|two| two == [0x72, 0xF0]).expect("a jump");
        assert_eq!(code[jump + 2 - 16..][..2], [0x8A, 0x06]);
    }
}
