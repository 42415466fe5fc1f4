//! A disk in use, recorded from the first byte of its files on.

use std::path::PathBuf;

use super::history::{self, Deed, Event, History, PARENT, Version, ZERO, contents, version_of};
use super::{Dice, Recorder};
use crate::buffers::Buffers;
use crate::disk::Disk;
use crate::engine::record::Recording;
use crate::format::Format;
use crate::identity::Identity;
use crate::request::Operation;
use crate::testkit::{self, READ_ONLY, SECTOR_BYTES, WRITABLE, request};
use crate::units::SECTOR;
use crate::{Answer, DiskQueue};

/// Bytes of the disk.
const SIZE: u64 = 72 << 20;
/// Sectors in a window.
const WINDOW: u64 = 128;
/// First sectors of the parts of the disk that are used and looked at: its ends, and the borders of
/// blocks of 1, 2 and 32 MiB.
const WINDOWS: [u64; 5] = [0, 2048 - 64, 4096 - 64, 65_536 - 64, SIZE / SECTOR - WINDOW];

/// A kind of disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) format: Format,
    pub(super) parent: Option<Format>,
    /// The folder in which its own folder is made.
    pub(super) place: &'static str,
}

/// A disk's files and all that happened to them.
pub(super) struct Session {
    _folder: tempfile::TempDir,
    /// The top layer's file. Its parent is not changed.
    pub(super) path: PathBuf,
    pub(super) recorder: Recorder,
    pub(super) history: History,
    /// Changes before the last time that the disk was opened for writing.
    pub(super) begin: usize,
    /// What the disk held then, and under which identity.
    pub(super) before: Vec<(u64, Version)>,
    pub(super) identity: Identity,
}

impl Session {
    /// Makes a disk at this place, on a parent if one is named, uses it twice, and records it all.
    pub(super) fn record(kind: Kind, seed: u64, steps: usize) -> Session {
        let Kind { format, parent, place } = kind;
        let folder = tempfile::tempdir_in(place).unwrap();
        let path = testkit::file_in(folder.path(), "top", format);
        let recorder = Recorder::default();
        let _installed = recorder.install();
        let first = if parent.is_some() { PARENT } else { ZERO };
        let looked_at = WINDOWS.into_iter().flat_map(|window| window..window + WINDOW);
        let initial = looked_at.map(|sector| (sector, first)).collect();
        let below = parent.map(|format| testkit::file_in(folder.path(), "parent", format));
        if let Some(below) = &below {
            testkit::create(below, SIZE, None).unwrap();
            let mut queue = Disk::open(below, &WRITABLE).unwrap().queue(1).unwrap();
            for first in WINDOWS {
                let bytes = contents(first, WINDOW, PARENT);
                testkit::write(&mut queue, first * SECTOR, &bytes).unwrap();
            }
        }
        testkit::create(&path, SIZE, below.as_deref()).unwrap();
        let history = History { initial, events: Vec::new() };
        let identity = testkit::identity(&path);
        let mut session = Session {
            _folder: folder,
            path,
            recorder,
            history,
            begin: 0,
            before: Vec::new(),
            identity,
        };
        let mut dice = Dice::new(seed);
        session.work(&mut dice, steps / 3);
        session.begin = session.recorder.len();
        session.identity = testkit::identity(&session.path);
        let mut reader = Disk::open(&session.path, &READ_ONLY).unwrap().queue(1).unwrap();
        session.before = look(&mut reader).unwrap();
        drop(reader);
        session.work(&mut dice, steps);
        session
    }

    /// Opens the disk, works with it, and closes it.
    fn work(&mut self, dice: &mut Dice, steps: usize) {
        let disk = Disk::open(&self.path, &WRITABLE).unwrap();
        let mut queue = disk.queue_on(Recording::new(&self.recorder, dice.roll()), 8);
        drop(disk);
        let mut open = Vec::new();
        for _ in 0..steps {
            let (deed, first, count) = deed(dice, self.history.events.len());
            let busy = |&number: &usize| {
                let other: &Event = &self.history.events[number];
                other.first < first + count && first < other.first + other.count
            };
            if open.len() > 3 || open.iter().any(busy) || dice.chance(30) {
                self.answer(&mut queue, &mut open);
            }
            let start = self.recorder.len();
            let number = self.history.events.len();
            self.history.events.push(Event { deed, first, count, start, end: usize::MAX });
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
        self.answer(&mut queue, &mut open);
        // Closing is as good as a flush, except of a raw disk, which has nothing to leave in order.
        let start = self.recorder.len();
        if Format::of_name(&self.path) == Format::Raw {
            testkit::flush(&mut queue).unwrap();
        }
        drop(queue);
        let end = self.recorder.len();
        self.history.events.push(Event { deed: Deed::Flush, first: 0, count: 0, start, end });
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

    fn ended(&mut self, open: &mut Vec<usize>, number: usize, result: Result<(), crate::IoError>) {
        result.unwrap();
        open.retain(|other| *other != number);
        self.history.events[number].end = self.recorder.len();
    }
}

/// Something to do, and where.
fn deed(dice: &mut Dice, number: usize) -> (Deed, u64, u64) {
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
    let unit = if dice.chance(50) { 8 } else { 1 };
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

/// Writes some sectors here and there, each with another version, and says which.
pub(super) fn touch(queue: &mut DiskQueue, dice: &mut Dice) -> Vec<(u64, Version)> {
    let mut written = Vec::new();
    for number in 0..4 {
        let sector = WINDOWS[dice.below(WINDOWS.len())] + dice.roll() % WINDOW;
        let version = 0xffff_0000 + number;
        let bytes = history::content(sector, version);
        testkit::write(queue, sector * SECTOR, &bytes).unwrap();
        written.push((sector, version));
    }
    written
}
