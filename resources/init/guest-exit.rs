//! `guest-exit N`: ends a Linux guest with status N, by writing it to the machine's exit register
//! (32 bits at I/O port 0xf4). Debian's cloud kernel has no `/dev/port`, so this asks for access
//! to the port and writes there itself. Freestanding: no C library, just three system calls.

#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "system calls, without a library")]

use core::arch::{asm, global_asm};
use core::panic::PanicInfo;

const EXIT_REGISTER: u16 = 0xf4;
const SYS_IOCTL: u64 = 16;
const SYS_EXIT: u64 = 60;
const SYS_IOPERM: u64 = 173;
/// Standard output, and the request that waits until a terminal has sent all of it (tcdrain).
const OUTPUT: u64 = 1;
const TCSBRK: u64 = 0x5409;
/// Status of a wrong use, as shells have it.
const USAGE: u64 = 2;

// The kernel starts a program with its argument count and pointers on the stack.
global_asm!(".globl _start", "_start:", "mov rdi, rsp", "and rsp, -16", "call main", "ud2");

/// `stack` points to the argument count, behind which the argument pointers are.
///
/// # Safety
/// To be called by `_start` alone, with the stack as the kernel made it.
#[unsafe(no_mangle)]
unsafe extern "C" fn main(stack: *const u64) -> ! {
    // SAFETY: the kernel puts argc and then argc pointers there.
    let status = match unsafe { *stack } {
        // SAFETY: with two arguments, the second pointer is that of a NUL-terminated string.
        2 => unsafe { number(*stack.add(2) as *const u8) },
        _ => None,
    };
    let Some(status) = status else { exit(USAGE) };
    // What was printed before is to arrive before the machine is gone. Fails, to no harm, for what
    // is no terminal.
    // SAFETY: the call takes no pointer.
    unsafe { system_call(SYS_IOCTL, OUTPUT, TCSBRK, 1) };
    // SAFETY: three more ports cannot be confused with anything here; the call has no effect on
    // memory.
    if unsafe { system_call(SYS_IOPERM, u64::from(EXIT_REGISTER), 4, 1) } != 0 {
        exit(1)
    }
    // SAFETY: access to the port was just granted, and a write there ends the machine.
    unsafe { asm!("out dx, eax", in("dx") EXIT_REGISTER, in("eax") u32::from(status)) };
    exit(1)
}

/// The value of a decimal text up to 255.
///
/// # Safety
/// `text` points to a NUL-terminated string.
unsafe fn number(mut text: *const u8) -> Option<u8> {
    let mut value = None;
    loop {
        // SAFETY: the loop ends at the NUL.
        let digit = match unsafe { *text } {
            0 => return value,
            digit @ b'0'..=b'9' => digit - b'0',
            _ => return None,
        };
        value = Some(value.unwrap_or(0_u8).checked_mul(10)?.checked_add(digit)?);
        // SAFETY: the byte was not the NUL, so there is another.
        text = unsafe { text.add(1) };
    }
}

fn exit(status: u64) -> ! {
    // SAFETY: exit does not return and touches no memory.
    unsafe { system_call(SYS_EXIT, status, 0, 0) };
    loop {}
}

/// # Safety
/// The call must be sound with these arguments.
unsafe fn system_call(number: u64, first: u64, second: u64, third: u64) -> i64 {
    let result;
    // SAFETY: the x86-64 Linux convention; rcx and r11 are lost.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") first, in("rsi") second,
             in("rdx") third, lateout("rcx") _, lateout("r11") _);
    }
    result
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    exit(1)
}
