//! Getting a thread out of `KVM_RUN`.
//!
//! A real-time signal interrupts the call; its handler sets `immediate_exit` in the thread's
//! shared page, so that a signal that comes just before the call is not lost either.
#![expect(unsafe_code, reason = "a signal handler that writes to the page shared with KVM")]

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::io;
use std::marker::PhantomData;
use std::ptr::{null_mut, write_volatile};
use std::thread::JoinHandle;

use kvm_ioctls::VcpuFd;
use libc::siginfo_t;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

thread_local! {
    /// `immediate_exit` of the virtual CPU that this thread runs, if any.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(null_mut()) };
}

/// While it lives, a [`kick`] takes the calling thread out of `KVM_RUN`.
pub(super) struct Kickable(PhantomData<*mut ()>);

impl Kickable {
    /// For the thread that runs `vcpu`, which has to outlive the result.
    pub(super) fn new(vcpu: &mut VcpuFd) -> Kickable {
        IMMEDIATE_EXIT.set(&raw mut vcpu.get_kvm_run().immediate_exit);
        Kickable(PhantomData)
    }
}

impl Drop for Kickable {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(null_mut());
    }
}

/// Installs the signal handler, once for the process or, to the same effect, more often.
pub(super) fn prepare() -> io::Result<()> {
    Ok(register_signal_handler(SIGRTMIN(), on_kick)?)
}

/// Interrupts the thread, wherever it is.
pub(super) fn kick<T>(thread: &JoinHandle<T>) -> io::Result<()> {
    Ok(thread.kill(SIGRTMIN())?)
}

extern "C" fn on_kick(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: `Kickable` set the pointer in this very thread, to a byte of a page that stays
        // mapped until after it is cleared. Nobody else writes it; KVM reads it.
        unsafe { write_volatile(flag, 1) };
    }
}
