//! A child and its parent, for tools to work on.

use std::fmt;
use std::path::{Path, PathBuf};

use super::files::Files;
use super::history::{PARENT, Version, ZERO, contents};
use super::session::{MEMORY, SIZE, WINDOWS, look, make_parent};
use super::walk::{State, Walk, samples};
use super::{Change, Dice, Recorder};
use crate::DiskQueue;
use crate::disk::{Disk, DiskOptions};
use crate::format::Format;
use crate::identity::Identity;
use crate::request::Operation;
use crate::testkit::{self, READ_ONLY, WRITABLE};
use crate::tools::{self, Create, DiskName, Unwatched};
use crate::units::SECTOR;

pub(super) type Sectors = Vec<(u64, Version)>;

/// How many states were looked at.
#[derive(Debug, Default)]
pub(super) struct Count {
    pub(super) states: usize,
    /// Of these, those in which the work was done.
    pub(super) complete: usize,
    /// How many files QEMU has looked at, too.
    pub(super) checked: usize,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Count { states, complete, checked } = self;
        write!(f, "{states} states, {complete} with all done, {checked} checked by QEMU")
    }
}

/// A child and its parent, recorded from their first bytes on.
pub(super) struct Pair {
    pub(super) folder: tempfile::TempDir,
    pub(super) parent: PathBuf,
    pub(super) child: PathBuf,
    pub(super) recorder: Recorder,
    /// Changes that do not take place.
    pub(super) lost: fn(&Change) -> bool,
    /// What the parent holds, and the child.
    pub(super) below: Sectors,
    pub(super) above: Sectors,
    /// The parent's identity, and what stands for the times of its file, when the child was made.
    pub(super) identity: Identity,
    pub(super) clock: u64,
}

impl Pair {
    /// In the child, some things are written, some erased, and some are the parent's.
    pub(super) fn new(parent: Format, child: Format, seed: u64) -> Pair {
        let folder = tempfile::tempdir_in(MEMORY).unwrap();
        let [parent, child] = [("parent", parent), ("child", child)]
            .map(|(name, format)| testkit::file_in(folder.path(), name, format));
        let recorder = Recorder::default();
        let installed = recorder.install();
        make_parent(&parent, SIZE);
        tools::create(&new(&child, Some(&parent)), &Unwatched).unwrap();
        let (changes, mut files) = (recorder.changes(), Files::default());
        changes.iter().for_each(|(path, change)| files.apply(path, change));
        let (clock, _) = files.clocks(&parent);
        scribble(&mut queue(&child), &mut Dice::new(seed));
        drop(installed);
        let [below, above] = [&parent, &child].map(|path| read(path, &READ_ONLY).unwrap());
        assert_ne!(below, above);
        let identity = testkit::identity(&parent);
        Pair { folder, parent, child, recorder, lost: |_| false, below, above, identity, clock }
    }

    /// Does `work`, then calls `look` for the states in which a crash could leave the files while
    /// it is done; it is told of the end. Says how many those were, or what was found.
    pub(super) fn crash(
        &self,
        seed: u64,
        work: impl FnOnce(),
        mut look: impl FnMut(&State<'_>, bool) -> Result<(), String>,
    ) -> Result<usize, String> {
        let begin = self.recorder.len();
        let installed = self.recorder.install();
        work();
        drop(installed);
        let mut changes = self.recorder.changes();
        let mut after = changes.split_off(begin);
        after.retain(|(_, change)| !(self.lost)(change));
        changes.append(&mut after);
        // Much can be pending at once here.
        let walk = Walk { changes: &changes, begin, samples: 2 * samples(), seed };
        let (parent, child) = (self.parent.display(), self.child.display());
        walk.each(Files::default(), |state, _| look(state, state.time == changes.len()))
            .map_err(|what| format!("{child} on {parent}: {what}"))
    }
}

/// Writes and erases here and there.
fn scribble(queue: &mut DiskQueue, dice: &mut Dice) {
    for number in 0..16 {
        let first = WINDOWS[dice.below(WINDOWS.len())] + dice.roll() % 100;
        let count = 1 + dice.roll() % 28;
        let erased = match dice.below(6) {
            0 => Operation::Discard,
            1 => Operation::WriteZeroes { unmap: dice.chance(50) },
            _ => {
                let bytes = contents(first, count, 2 + number);
                testkit::write(queue, first * SECTOR, &bytes).unwrap();
                continue;
            }
        };
        testkit::erase(queue, erased, first * SECTOR, count * SECTOR).unwrap();
    }
    testkit::flush(queue).unwrap();
}

fn queue(path: &Path) -> DiskQueue {
    Disk::open(path, &WRITABLE).unwrap().queue(1).unwrap()
}

pub(super) fn named(path: &Path) -> DiskName {
    DiskName { path: path.to_owned(), format: None, allow_mismatch: false }
}

/// What a disk holds.
pub(super) fn read(path: &Path, options: &DiskOptions) -> Result<Sectors, String> {
    let disk = Disk::open(path, options).map_err(|error| format!("does not open: {error:?}"))?;
    for layer in disk.state().chain.layers() {
        let findings = layer.check(false).map_err(|error| format!("{error:?}"))?;
        if let Some(harm) = findings.iter().find(|finding| !finding.harmless) {
            return Err(format!("{:?}: {harm:?}", layer.info().format));
        }
    }
    look(&mut disk.queue(1).unwrap())
}

/// The order for a disk.
pub(super) fn new(path: &Path, parent: Option<&Path>) -> Create {
    Create {
        path: path.to_owned(),
        format: None,
        size: parent.is_none().then_some(SIZE),
        parent: parent.map(named),
        fixed: false,
        protect: false,
        digest: false,
    }
}

#[test]
fn what_is_looked_at_differs_from_the_parent() {
    let pair = Pair::new(Format::Raw, Format::Layer, 0);
    assert!(pair.below.iter().all(|&(_, version)| version == PARENT));
    let versions = |wanted: Version| pair.above.iter().filter(|(_, v)| *v == wanted).count();
    assert!(versions(PARENT) > 100 && versions(ZERO) > 0 && versions(2) > 0);
}
