//! An engine for tests that takes note of all it does to files, in any order.

use std::io;

use super::held::{Carry, Held};
use super::positional;
use crate::crash::{Change, Dice, Recorder};
use crate::file::BackingFile;
use crate::transfer::{Action, SpaceChange, Transfer};

/// Carries transfers by positional calls and records what they changed.
#[derive(Debug)]
pub(crate) struct Recording {
    recorder: Recorder,
    dice: Dice,
}

impl Recording {
    /// An engine that records here; `seed` decides on the order of transfers.
    pub(crate) fn new(recorder: &Recorder, seed: u64) -> Box<Held<Recording>> {
        Held::new(Recording { recorder: recorder.clone(), dice: Dice::new(seed) })
    }
}

impl Carry for Recording {
    fn choose(&mut self, held: usize) -> usize {
        self.dice.below(held)
    }

    fn carry(&mut self, file: &BackingFile, transfer: &mut Transfer) -> io::Result<u64> {
        let (path, at) = (file.path(), transfer.at());
        let done = positional::perform(file, transfer)?;
        let change = match transfer.action() {
            Action::Read => return Ok(done),
            Action::Write => {
                let mut bytes = vec![0; usize::try_from(done).unwrap()];
                transfer.window().duplicate().copy_to(&mut bytes);
                Change::Write { at, bytes }
            }
            Action::Sync => Change::Sync,
            Action::Space(SpaceChange::Punch { .. }) => Change::Punch { at, len: done },
            Action::Space(SpaceChange::ZeroRange) => Change::ZeroRange { at, len: done },
        };
        self.recorder.push(path, change);
        Ok(done)
    }
}
