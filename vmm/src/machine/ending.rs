//! The end of a guest: whatever comes first decides, and everything stops.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use devices::power::{PowerEvent, PowerSink};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::MachineError;

/// Why a guest's run is over.
#[derive(Debug)]
pub(super) enum End {
    /// The guest said so.
    Power(PowerEvent),
    /// The guest cannot go on.
    Crash { detail: String, help: Option<String> },
    /// cohort received this signal.
    Signal(u8),
    /// The time is up.
    Timeout,
    /// The host failed.
    Failure(MachineError),
}

/// Takes the ends that virtual CPUs, devices and the event loop report.
pub(super) struct Ending {
    first: Mutex<Option<End>>,
    /// Set with the first end: nothing of the guest is to run any longer.
    stopping: AtomicBool,
    /// Readable with the first end.
    event: EventFd,
}

impl Ending {
    pub(super) fn new() -> Result<Ending, MachineError> {
        let event = EventFd::new(EFD_NONBLOCK)
            .map_err(|source| MachineError::Host { what: "an eventfd", source })?;
        Ok(Ending { first: Mutex::default(), stopping: AtomicBool::new(false), event })
    }

    /// Reports an end. Later ones are forgotten.
    pub(super) fn report(&self, end: End) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so that one caller sees the change.
        if self.stopping.swap(true, Ordering::SeqCst) {
            return;
        }
        *first = Some(end);
        // A counter of one cannot be full.
        let _ = self.event.write(1);
    }

    /// Whether an end was reported.
    pub(super) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Readable when an end was reported.
    pub(super) fn event(&self) -> &EventFd {
        &self.event
    }

    /// The end, once it was reported.
    pub(super) fn take(&self) -> Option<End> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl PowerSink for Ending {
    fn raise(&self, event: PowerEvent) {
        self.report(End::Power(event));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_end_decides() {
        let ending = Ending::new().expect("eventfd");
        assert!(!ending.stopping());
        ending.raise(PowerEvent::Exit(7));
        ending.report(End::Timeout);
        assert!(ending.stopping());
        assert_eq!(ending.event().read().expect("readable"), 1);
        assert!(matches!(ending.take(), Some(End::Power(PowerEvent::Exit(7)))));
    }
}
