//! Guests of a few instructions, as ELF files.
#![expect(unsafe_code, reason = "signalfd(2)")]

use std::io::Write;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};

use crate::machine::layout;

/// Where the program is loaded, and its first instruction.
const LOAD: u32 = 0x10_0000;
/// Where it is in its file.
const FILE_OFFSET: usize = 0x1000;

/// A program in machine code that means the same in protected and in long mode.
pub(super) struct Program {
    code: Vec<u8>,
    pvh: bool,
}

impl Program {
    pub(super) fn new() -> Program {
        Program { code: Vec::new(), pvh: true }
    }

    /// Leaves out the PVH note, so that the 64-bit entry is taken.
    pub(super) fn long_mode(self) -> Program {
        Program { pvh: false, ..self }
    }

    fn then(mut self, code: &[u8]) -> Program {
        self.code.extend_from_slice(code);
        self
    }

    /// Writes a byte to a port.
    pub(super) fn out(self, port: u16, value: u8) -> Program {
        let [low, high] = port.to_le_bytes();
        // mov dx, port; mov al, value; out dx, al
        self.then(&[0x66, 0xBA, low, high, 0xB0, value, 0xEE])
    }

    pub(super) fn print(self, text: &str) -> Program {
        text.bytes().fold(self, |program, byte| program.out(layout::PORT_COM1, byte))
    }

    pub(super) fn exit(self, status: u8) -> Program {
        self.out(layout::PORT_EXIT, status).spin()
    }

    /// Jumps to itself.
    pub(super) fn spin(self) -> Program {
        self.then(&[0xEB, 0xFE])
    }

    /// Sleeps for good: cli; hlt; jmp to hlt.
    pub(super) fn halt(self) -> Program {
        self.then(&[0xFA, 0xF4, 0xEB, 0xFD])
    }

    /// Loads an empty interrupt table and executes an undefined instruction.
    pub(super) fn triple_fault(self) -> Program {
        let at = LOAD + u32::try_from(self.code.len() + 9).expect("short");
        let [a, b, c, d] = at.to_le_bytes();
        self.then(&[0x0F, 0x01, 0x1D, a, b, c, d, 0x0F, 0x0B]).then(&[0; 6])
    }

    /// Starts the second processor, which executes these bytes in real mode.
    pub(super) fn start_second_processor(self, real: [u8; 8]) -> Program {
        let (first, second) = real.split_at(4);
        self.store(0x8000, first)
            .store(0x8004, second)
            // The local APIC on; then its interrupt command register: destination 1; INIT;
            // start-up at page 8.
            .store(0xFEE0_00F0, &0x0000_01FFu32.to_le_bytes())
            .store(0xFEE0_0310, &0x0100_0000u32.to_le_bytes())
            .store(0xFEE0_0300, &0x0000_4500u32.to_le_bytes())
            .store(0xFEE0_0300, &0x0000_4608u32.to_le_bytes())
            .spin()
    }

    /// mov dword [address], value
    fn store(self, address: u32, value: &[u8]) -> Program {
        self.then(&[0xC7, 0x05]).then(&address.to_le_bytes()).then(value)
    }

    /// The program as an ELF file with one segment.
    pub(super) fn into_file(self) -> tempfile::NamedTempFile {
        let mut elf = Vec::new();
        elf.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        let halves = |elf: &mut Vec<u8>, values: &[u16]| {
            values.iter().for_each(|value| elf.extend(value.to_le_bytes()));
        };
        let words = |elf: &mut Vec<u8>, values: &[u64]| {
            values.iter().for_each(|value| elf.extend(value.to_le_bytes()));
        };
        halves(&mut elf, &[2, 62, 1, 0]);
        words(&mut elf, &[LOAD.into(), 64, 0]);
        halves(&mut elf, &[0, 0, 64, 56, if self.pvh { 2 } else { 1 }, 0, 0, 0]);
        let len = self.code.len() as u64;
        halves(&mut elf, &[1, 0, 7, 0]);
        words(&mut elf, &[FILE_OFFSET as u64, LOAD.into(), LOAD.into(), len, len, 0x1000]);
        if self.pvh {
            halves(&mut elf, &[4, 0, 4, 0]);
            words(&mut elf, &[176, 0, 0, 20, 20, 4]);
            halves(&mut elf, &[4, 0, 4, 0, 18, 0]);
            elf.extend(b"Xen\0");
            elf.extend(LOAD.to_le_bytes());
        }
        elf.resize(FILE_OFFSET, 0);
        elf.extend(&self.code);
        let mut file = tempfile::NamedTempFile::new().expect("temporary file");
        file.write_all(&elf).expect("written");
        file
    }
}

/// A signalfd on which `signal` is pending for the calling thread.
pub(super) fn pending_signal(signal: i32) -> OwnedFd {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is initialised by the first call; the descriptor is fresh.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal);
        assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()), 0);
        assert_eq!(libc::pthread_kill(libc::pthread_self(), signal), 0);
        let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC);
        assert!(fd >= 0);
        OwnedFd::from_raw_fd(fd)
    }
}
