//! `mapped FILE...`: writes files to standard output from mappings of them, so that their pages are
//! reached as those of a program are. Freestanding: no C library.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::panic::PanicInfo;

const SYS_WRITE: u64 = 1;
const SYS_OPEN: u64 = 2;
const SYS_CLOSE: u64 = 3;
const SYS_LSEEK: u64 = 8;
const SYS_MMAP: u64 = 9;
const SYS_EXIT: u64 = 60;
const SEEK_END: u64 = 2;
const PROT_READ: u64 = 1;
const MAP_SHARED: u64 = 1;
const OUTPUT: u64 = 1;

// The kernel starts a program with its argument count and pointers on the stack.
global_asm!(".globl _start", "_start:", "mov rdi, rsp", "and rsp, -16", "call main", "ud2");

/// `stack` points to the argument count, behind which the argument pointers are.
///
/// # Safety
/// To be called by `_start` alone, with the stack as the kernel made it.
#[unsafe(no_mangle)]
unsafe extern "C" fn main(stack: *const u64) -> ! {
    // SAFETY: the kernel puts argc and then argc pointers there.
    let count = usize::try_from(unsafe { *stack }).unwrap_or(0);
    for argument in 2..=count {
        // SAFETY: there are so many pointers, each to a NUL-terminated string.
        unsafe { write_mapped(*stack.add(argument)) };
    }
    exit(0)
}

/// Writes the file of this name. Its mapping stays.
///
/// # Safety
/// `name` is the address of a NUL-terminated string.
unsafe fn write_mapped(name: u64) {
    // SAFETY: the caller's promise.
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

fn exit(status: u64) -> ! {
    // SAFETY: exit does not return and touches no memory.
    let _ = unsafe { call(SYS_EXIT, [status, 0, 0, 0, 0, 0]) };
    loop {}
}

/// The result of a system call; the program ends where there is none.
///
/// # Safety
/// The call must be sound with these arguments.
unsafe fn call(number: u64, with: [u64; 6]) -> u64 {
    let result: i64;
    // SAFETY: the x86-64 Linux convention; rcx and r11 are lost.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") with[0], in("rsi") with[1],
             in("rdx") with[2], in("r10") with[3], in("r8") with[4], in("r9") with[5],
             lateout("rcx") _, lateout("r11") _);
    }
    match u64::try_from(result) {
        Ok(result) => result,
        Err(_) => exit(1),
    }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    exit(1)
}
