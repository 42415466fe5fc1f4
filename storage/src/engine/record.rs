//! An engine for tests that takes note of all it does to files. It holds transfers back and carries
//! them one at a reap, in any order, so that requests overlap as they do on a ring.

use std::io;
use std::os::fd::BorrowedFd;

use super::{Engine, Finished, positional};
use crate::crash::{Dice, Recorder};
use crate::file::BackingFile;
use crate::transfer::{Action, SpaceChange, Transfer};

/// Carries transfers by positional calls and records what they changed.
#[derive(Debug)]
pub(crate) struct Recording {
    recorder: Recorder,
    dice: Dice,
    #[expect(clippy::vec_box, reason = "boxes are what engines get and give")]
    held: Vec<Box<Transfer>>,
}

impl Recording {
    /// An engine that records here; `seed` decides on the order of transfers.
    pub(crate) fn new(recorder: &Recorder, seed: u64) -> Box<Recording> {
        Box::new(Recording { recorder: recorder.clone(), dice: Dice::new(seed), held: Vec::new() })
    }

    fn carry(&self, file: &BackingFile, transfer: &Transfer) -> io::Result<u64> {
        let (path, at) = (file.path(), transfer.at());
        let done = positional::perform(file, transfer)?;
        match transfer.action() {
            Action::Read => {}
            Action::Write => {
                let mut bytes = vec![0; usize::try_from(done).unwrap()];
                transfer.window().duplicate().copy_to(&mut bytes);
                self.recorder.write(path, at, &bytes);
            }
            Action::Sync => self.recorder.sync(path),
            Action::Space(SpaceChange::Punch { .. }) => self.recorder.punch(path, at, done),
            Action::Space(SpaceChange::ZeroRange) => self.recorder.zero_range(path, at, done),
        }
        Ok(done)
    }
}

impl Engine for Recording {
    fn is_asynchronous(&self) -> bool {
        // Nothing is served from the page cache: every transfer is recorded.
        false
    }

    fn start(&mut self, _files: &[BackingFile], transfer: Box<Transfer>) -> Option<Finished> {
        self.held.push(transfer);
        None
    }

    fn kick(&mut self) {}

    fn reap(&mut self, files: &[BackingFile], finished: &mut Vec<Finished>) {
        if !self.held.is_empty() {
            let any = self.dice.below(self.held.len());
            let transfer = self.held.swap_remove(any);
            let result = self.carry(&files[usize::from(transfer.file().0)], &transfer);
            finished.push((transfer, result));
        }
    }

    fn wait(&mut self) {}

    fn ready_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
