//! Threads of started devices: how they are ended, and how they wait for work.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::device::ActivateError;

/// A thread that works until it is told to stop, and then returns what it was given.
pub(super) struct Worker<T> {
    thread: JoinHandle<T>,
    stop: Arc<StopFlag>,
}

struct StopFlag {
    set: AtomicBool,
    event: EventFd,
}

impl<T: Send + 'static> Worker<T> {
    /// Starts a thread that runs `work` on `state`. `name` is for the host's tools.
    pub(super) fn start(
        name: &str,
        state: T,
        wake: Wake,
        work: impl FnOnce(&mut T, &Wake) + Send + 'static,
    ) -> Result<Worker<T>, ActivateError> {
        let stop = Arc::clone(&wake.stop);
        let mut state = state;
        let body = move || {
            work(&mut state, &wake);
            state
        };
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(body)
            .map_err(|source| ActivateError::Host { what: "start a device's thread", source })?;
        Ok(Worker { thread, stop })
    }

    /// Tells the thread to stop, without waiting for it.
    pub(super) fn tell_to_stop(&self) {
        self.stop.set.store(true, Ordering::Release);
        // Full only if written 2^64 - 1 times.
        let _ = self.stop.event.write(1);
    }

    /// Waits for the thread's end. `None` when it panicked, of which the panic itself told.
    pub(super) fn stop(self) -> Option<T> {
        self.tell_to_stop();
        self.thread.join().ok()
    }
}

/// What a device's thread sleeps on.
pub(super) struct Wake {
    epoll: Epoll,
    stop: Arc<StopFlag>,
}

impl Wake {
    /// Something that only the order to stop ends, until more is added.
    pub(super) fn new() -> Result<Wake, ActivateError> {
        let make = || {
            let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
            let epoll = Epoll::new()?;
            let interest = EpollEvent::new(EventSet::IN, 0);
            epoll.ctl(ControlOperation::Add, event.as_raw_fd(), interest)?;
            Ok(Wake { epoll, stop: Arc::new(StopFlag { set: AtomicBool::new(false), event }) })
        };
        make().map_err(cannot_wait)
    }

    /// Lets every signal of `event` end one sleep. Nobody needs to clear it.
    pub(super) fn add_signals(&self, event: &EventFd) -> Result<(), ActivateError> {
        self.add(event.as_raw_fd(), EventSet::IN | EventSet::EDGE_TRIGGERED)
    }

    /// Ends sleeps for as long as `fd` is readable.
    pub(super) fn add_readable(&self, fd: BorrowedFd<'_>) -> Result<(), ActivateError> {
        self.add(fd.as_raw_fd(), EventSet::IN)
    }

    /// Ends sleeps once the other end of the socket `fd` is gone, not when there is data to read.
    pub(super) fn add_hang_up(&self, fd: impl AsFd) -> Result<(), ActivateError> {
        self.add(fd.as_fd().as_raw_fd(), EventSet::READ_HANG_UP)
    }

    fn add(&self, fd: i32, events: EventSet) -> Result<(), ActivateError> {
        let interest = EpollEvent::new(events, 0);
        self.epoll.ctl(ControlOperation::Add, fd, interest).map_err(cannot_wait)
    }

    /// Whether the thread is to end.
    pub(super) fn stopped(&self) -> bool {
        self.stop.set.load(Ordering::Acquire)
    }

    /// Sleeps until there may be something to do. A signal since the last sleep counts.
    pub(super) fn sleep(&self) {
        self.sleep_at_most(None);
    }

    /// The same, but no longer than `limit`.
    pub(super) fn sleep_at_most(&self, limit: Option<Duration>) {
        let mut events = [EpollEvent::default(); 4];
        let limit = limit.map_or(-1, |limit| i32::try_from(limit.as_millis()).unwrap_or(i32::MAX));
        // An interruption is a reason to look, like any other; nothing else can fail.
        let _ = self.epoll.wait(limit, &mut events);
    }
}

fn cannot_wait(source: io::Error) -> ActivateError {
    ActivateError::Host { what: "wait for a device's events", source }
}
