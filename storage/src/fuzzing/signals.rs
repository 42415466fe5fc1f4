//! Signals, which the standard library sets up only where it has the main function.

#![expect(unsafe_code, reason = "what a signal does is set")]

/// Has writes to sockets that are closed fail, as in any other program of Rust.
pub(super) fn outlive_broken_pipes() {
    // SAFETY: no handler is set, so nothing runs when the signal comes.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}
