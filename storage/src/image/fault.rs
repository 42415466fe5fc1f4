//! Lets a call fail that a format makes on its file, as on a host that is out of space or whose
//! disk is broken. What engines carry fails in `engine/fault.rs`.

use std::cell::RefCell;
use std::io;
use std::sync::{Arc, Mutex};

/// A call that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Write,
    SetLen,
    Reserve,
    Punch,
    /// What was written before may be durable or not, in any part, as when nobody asked.
    Sync,
    SyncAll,
    Renew,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// For want of space, if it takes some.
    pub(crate) no_space: bool,
    /// Hundredths of the bytes that are written all the same, if it writes.
    pub(crate) written: usize,
}

impl Fault {
    /// What the kernel answers.
    pub(super) fn error(self, call: Call) -> io::Error {
        let takes_space = matches!(call, Call::Write | Call::SetLen | Call::Reserve);
        let full = self.no_space && takes_space;
        io::Error::from_raw_os_error(if full { libc::ENOSPC } else { libc::EIO })
    }

    /// The first of `bytes`, which go to `at`, that are written all the same. The page cache takes
    /// its share of a page or nothing.
    pub(super) fn part(self, at: u64, bytes: &[u8]) -> &[u8] {
        const PAGE: usize = 4096;
        let within = usize::try_from(at % PAGE as u64).unwrap();
        let end = within + bytes.len() * self.written / 100;
        let whole = if self.written < 100 { end - end % PAGE } else { end };
        &bytes[..whole.saturating_sub(within)]
    }
}

/// A call that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) call: Call,
    /// How many changes had been recorded by then.
    pub(crate) time: usize,
}

/// The test's hand on such calls: it counts them, and lets one of them fail.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults(Arc<Mutex<State>>);

#[derive(Clone, Copy, Debug)]
struct Plan {
    first: usize,
    /// The calls after the first fail, too.
    on_and_on: bool,
    fault: Fault,
}

#[derive(Debug, Default)]
struct State {
    plan: Option<Plan>,
    calls: usize,
    hit: Option<Hit>,
}

thread_local! {
    static INSTALLED: RefCell<Option<Faults>> = const { RefCell::new(None) };
}

/// While it lives, the calls count on every image that this thread opens for writing.
#[derive(Debug)]
pub(crate) struct Installed(());

impl Drop for Installed {
    fn drop(&mut self) {
        INSTALLED.with_borrow_mut(|installed| *installed = None);
    }
}

impl Faults {
    /// Lets a call fail like this, after so many more that do not.
    pub(crate) fn fail_after(&self, calls: usize, fault: Fault) {
        self.plan(calls, false, fault);
    }

    /// Lets all calls fail like this, after so many more that do not, until [`Faults::heal`].
    pub(crate) fn fail_from(&self, calls: usize, fault: Fault) {
        self.plan(calls, true, fault);
    }

    fn plan(&self, calls: usize, on_and_on: bool, fault: Fault) {
        let mut state = self.0.lock().unwrap();
        let first = state.calls + calls;
        (state.plan, state.hit) = (Some(Plan { first, on_and_on, fault }), None);
    }

    /// No call fails any more.
    pub(crate) fn heal(&self) {
        self.0.lock().unwrap().plan = None;
    }

    /// Has a say on the images that this thread opens from now on.
    pub(crate) fn install(&self) -> Installed {
        INSTALLED.with_borrow_mut(|installed| *installed = Some(self.clone()));
        Installed(())
    }

    /// Who has a say on images that this thread opens for writing.
    pub(super) fn installed() -> Option<Faults> {
        INSTALLED.with_borrow(Clone::clone)
    }

    /// Calls so far.
    pub(crate) fn calls(&self) -> usize {
        self.0.lock().unwrap().calls
    }

    /// The call that has failed.
    pub(crate) fn hit(&self) -> Option<Hit> {
        self.0.lock().unwrap().hit
    }

    /// Counts a call; how it is to fail.
    pub(super) fn next(&self, call: Call, time: usize) -> Option<Fault> {
        let mut state = self.0.lock().unwrap();
        let number = state.calls;
        state.calls += 1;
        let is_meant = |plan: &Plan| number == plan.first || plan.on_and_on && number > plan.first;
        let plan = state.plan.filter(is_meant)?;
        state.hit = Some(Hit { call, time });
        Some(plan.fault)
    }
}
