//! What freestanding programs of a Linux guest begin with: no C library, system calls alone. A
//! program has a function `run`, which is given its arguments and the environment.

#![expect(unsafe_code, reason = "system calls, without a library")]

use core::arch::{asm, global_asm};
use core::panic::PanicInfo;

const SYS_EXIT: u64 = 60;

// The kernel starts a program with its argument count and pointers on the stack.
global_asm!(".globl _start", "_start:", "mov rdi, rsp", "and rsp, -16", "call main", "ud2");

/// `stack` points to the argument count, behind which are the pointers to arguments and, after a
/// null pointer, to the environment.
///
/// # Safety
/// To be called by `_start` alone, with the stack as the kernel made it.
#[unsafe(no_mangle)]
unsafe extern "C" fn main(stack: *const u64) -> ! {
    // SAFETY: the kernel puts argc there, then argc pointers, a null pointer, and the environment,
    // all of which stay as they are while the program runs.
    let (arguments, environment) = unsafe {
        let count = usize::try_from(*stack).unwrap_or(0);
        (core::slice::from_raw_parts(stack.add(1), count), stack.add(count + 2))
    };
    crate::run(arguments, environment);
    exit(0)
}

/// Ends the program.
pub fn exit(status: u64) -> ! {
    // SAFETY: exit does not return and touches no memory.
    let _ = unsafe { call(SYS_EXIT, [status, 0, 0, 0, 0, 0]) };
    loop {}
}

/// The result of a system call; the program ends with 1 where there is none.
///
/// # Safety
/// The call must be sound with these arguments.
pub unsafe fn call(number: u64, with: [u64; 6]) -> u64 {
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
