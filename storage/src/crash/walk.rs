//! Every state in which a crash could have left recorded files, or many of them.
//!
//! What a file saw before its last sync is there. Of what came after, any part may be: each write
//! whole, torn between sectors, or not at all; each in any order, that is, with the bytes of any of
//! the writes that overlap (`fate.rs`). Files do not wait for each other, and neither do names,
//! which a crash leaves as they were at some moment since their folder was last synced.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::files::{Crashed, Files};
use super::{Change, Dice};

/// A number that the environment asks for, or this one.
pub(super) fn wanted(name: &str, default: usize) -> usize {
    let wanted = std::env::var(name).ok();
    wanted.map_or(default, |number| number.parse().unwrap_or_else(|_| panic!("{name}: a number")))
}

/// States for each moment besides the plain one; `COHORT_CRASH_STATES` asks for others.
pub(crate) fn samples() -> usize {
    wanted("COHORT_CRASH_STATES", 3)
}

/// The seeds of a test of which there are to be this many; `COHORT_CRASH_SEEDS` asks for others.
pub(crate) fn seeds(default: usize) -> impl Iterator<Item = u64> {
    0..wanted("COHORT_CRASH_SEEDS", default) as u64
}

/// A way through what was recorded.
pub(crate) struct Walk<'a> {
    /// All of it.
    pub(crate) changes: &'a [(PathBuf, Change)],
    /// How many of the changes came before the first crash.
    pub(crate) begin: usize,
    /// States for each moment besides the one in which everything is there.
    pub(crate) samples: usize,
    pub(crate) seed: u64,
}

/// A moment, and how a crash left the files then. They are where they belong.
pub(crate) struct State<'a> {
    /// How many changes there were.
    pub(crate) time: usize,
    /// How many states there were before.
    pub(crate) number: usize,
    pub(super) crashed: &'a Crashed,
    files: &'a Files<'a>,
}

impl State<'_> {
    /// What stands for the times of a file: what the running kernel says, and what is on disk.
    pub(super) fn clocks(&self, path: &Path) -> (u64, u64) {
        self.files.clocks(path)
    }
}

impl<'a> Walk<'a> {
    /// Puts the files into every such state and looks; they were as `files` says before the first
    /// change. Those that do not change after `begin` are left alone. The error says what was found
    /// where. Gives the number of states.
    pub(crate) fn each(
        &self,
        mut files: Files<'a>,
        mut look: impl FnMut(&State<'_>, &mut Dice) -> Result<(), String>,
    ) -> Result<usize, String> {
        let (before, after) = self.changes.split_at(self.begin);
        before.iter().for_each(|(path, change)| files.apply(path, change));
        let changing = changing(after);
        let (mut dice, mut number) = (Dice::new(self.seed), 0);
        for time in self.begin..=self.changes.len() {
            if let Some((path, change)) = time.checked_sub(self.begin + 1).map(|last| &after[last])
            {
                files.apply(path, change);
            }
            let samples = if files.any_pending() { self.samples } else { 0 };
            for sample in 0..=samples {
                let crashed = files.crash(sample == 0, &mut dice);
                crashed.store(&changing).unwrap();
                let state = State { time, number, crashed: &crashed, files: &files };
                look(&state, &mut dice).map_err(|what| self.told(&state, &what))?;
                number += 1;
            }
        }
        Ok(number)
    }

    /// The same for the moment after the last change only, in so many states besides the plain one.
    pub(crate) fn end(
        &self,
        mut files: Files<'a>,
        mut look: impl FnMut() -> Result<(), String>,
    ) -> Result<(), String> {
        self.changes.iter().for_each(|(path, change)| files.apply(path, change));
        let (changing, mut dice) = (changing(self.changes), Dice::new(self.seed));
        for number in 0..=self.samples {
            let crashed = files.crash(number == 0, &mut dice);
            crashed.store(&changing).unwrap();
            let time = self.changes.len();
            let state = State { time, number, crashed: &crashed, files: &files };
            look().map_err(|what| self.told(&state, &what))?;
        }
        Ok(())
    }

    fn told(&self, state: &State<'_>, what: &str) -> String {
        let last = self.changes[..state.time].iter().rev().take(6);
        let last: Vec<String> = last.map(|(path, change)| short(path, change)).collect();
        format!(
            "change {} of {}, seed {}: {what}\n{:#?}\nlast changes, newest first: {last:#?}",
            state.time - self.begin,
            self.changes.len() - self.begin,
            self.seed,
            state.crashed.told
        )
    }
}

/// The files that change.
fn changing(changes: &[(PathBuf, Change)]) -> BTreeSet<PathBuf> {
    changes
        .iter()
        .filter(|(_, change)| !change.is_sync() && *change != Change::SyncFolder)
        .flat_map(|(path, change)| match change {
            Change::Rename(next) => vec![path.clone(), next.clone()],
            _ => vec![path.clone()],
        })
        .collect()
}

/// A change in a line.
pub(super) fn short(path: &Path, change: &Change) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match change {
        Change::Write { at, bytes } => format!("{name}: write {at:#x} +{:#x}", bytes.len()),
        other => format!("{name}: {other:x?}"),
    }
}
