//! Giving back the pages of this program that only its start needed.
//!
//! A guest's process executes most of its code once: options, description, kernel, tables. Two
//! thirds of what a waiting guest's process holds would be that code. Unmapped, it stays in the
//! host's page cache, and what is needed again is mapped again when it is.
#![expect(unsafe_code, reason = "madvise(2) on the program's text")]

use std::ffi::c_void;

use memshare::PAGE_SIZE;

unsafe extern "C" {
    /// First byte of the program, and the first one behind its code: everything in between is
    /// read-only (ld(1), "predefined symbols").
    safe static __executable_start: u8;
    safe static etext: u8;
}

/// Unmaps the program's code and constants.
///
/// Not in debug builds: breakpoints are changes to code, and would go with it.
pub(super) fn release() {
    if cfg!(debug_assertions) {
        return;
    }
    let start = (&raw const __executable_start).addr() as u64;
    let end = (&raw const etext).addr() as u64;
    let (start, end) = (start.next_multiple_of(PAGE_SIZE), end - end % PAGE_SIZE);
    let Some(len) = end.checked_sub(start).and_then(|len| usize::try_from(len).ok()) else {
        return;
    };
    // SAFETY: the range is mapped from the program's file, privately and read-only, so that its
    // pages come back from there with the content they had.
    let done = unsafe { libc::madvise(start as *mut c_void, len, libc::MADV_DONTNEED) };
    if done != 0 {
        let error = std::io::Error::last_os_error();
        tracing::debug!(%error, "start-up code stays mapped");
    }
}
