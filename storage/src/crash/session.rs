//! A disk in use, recorded from the first byte of its files on.

use std::path::{Path, PathBuf};

use cohort_tests::oracles::Qemu;

use super::files::Files;
use super::history::{Deed, Event, History, PARENT, Version, ZERO, contents, version_of};
use super::{Change, Dice, Recorder};
use crate::buffers::Buffers;
use crate::disk::Disk;
use crate::engine::record::Recording;
use crate::error::IoError;
use crate::format::Format;
use crate::formats::NewLayer;
use crate::identity::Identity;
use crate::request::Operation;
use crate::testkit::{self, READ_ONLY, SECTOR_BYTES, WRITABLE, request};
use crate::units::SECTOR;
use crate::{Answer, DiskQueue};

/// Bytes of the disk.
pub(super) const SIZE: u64 = 72 << 20;
/// Sectors in a window.
const WINDOW: u64 = 128;
/// First sectors of the parts of the disk that are used and looked at: its ends, and the borders of
/// blocks of 1, 2 and 32 MiB.
pub(super) const WINDOWS: [u64; 5] = [0, 2048 - 64, 4096 - 64, 65_536 - 64, SIZE / SECTOR - WINDOW];

/// The first of the versions that are written after a crash.
const TOUCHED: Version = 0xffff_0000;

/// A folder in memory, where a sync costs nothing and so states are cheap.
pub(super) const MEMORY: &str = "/dev/shm";

/// A kind of disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) format: Format,
    pub(super) parent: Option<Format>,
    /// Bytes of the parent.
    pub(super) below: u64,
    /// The folder in which its own folder is made.
    pub(super) place: &'static str,
    /// Bytes of its logical blocks.
    pub(super) sector: u32,
    /// Whether all of its space is taken at once.
    pub(super) fixed: bool,
    /// Whether it is one of QEMU's, with the smallest clusters, so that there are many tables, and
    /// so full that the table of counts moves.
    pub(super) crowded: bool,
}

impl Kind {
    /// In memory, on a parent of the same size, with blocks of 512 bytes that take space when they are written.
    pub(super) const fn new(format: Format, parent: Option<Format>) -> Kind {
        let (below, place, sector, fixed) = (SIZE, MEMORY, 512, false);
        Kind { format, parent, below, place, sector, fixed, crowded: false }
    }
}

/// A disk before it is opened for writing.
pub(super) struct Epoch {
    /// Changes until then.
    pub(super) begin: usize,
    /// What it holds, and under which identity.
    pub(super) before: Vec<(u64, Version)>,
    pub(super) identity: Identity,
    /// What stands for the times of its file then.
    pub(super) clock: u64,
}

/// A disk's files and all that happened to them.
pub(super) struct Session {
    _folder: tempfile::TempDir,
    /// The top layer's file. Its parent is not changed.
    pub(super) path: PathBuf,
    pub(super) recorder: Recorder,
    pub(super) history: History,
    pub(super) epochs: Vec<Epoch>,
    /// What requests were answered that failed, by their number in the history.
    pub(super) errors: Vec<(usize, IoError)>,
    /// Sectors in a logical block.
    pub(super) unit: u64,
}

impl Session {
    /// Makes a disk of this kind, uses it four times, and records it all.
    pub(super) fn record(kind: Kind, seed: u64, steps: usize) -> Session {
        let mut dice = Dice::new(seed);
        let mut session = Session::make(kind, &mut dice, steps / 3);
        let installed = session.recorder.install();
        for steps in [steps, steps / 6, steps / 3] {
            session.begin_epoch();
            session.work(&mut dice, steps);
        }
        drop(installed);
        session
    }

    /// Makes a disk of this kind, uses it once, and records it all.
    pub(super) fn make(kind: Kind, dice: &mut Dice, steps: usize) -> Session {
        let folder = tempfile::tempdir_in(kind.place).unwrap();
        let path = testkit::file_in(folder.path(), "top", kind.format);
        let recorder = Recorder::default();
        let _installed = recorder.install();
        let parent = kind.parent.map(|format| testkit::file_in(folder.path(), "parent", format));
        let parent = parent.as_deref();
        if let Some(parent) = parent {
            make_parent(parent, kind.below);
        }
        let parent = parent.map(testkit::link_to);
        let new =
            NewLayer { size: SIZE, sector: kind.sector, parent, fixed: kind.fixed, traits: None };
        match kind.crowded {
            true => make_crowded(&path, &recorder),
            false => testkit::create_linked(&path, &new).unwrap(),
        }
        let parents = if new.parent.is_some() { kind.below / SECTOR } else { 0 };
        let first = |sector| if sector < parents { PARENT } else { ZERO };
        let initial = sectors().map(|sector| (sector, first(sector))).collect();
        let history = History { initial, events: Vec::new() };
        let unit = u64::from(kind.sector) / SECTOR;
        let (epochs, errors) = (Vec::new(), Vec::new());
        let mut session =
            Session { _folder: folder, path, recorder, history, epochs, errors, unit };
        session.work(dice, steps);
        session
    }

    /// Takes note of what the disk is before it is opened for writing again.
    pub(super) fn begin_epoch(&mut self) {
        let disk = Disk::open(&self.path, &READ_ONLY).unwrap();
        let before = look(&mut disk.queue(1).unwrap()).unwrap();
        let identity = testkit::top(&disk).identity().unwrap();
        drop(disk);
        if Format::of_name(&self.path) == Format::Raw {
            // As whoever takes note of an identity that rests on times.
            self.recorder.push(&self.path, Change::SyncAll);
        }
        let (begin, clock) = (self.recorder.len(), self.clock());
        self.epochs.push(Epoch { begin, before, identity, clock });
    }

    /// What stands for the times of the disk's file now.
    fn clock(&self) -> u64 {
        let (changes, mut files) = (self.recorder.changes(), Files::default());
        changes.iter().for_each(|(path, change)| files.apply(path, change));
        files.clocks(&self.path).0
    }

    /// How many changes there were before the disk was opened for writing the second time.
    pub(super) fn begin(&self) -> usize {
        self.epochs[0].begin
    }

    /// Opens the disk, works with it, and closes it.
    fn work(&mut self, dice: &mut Dice, steps: usize) {
        let disk = Disk::open(&self.path, &WRITABLE).unwrap();
        let mut queue = disk.queue_on(Recording::new(&self.recorder, dice.roll()), 8);
        drop(disk);
        self.ask(&mut queue, dice, steps);
        assert!(self.errors.is_empty(), "{:?}", self.errors);
        // Closing is as good as a flush, except of a raw disk, which has nothing to leave in order.
        let start = self.recorder.len();
        if Format::of_name(&self.path) == Format::Raw {
            testkit::flush(&mut queue).unwrap();
        }
        drop(queue);
        self.flushed(start, false);
    }

    /// Takes note of a flush that has just been answered, or of what is as good as one.
    pub(super) fn flushed(&mut self, start: usize, failed: bool) {
        let (end, deed) = (self.recorder.len(), Deed::Flush);
        self.history.events.push(Event { deed, first: 0, count: 0, start, end, failed });
    }

    /// Asks for so much, and waits for the answers.
    pub(super) fn ask(&mut self, queue: &mut DiskQueue, dice: &mut Dice, steps: usize) {
        let mut open = Vec::new();
        for _ in 0..steps {
            let (deed, first, count) = deed(dice, self.history.events.len(), self.unit);
            let busy = |&number: &usize| {
                let other: &Event = &self.history.events[number];
                other.first < first + count && first < other.first + other.count
            };
            if open.len() > 3 || open.iter().any(busy) || dice.chance(30) {
                self.answer(queue, &mut open);
            }
            let start = self.recorder.len();
            let number = self.history.events.len();
            let (end, failed) = (usize::MAX, false);
            self.history.events.push(Event { deed, first, count, start, end, failed });
            open.push(number);
            let (operation, buffers) = match deed {
                Deed::Write(version) => {
                    let memory = testkit::filled(&contents(first, count, version));
                    (Operation::Write, Buffers::whole(&memory))
                }
                Deed::Zero { unmap } => (Operation::WriteZeroes { unmap }, Buffers::none()),
                Deed::Discard => (Operation::Discard, Buffers::none()),
                Deed::Flush => (Operation::Flush, Buffers::none()),
            };
            let request = request(operation, first * SECTOR, count * SECTOR, buffers);
            if let Some(result) = queue.submit(number as u64, request) {
                self.ended(&mut open, number, result);
            }
        }
        self.answer(queue, &mut open);
    }

    fn answer(&mut self, queue: &mut DiskQueue, open: &mut Vec<usize>) {
        while queue.in_flight() > 0 {
            let mut done: Vec<Answer> = Vec::new();
            queue.poll(&mut done);
            for (token, result) in done {
                self.ended(open, usize::try_from(token).unwrap(), result);
            }
        }
        assert!(open.is_empty());
    }

    fn ended(&mut self, open: &mut Vec<usize>, number: usize, result: Result<(), IoError>) {
        open.retain(|other| *other != number);
        let event = &mut self.history.events[number];
        (event.end, event.failed) = (self.recorder.len(), result.is_err());
        self.errors.extend(result.err().map(|error| (number, error)));
    }
}

/// Lets QEMU make a base of clusters of 512 bytes, and writes nearly as much as its refcount table
/// can count: where nobody looks.
fn make_crowded(path: &Path, recorder: &Recorder) {
    let (size, options) = (SIZE.to_string(), "cluster_size=512,refcount_bits=64");
    let create = ["create", "-q", "-f", "qcow2", "-o", options, path.to_str().unwrap(), &size];
    Qemu::installed().img(&create);
    recorder.push(path, Change::Write { at: 0, bytes: std::fs::read(path).unwrap() });
    let mut queue = Disk::open(path, &WRITABLE).unwrap().queue(1).unwrap();
    testkit::write(&mut queue, 8 << 20, &[3; 1700 << 10]).unwrap();
}

/// Makes a base of `size` bytes that holds [`PARENT`].
pub(super) fn make_parent(path: &Path, size: u64) {
    testkit::create(path, size, None).unwrap();
    let mut queue = Disk::open(path, &WRITABLE).unwrap().queue(1).unwrap();
    let sectors = size / SECTOR;
    for first in WINDOWS.into_iter().filter(|first| *first < sectors) {
        let count = WINDOW.min(sectors - first);
        testkit::write(&mut queue, first * SECTOR, &contents(first, count, PARENT)).unwrap();
    }
    testkit::flush(&mut queue).unwrap();
}

/// The sectors that are looked at.
fn sectors() -> impl Iterator<Item = u64> {
    WINDOWS.into_iter().flat_map(|window| window..window + WINDOW)
}

/// Something to do, and where, in units of some sectors.
fn deed(dice: &mut Dice, number: usize, unit: u64) -> (Deed, u64, u64) {
    let deed = match dice.below(100) {
        0..=12 => return (Deed::Flush, 0, 0),
        13..=24 => Deed::Zero { unmap: dice.chance(50) },
        25..=38 => Deed::Discard,
        _ => Deed::Write(2 + Version::try_from(number).unwrap()),
    };
    if !matches!(deed, Deed::Write(_)) && dice.chance(30) {
        // Whole blocks. Zeroes may be written where space must be kept: not so many of them.
        return match deed {
            Deed::Zero { unmap: false } => (deed, 2048 * dice.below(4) as u64, 2048),
            _ if dice.chance(30) => (deed, 0, 65_536),
            _ => (deed, [0, 2048, 4096, 63_488, 65_536][dice.below(5)], 4096),
        };
    }
    let window = WINDOWS[dice.below(WINDOWS.len())];
    let unit = if dice.chance(50) { 8 } else { unit };
    let first = dice.roll() % WINDOW / unit * unit;
    let count = (1 + dice.roll() % 40).next_multiple_of(unit).min(WINDOW - first);
    (deed, window + first, count)
}

/// The sectors that are looked at, and what they hold; the error is one that holds something else.
pub(super) fn look(queue: &mut DiskQueue) -> Result<Vec<(u64, Version)>, String> {
    let mut seen = Vec::new();
    for window in WINDOWS {
        let len = usize::try_from(SECTOR * WINDOW).unwrap();
        let bytes = testkit::read(queue, window * SECTOR, len)
            .map_err(|error| format!("reading failed: {error:?}"))?;
        for (sector, bytes) in (window..).zip(bytes.chunks_exact(SECTOR_BYTES)) {
            let version = version_of(sector, bytes).ok_or_else(|| {
                format!("sector {sector} holds what nobody wrote there: {:x?}", &bytes[..16])
            })?;
            seen.push((sector, version));
        }
    }
    Ok(seen)
}

/// Writes a unit of sectors here and there, each with another version, and puts that into `seen`.
pub(super) fn touch(
    queue: &mut DiskQueue,
    unit: u64,
    dice: &mut Dice,
    seen: &mut [(u64, Version)],
) -> Result<(), String> {
    // Each in another window: what is between old and new is one step.
    for (version, window) in (TOUCHED..TOUCHED + 4).zip(WINDOWS) {
        let first = window + dice.roll() % WINDOW / unit * unit;
        testkit::write(queue, first * SECTOR, &contents(first, unit, version))
            .map_err(|error| format!("writing failed: {error:?}"))?;
        let written = seen.iter_mut().filter(|(sector, _)| (first..first + unit).contains(sector));
        written.for_each(|(_, now)| *now = version);
    }
    Ok(())
}
