//! How threads wake each other.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

/// Locks, also after a panic elsewhere: what the locks here protect is right between statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes one queue's thread.
#[derive(Clone, Debug)]
pub(crate) struct Waker(Arc<Bell>);

#[derive(Debug)]
struct Bell {
    event: OwnedFd,
    rung: AtomicBool,
}

impl Waker {
    pub(crate) fn new() -> rustix::io::Result<Waker> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Waker(Arc::new(Bell { event, rung: AtomicBool::new(false) })))
    }

    /// Makes the queue's descriptor readable.
    pub(crate) fn wake(&self) {
        if !self.0.rung.swap(true, Ordering::SeqCst) {
            // Fails only when the counter is full: then it is readable already.
            let _ = rustix::io::write(&self.0.event, &1u64.to_ne_bytes());
        }
    }

    /// Whether someone woke the queue since it last asked. Look at what one waits for after this.
    pub(crate) fn take(&self) -> bool {
        if !self.0.rung.load(Ordering::SeqCst) {
            return false;
        }
        // First the counter, then the flag: who rings in between leaves the flag as it is, and
        // is heard now. The other way round the counter could stay at zero with the flag set.
        let mut counter = [0; 8];
        if rustix::io::read(&self.0.event, &mut counter).is_ok() {
            self.0.rung.store(false, Ordering::SeqCst);
        }
        // Else someone is about to write to it: that has yet to be read, or the descriptor would
        // be readable with nobody to make it unreadable.
        true
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}

/// Queues that wait for one thing. Cheap to look at while nobody waits.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    any: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

impl Waiters {
    /// Has `waker` woken once. Look at what is waited for after this.
    pub(super) fn add(&self, waker: &Waker) {
        let mut wakers = lock(&self.wakers);
        // One entry for a queue is enough, which also bounds the list.
        if !wakers.iter().any(|other| Arc::ptr_eq(&other.0, &waker.0)) {
            wakers.push(waker.clone());
        }
        self.any.store(true, Ordering::SeqCst);
    }

    /// Wakes all. Change what they wait for before this.
    pub(super) fn wake_all(&self) {
        if self.any.load(Ordering::SeqCst) {
            let mut wakers = lock(&self.wakers);
            self.any.store(false, Ordering::SeqCst);
            for waker in wakers.drain(..) {
                waker.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    #[test]
    fn no_ring_is_lost_and_none_goes_on_for_ever() {
        let waker = Waker::new().unwrap();
        let rings = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let is_ready = |now: Option<&Timespec>| {
            let fd = waker.fd();
            let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
            poll(&mut fds, now).unwrap() == 1
        };
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        rings.fetch_add(1, Ordering::SeqCst);
                        waker.wake();
                    }
                });
            }
            while rings.load(Ordering::SeqCst) < 40_000 {
                waker.take();
            }
        });
        while is_ready(Some(&now)) {
            assert!(waker.take());
        }
        assert!(!waker.take());
        waker.wake();
        waker.wake();
        assert!(is_ready(None) && waker.take() && !is_ready(Some(&now)));
    }
}
