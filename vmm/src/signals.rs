//! The signals that ask cohort to stop, as a descriptor to poll.

#![expect(unsafe_code, reason = "signalfd and the signal mask have no safe interface")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

/// The signals that stop a guest or a lab.
pub const STOP_SIGNALS: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// A descriptor that is readable when a signal of [`STOP_SIGNALS`] waits, without blocking.
#[derive(Debug)]
pub struct StopSignals(OwnedFd);

impl StopSignals {
    /// Blocks the signals in the calling thread, and so in every thread it starts from now on,
    /// and opens the descriptor. To be called before there are other threads.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn block() -> io::Result<StopSignals> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set that the later calls read; the descriptor is
        // new and owned by nobody else.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in STOP_SIGNALS {
                // `nohup` means that work is to outlive its terminal.
                if signal != libc::SIGHUP || !is_ignored(signal) {
                    libc::sigaddset(set.as_mut_ptr(), signal);
                }
            }
            if libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(StopSignals(OwnedFd::from_raw_fd(fd)))
        }
    }

    /// Takes one waiting signal.
    pub fn take(&self) -> Option<u8> {
        const LEN: usize = size_of::<libc::signalfd_siginfo>();
        let mut info = [0u8; LEN];
        match rustix::io::read(&self.0, &mut info) {
            // `ssi_signo` is the first field, 32 bits.
            Ok(LEN) => info.first_chunk().and_then(|n| u8::try_from(u32::from_ne_bytes(*n)).ok()),
            _ => None,
        }
    }
}

/// Whether the process was started with a signal that does nothing.
fn is_ignored(signal: libc::c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: nothing is installed; the kernel fills the action in if it says so.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// Has writes beyond the largest size that files may have (`ulimit -f`) fail as on a full file
/// system, where the kernel would end the process: a guest hears of an I/O error, and a tool can
/// say what is wrong and remove what it began.
pub fn survive_file_size_limits() {
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

impl AsFd for StopSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<StopSignals> for OwnedFd {
    fn from(signals: StopSignals) -> OwnedFd {
        signals.0
    }
}

/// Any descriptor that carries `signalfd_siginfo` records will do; tests use a pipe.
impl From<OwnedFd> for StopSignals {
    fn from(fd: OwnedFd) -> StopSignals {
        StopSignals(fd)
    }
}
