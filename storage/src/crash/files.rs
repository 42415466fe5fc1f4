//! The files of a disk while they are changed: what of them is durable, and what a crash may take.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::fate::Fate;
use super::file::FileState;
use super::{Change, Dice};
use crate::format::Format;

/// Files and their names. A file is told by the path by which it became known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files<'a> {
    files: BTreeMap<PathBuf, Kept<'a>>,
    /// Names as they are now, and the files that have them.
    now: Names,
    /// Names that are durable.
    names: Names,
    /// Changes of the names of files that are not durable.
    renaming: Vec<(PathBuf, &'a Change)>,
}

type Names = BTreeMap<PathBuf, PathBuf>;

#[derive(Clone, Debug, Default)]
struct Kept<'a> {
    durable: FileState,
    pending: Vec<&'a Change>,
    /// Goes on with every change of the file's times.
    clock: u64,
    /// What the times are on disk. A crash leaves these, which is the worst that it can do.
    durable_clock: u64,
}

impl<'a> Files<'a> {
    /// Takes a file as it is now, all of it durable.
    pub(crate) fn import(&mut self, path: &Path) -> io::Result<()> {
        self.take(path, FileState::load(path)?);
        Ok(())
    }

    fn take(&mut self, path: &Path, durable: FileState) {
        self.names.insert(path.to_owned(), path.to_owned());
        self.now.insert(path.to_owned(), path.to_owned());
        self.files.insert(path.to_owned(), Kept { durable, ..Kept::default() });
    }

    /// Does what `change` says.
    pub(crate) fn apply(&mut self, path: &Path, change: &'a Change) {
        if *change == Change::SyncFolder {
            let (durable, rest) = std::mem::take(&mut self.renaming)
                .into_iter()
                .partition(|(file, _)| file.parent() == Some(path));
            self.renaming = rest;
            let durable: Vec<_> = durable;
            durable.iter().for_each(|(file, change)| rename(&mut self.names, file, change));
            return;
        }
        let known = self.now.get(path).cloned();
        if known.is_none() && *change != Change::Create {
            // The test made it, and not what is tested.
            self.take(path, FileState::default());
        }
        let key = known.unwrap_or_else(|| path.to_owned());
        let file = self.files.entry(key.clone()).or_default();
        match change {
            Change::Sync | Change::SyncAll => {
                file.pending.drain(..).for_each(|change| file.durable.apply(change));
                if *change == Change::SyncAll {
                    file.durable_clock = file.clock;
                }
            }
            Change::Create | Change::Rename(_) | Change::Remove => {
                rename(&mut self.now, &key, change);
                self.renaming.push((key, change));
            }
            Change::Renew => file.clock += 1,
            change => {
                file.clock += 1;
                file.pending.push(change);
            }
        }
    }

    /// What the times of a file are now, and what they are on disk.
    pub(super) fn clocks(&self, path: &Path) -> (u64, u64) {
        let file = self.now.get(path).and_then(|file| self.files.get(file));
        file.map_or((0, 0), |file| (file.clock, file.durable_clock))
    }

    /// Whether a crash can take anything.
    pub(super) fn any_pending(&self) -> bool {
        !self.renaming.is_empty() || self.files.values().any(|file| !file.pending.is_empty())
    }

    /// What a crash leaves: everything, or by chance what each file and name happens to keep.
    pub(super) fn crash(&self, keep_all: bool, dice: &mut Dice) -> Crashed {
        let kept = if keep_all { self.renaming.len() } else { dice.below(self.renaming.len() + 1) };
        let mut names = self.names.clone();
        self.renaming[..kept].iter().for_each(|(name, change)| rename(&mut names, name, change));
        let (mut files, mut told) = (BTreeMap::new(), Vec::new());
        for (path, file) in &self.files {
            let mut state = file.durable.clone();
            if !file.pending.is_empty() {
                let fate = match keep_all {
                    true => Fate::All,
                    false => Fate::any(dice, file.pending.len()),
                };
                let allocate = dice.chance(40);
                match self.format(path) {
                    Format::Layer => {
                        fate.befall_blocks(&mut state, &file.pending, allocate, dice);
                    }
                    _ => fate.befall(&mut state, &file.pending, allocate, dice),
                }
                told.push(format!(
                    "{}: {fate:?} of {} pending, allocated {allocate}",
                    path.display(),
                    file.pending.len()
                ));
            }
            files.insert(path.clone(), state);
        }
        Crashed { files, names, told }
    }

    /// The format that a file's name tells.
    fn format(&self, path: &Path) -> Format {
        let named = self.now.iter().find(|(_, file)| *file == path).map(|(name, _)| &**name);
        Format::of_name(named.unwrap_or(path))
    }
}

/// Changes the name of the file that is known by `path`.
fn rename(names: &mut Names, path: &Path, change: &Change) {
    names.retain(|_, file| file != path);
    match change {
        Change::Create => drop(names.insert(path.to_owned(), path.to_owned())),
        Change::Rename(next) => drop(names.insert(next.clone(), path.to_owned())),
        _ => {}
    }
}

/// Files as a crash left them.
#[derive(Clone, Debug)]
pub(super) struct Crashed {
    files: BTreeMap<PathBuf, FileState>,
    names: Names,
    /// What became of what was not durable, for messages.
    pub(super) told: Vec<String>,
}

impl Crashed {
    /// Puts these files where they belong, if they are among `wanted`; removes those of `wanted`
    /// that have no name.
    pub(super) fn store(&self, wanted: &BTreeSet<PathBuf>) -> io::Result<()> {
        for path in wanted.iter().filter(|path| !self.names.contains_key(*path)) {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        for (name, file) in self.names.iter().filter(|(name, _)| wanted.contains(*name)) {
            self.files[file].store(name)?;
        }
        Ok(())
    }

    /// The same files, all of them durable.
    pub(super) fn settled<'a>(&self) -> Files<'a> {
        let mut files = Files::default();
        for (name, file) in &self.names {
            files.take(name, self.files[file].clone());
        }
        files
    }
}
