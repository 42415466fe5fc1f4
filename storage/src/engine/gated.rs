//! An engine for tests whose transfers wait until the test lets them go.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::{Engine, Finished, positional};
use crate::file::BackingFile;
use crate::transfer::{Action, Transfer};

/// The test's hand on the engines: while it is shut, writes wait.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<State>);

#[derive(Debug, Default)]
struct State {
    shut: AtomicBool,
    waiting: AtomicUsize,
}

impl Gate {
    /// Lets writes wait, or go.
    pub(crate) fn shut(&self, shut: bool) {
        self.0.shut.store(shut, Ordering::SeqCst);
    }

    /// Writes that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::SeqCst)
    }
}

/// An engine behind a gate.
#[derive(Debug)]
pub(crate) struct Gated {
    gate: Gate,
    #[expect(clippy::vec_box, reason = "boxes are what engines get and give")]
    held: Vec<Box<Transfer>>,
}

impl Gated {
    pub(crate) fn new(gate: &Gate) -> Box<Gated> {
        Box::new(Gated { gate: gate.clone(), held: Vec::new() })
    }
}

impl Engine for Gated {
    fn is_asynchronous(&self) -> bool {
        // Nothing is served from the page cache: every transfer is the test's.
        false
    }

    fn start(&mut self, files: &[BackingFile], transfer: Box<Transfer>) -> Option<Finished> {
        if transfer.action() == Action::Write {
            self.gate.0.waiting.fetch_add(1, Ordering::SeqCst);
            self.held.push(transfer);
            return None;
        }
        let result = positional::perform(&files[usize::from(transfer.file().0)], &transfer);
        Some((transfer, result))
    }

    fn kick(&mut self) {}

    fn reap(&mut self, files: &[BackingFile], finished: &mut Vec<Finished>) {
        if self.gate.0.shut.load(Ordering::SeqCst) {
            return;
        }
        for transfer in self.held.drain(..) {
            let result: io::Result<u64> =
                positional::perform(&files[usize::from(transfer.file().0)], &transfer);
            self.gate.0.waiting.fetch_sub(1, Ordering::SeqCst);
            finished.push((transfer, result));
        }
    }

    fn wait(&mut self) {}

    fn ready_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
