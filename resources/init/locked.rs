//! `locked FILE SCRIPT`: runs a shell's script while it has a file's lock (`flock`) alone.

#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "system calls, without a library")]

mod system;

use system::{call, exit};

const SYS_OPEN: u64 = 2;
const SYS_EXECVE: u64 = 59;
const SYS_FLOCK: u64 = 73;
const O_RDWR: u64 = 2;
const LOCK_EX: u64 = 2;
/// Status of a wrong use, as shells have it.
const USAGE: u64 = 2;

fn run(arguments: &[u64], environment: *const u64) {
    let &[_, file, script] = arguments else { exit(USAGE) };
    let shell = c"/bin/sh".as_ptr();
    let words = [c"sh".as_ptr() as u64, c"-c".as_ptr() as u64, script, 0];
    // SAFETY: all pointers are to NUL-terminated strings, or lists of such that end with a null
    // pointer. The lock lasts as long as the descriptor, which the shell inherits.
    unsafe {
        let file = call(SYS_OPEN, [file, O_RDWR, 0, 0, 0, 0]);
        call(SYS_FLOCK, [file, LOCK_EX, 0, 0, 0, 0]);
        let words = words.as_ptr() as u64;
        call(SYS_EXECVE, [shell as u64, words, environment as u64, 0, 0, 0]);
    }
}
