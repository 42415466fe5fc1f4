//! What tests record of a disk's files, to replay every crash that could have happened.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

mod fate;
mod faults;
mod file;
mod files;
mod history;
mod pair;
mod replay;
mod session;
mod tests;
mod tools;
mod walk;

pub(crate) use files::Files;
pub(crate) use replay::qemu_check;
pub(crate) use walk::{Walk, samples};

/// A change of a file or of its name, or the point until which those before are durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Bytes were written.
    Write { at: u64, bytes: Vec<u8> },
    /// A range became a hole.
    Punch { at: u64, len: u64 },
    /// A range became zero and kept or got its space.
    ZeroRange { at: u64, len: u64 },
    /// The file's length was set.
    SetLen(u64),
    /// The file's times were set to now.
    Renew,
    /// Everything before is durable, but not the file's times (`fdatasync`).
    Sync,
    /// Everything before is durable, and so are the file's times (`fsync`).
    SyncAll,
    /// The file was made. The path that it got is the one by which changes tell it from then on.
    Create,
    /// The file got another name.
    Rename(PathBuf),
    /// The file lost its name.
    Remove,
    /// Of a folder: all names in it are durable.
    SyncFolder,
}

impl Change {
    /// Whether what a file held before is durable after it.
    pub(crate) fn is_sync(&self) -> bool {
        matches!(self, Change::Sync | Change::SyncAll)
    }
}

/// Everything that happened to a disk's files, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorder(Arc<Mutex<Vec<(PathBuf, Change)>>>);

thread_local! {
    static INSTALLED: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

/// While it lives, every image that this thread opens is recorded.
#[derive(Debug)]
pub(crate) struct Installed(());

impl Drop for Installed {
    fn drop(&mut self) {
        INSTALLED.with_borrow_mut(|installed| *installed = None);
    }
}

impl Recorder {
    /// Records the images that this thread opens from now on.
    pub(crate) fn install(&self) -> Installed {
        INSTALLED.with_borrow_mut(|installed| *installed = Some(self.clone()));
        Installed(())
    }

    /// The recorder of images that this thread opens.
    pub(crate) fn installed() -> Option<Recorder> {
        INSTALLED.with_borrow(Clone::clone)
    }

    /// Takes note of a change by this thread that no image tells, if anybody wants to know.
    pub(crate) fn note(path: &Path, change: Change) {
        if let Some(recorder) = Recorder::installed() {
            recorder.push(path, change);
        }
    }

    /// Takes note of a change.
    pub(crate) fn push(&self, path: &Path, change: Change) {
        self.0.lock().unwrap().push((path.to_owned(), change));
    }

    /// What happened so far.
    pub(crate) fn changes(&self) -> Vec<(PathBuf, Change)> {
        self.0.lock().unwrap().clone()
    }

    /// How many changes there were so far.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// Numbers that look random and are the same for the same seed (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Dice that always fall the same way for this seed.
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// Any number.
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `count`, which is not 0.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.roll() % count as u64).unwrap()
    }

    /// True in `parts` of a hundred cases.
    pub(crate) fn chance(&mut self, parts: usize) -> bool {
        self.below(100) < parts
    }
}
