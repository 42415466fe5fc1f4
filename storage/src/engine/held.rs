//! What engines of tests have in common: they hold transfers back and carry them one at a reap, so
//! that requests overlap as they do on a ring.

use std::io;
use std::os::fd::BorrowedFd;

use super::{Engine, Finished};
use crate::file::BackingFile;
use crate::transfer::Transfer;

/// What a test does with transfers.
pub(crate) trait Carry: Send {
    /// Which of `held` transfers, in the order in which they came, is next.
    fn choose(&mut self, held: usize) -> usize;
    /// Carries one.
    fn carry(&mut self, file: &BackingFile, transfer: &mut Transfer) -> io::Result<u64>;
}

/// An engine that holds transfers back.
#[derive(Debug)]
pub(crate) struct Held<C> {
    carrier: C,
    #[expect(clippy::vec_box, reason = "boxes are what engines get and give")]
    held: Vec<Box<Transfer>>,
}

impl<C: Carry> Held<C> {
    pub(super) fn new(carrier: C) -> Box<Held<C>> {
        Box::new(Held { carrier, held: Vec::new() })
    }
}

impl<C: Carry> Engine for Held<C> {
    fn is_asynchronous(&self) -> bool {
        // Nothing is served from the page cache: every transfer is the test's.
        false
    }

    fn start(&mut self, _files: &[BackingFile], transfer: Box<Transfer>) -> Option<Finished> {
        self.held.push(transfer);
        None
    }

    fn kick(&mut self) {}

    fn reap(&mut self, files: &[BackingFile], finished: &mut Vec<Finished>) {
        if !self.held.is_empty() {
            let mut transfer = self.held.swap_remove(self.carrier.choose(self.held.len()));
            let file = &files[usize::from(transfer.file().0)];
            let result = self.carrier.carry(file, &mut transfer);
            finished.push((transfer, result));
        }
    }

    fn wait(&mut self) {}

    fn ready_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
