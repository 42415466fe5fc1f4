//! Files that shrink while they are part of guest memory.
//!
//! Kernel, initrd and the files of virtio-pmem and of shares are mapped from the page cache. Whoever
//! shortens such a file takes pages of it away: a virtual CPU that touches one gets `EFAULT` from
//! KVM, a system call likewise, but a thread of this process that does (a device at its rings) gets
//! `SIGBUS`, by default its death. While [`Watch`] lives, such a page is replaced by zeroes, so that the thread can go on to where
//! it is stopped, and the guest ends with an error that says what happened.
#![expect(unsafe_code, reason = "a signal handler that maps a page over one that is gone")]

#[cfg(test)]
mod tests;

use std::ffi::{c_int, c_void};
use std::io;
use std::ops::Range;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use libc::siginfo_t;
use memshare::{GuestRam, PAGE_SIZE, Window};
use vmm_sys_util::signal::register_signal_handler;

use super::MachineError;
use super::ending::{End, Ending};

/// What the signal handler needs, while there is a [`Watch`].
static WATCHED: AtomicPtr<Watched> = AtomicPtr::new(null_mut());

struct Watched {
    /// Where guest memory is in this process.
    regions: Vec<Range<usize>>,
    /// The first address whose page was lost; 0 before there is one.
    lost: AtomicUsize,
    ending: Arc<Ending>,
}

/// Turns lost pages of a guest's memory into the guest's end. A process watches one guest, the
/// last one asked for.
pub(super) struct Watch(*mut Watched);

impl Watch {
    /// Watches `ram` and the windows beside it, which outlive the result, as do all threads that
    /// use them.
    pub(super) fn new<'w>(
        ram: &GuestRam,
        windows: impl Iterator<Item = &'w Arc<Window>>,
        ending: &Arc<Ending>,
    ) -> io::Result<Watch> {
        let windows = windows.map(|window| (window.host() as usize, window.len()));
        let ram = ram.regions().map(|region| (region.host as usize, region.len));
        let regions = ram
            .chain(windows)
            .filter_map(|(start, len)| Some(start..start.checked_add(usize::try_from(len).ok()?)?));
        let watched = Watched {
            regions: regions.collect(),
            lost: AtomicUsize::new(0),
            ending: Arc::clone(ending),
        };
        register_signal_handler(libc::SIGBUS, on_bus_error)?;
        let watched = Box::into_raw(Box::new(watched));
        WATCHED.store(watched, Ordering::Release);
        Ok(Watch(watched))
    }

    /// The first address in this process whose page was found lost, if any was.
    pub(super) fn lost(&self) -> Option<usize> {
        // SAFETY: made by `Box::into_raw` in `new`, and freed when `self` is dropped.
        let lost = unsafe { &(*self.0).lost }.load(Ordering::Acquire);
        (lost != 0).then_some(lost)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let null = null_mut();
        let _ = WATCHED.compare_exchange(self.0, null, Ordering::AcqRel, Ordering::Acquire);
        // SAFETY: made by `Box::into_raw` in `new`. The handler reaches it only from accesses to
        // this guest's memory, all of which have ended.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

/// Runs in the thread that touched the page. That thread was at an access to guest memory, where
/// no lock of [`Ending`] is held, and reporting allocates nothing.
extern "C" fn on_bus_error(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel passes a valid record, which for this signal has an address.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    // SAFETY: null, or what `Watch` keeps for as long as guest memory is used.
    let watched = unsafe { WATCHED.load(Ordering::Acquire).as_ref() };
    let ours = watched.filter(|watched| {
        code == libc::BUS_ADRERR && watched.regions.iter().any(|region| region.contains(&address))
    });
    match ours {
        Some(watched) if replace_page(address) => {
            let (order, late) = (Ordering::AcqRel, Ordering::Acquire);
            let _ = watched.lost.compare_exchange(0, address, order, late);
            watched.ending.report(End::Failure(MachineError::LostPage));
        }
        // SAFETY: no memory is passed. The access is made again, and ends the process.
        _ => unsafe {
            libc::signal(libc::SIGBUS, libc::SIG_DFL);
        },
    }
}

/// Puts a page of zeroes where `address` is, in guest memory.
fn replace_page(address: usize) -> bool {
    #[expect(clippy::cast_possible_truncation, reason = "4096")]
    const PAGE: usize = PAGE_SIZE as usize;
    let page = (address & !(PAGE - 1)) as *mut c_void;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: a page inside a mapping of guest memory, to which no Rust references exist; the new
    // one has the same protection, so every address that was valid stays valid.
    unsafe { libc::mmap(page, PAGE, protection, flags, -1, 0) != libc::MAP_FAILED }
}
