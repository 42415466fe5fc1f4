//! Whether io_uring works here, found out by making a ring.

#![expect(unsafe_code, reason = "io_uring_setup has no safe interface")]

use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use super::Check;

pub(super) fn check() -> Check {
    const FALLBACK: &str = "disks use positional reads and writes instead";
    const SYSCTL: &str = "/proc/sys/kernel/io_uring_disabled";
    let Err(error) = make_ring() else {
        return Check::ok("io_uring", "works");
    };
    let disabled = fs::read_to_string(SYSCTL).unwrap_or_default();
    match (error.raw_os_error(), disabled.trim()) {
        (Some(libc::EPERM), "1" | "2") => Check::limited(
            "io_uring",
            format!("switched off by kernel.io_uring_disabled={}: {FALLBACK}", disabled.trim()),
            "sudo sysctl kernel.io_uring_disabled=0",
        ),
        (Some(libc::ENOSYS), _) => Check::limited(
            "io_uring",
            format!("this kernel has none, or a sandbox hides it: {FALLBACK}"),
            "",
        ),
        _ => Check::limited("io_uring", format!("{error}: {FALLBACK}"), ""),
    }
}

fn make_ring() -> io::Result<OwnedFd> {
    /// `struct io_uring_params` is 120 bytes; zeroes ask for nothing special.
    #[repr(C, align(8))]
    struct Params([u8; 120]);
    let mut params = Params([0; 120]);
    // SAFETY: the kernel reads and writes no more than the 120 bytes of the structure; what it
    // returns is a new descriptor or an error.
    unsafe {
        let fd = libc::syscall(libc::SYS_io_uring_setup, 4, params.0.as_mut_ptr());
        match i32::try_from(fd) {
            Ok(fd) if fd >= 0 => Ok(OwnedFd::from_raw_fd(fd)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
