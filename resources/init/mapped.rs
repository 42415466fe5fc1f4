//! `mapped FILE...`: writes files to standard output from mappings of them, so that their pages are
//! reached as those of a program are.

#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "system calls, without a library")]

mod system;

use system::call;

const SYS_WRITE: u64 = 1;
const SYS_OPEN: u64 = 2;
const SYS_CLOSE: u64 = 3;
const SYS_LSEEK: u64 = 8;
const SYS_MMAP: u64 = 9;
const SEEK_END: u64 = 2;
const PROT_READ: u64 = 1;
const MAP_SHARED: u64 = 1;
const OUTPUT: u64 = 1;

fn run(arguments: &[u64], _environment: *const u64) {
    for &name in arguments.iter().skip(1) {
        write_mapped(name);
    }
}

/// Writes the file whose name is there, an argument. Its mapping stays.
fn write_mapped(name: u64) {
    // SAFETY: the name is a NUL-terminated string.
    let file = unsafe { call(SYS_OPEN, [name, 0, 0, 0, 0, 0]) };
    // SAFETY: the call takes no pointer.
    let len = unsafe { call(SYS_LSEEK, [file, 0, SEEK_END, 0, 0, 0]) };
    if len > 0 {
        // SAFETY: a new mapping, wherever there is room.
        let mut start = unsafe { call(SYS_MMAP, [0, len, PROT_READ, MAP_SHARED, file, 0]) };
        let mut left = len;
        while left > 0 {
            // SAFETY: these bytes are inside the mapping, as far as the file has them; the kernel
            // says so where it does not.
            let written = unsafe { call(SYS_WRITE, [OUTPUT, start, left, 0, 0, 0]) };
            start += written;
            left -= written;
        }
    }
    // SAFETY: the call takes no pointer.
    unsafe { call(SYS_CLOSE, [file, 0, 0, 0, 0, 0]) };
}
