//! Where a function's register window may be, and where it is.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use crate::bus::{Bus, BusDevice};
use crate::limited::warn_limited;

/// The parts of the memory bus that belong to PCI.
#[derive(Clone, Debug)]
pub struct Windows {
    /// The memory bus.
    pub bus: Arc<Bus>,
    /// Addresses below 4 GiB.
    pub low: Range<u64>,
    /// Addresses above; may be empty.
    pub high: Range<u64>,
}

impl Windows {
    fn contain(&self, base: u64, len: u64) -> bool {
        base.checked_add(len).is_some_and(|end| {
            [&self.low, &self.high].iter().any(|window| window.start <= base && end <= window.end)
        })
    }
}

/// One register window of a function.
#[derive(Debug)]
pub struct Bar {
    windows: Windows,
    len: u64,
    at: Option<u64>,
}

impl Bar {
    /// A window of `len` bytes that is nowhere yet.
    pub fn new(windows: Windows, len: u64) -> Bar {
        Bar { windows, len, at: None }
    }

    /// Where the window is; `None` when it does not answer.
    pub fn at(&self) -> Option<u64> {
        self.at
    }

    /// Whether [`Bar::place`] would take the window from where it is, or put it somewhere.
    pub fn would_move(&self, base: Option<u64>) -> bool {
        self.reachable(base) != self.at
    }

    /// Whether a window at `base` would answer.
    pub fn is_reachable(&self, base: u64) -> bool {
        self.reachable(Some(base)).is_some()
    }

    fn reachable(&self, base: Option<u64>) -> Option<u64> {
        base.filter(|&base| self.windows.contain(base, self.len))
    }

    /// Moves the window to `base`, or takes it off the bus. An address outside of what belongs to
    /// PCI, or where another window is, cannot be answered: then the window is nowhere, as a
    /// guest expects while it finds out the window's size.
    pub fn place(&mut self, base: Option<u64>, device: &Arc<Mutex<dyn BusDevice>>) {
        let base = self.reachable(base);
        if base == self.at {
            return;
        }
        if let Some(old) = self.at.take() {
            self.windows.bus.remove(old);
        }
        if let Some(base) = base {
            match self.windows.bus.insert(base, self.len, Arc::clone(device)) {
                Ok(()) => self.at = Some(base),
                Err(error) => warn_limited!(%error, "a guest put two PCI windows in one place"),
            }
        }
    }
}
