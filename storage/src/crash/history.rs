//! What was asked of a disk and when, and so what each of its sectors may hold after a crash.

use smallvec::SmallVec;

use crate::testkit::SECTOR_BYTES;

/// What a sector holds: zeroes, or the bytes that some write put there.
pub(super) type Version = u32;

/// Zeroes.
pub(super) const ZERO: Version = 0;
/// What the parent holds.
pub(super) const PARENT: Version = 1;

/// The bytes of a sector that holds `version`.
pub(super) fn content(sector: u64, version: Version) -> [u8; SECTOR_BYTES] {
    let mut bytes = [0; SECTOR_BYTES];
    if version != ZERO {
        let word = (u64::from(version) << 32 | sector).to_le_bytes();
        bytes.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&word));
    }
    bytes
}

/// The bytes of some sectors that hold `version`.
pub(super) fn contents(first: u64, count: u64, version: Version) -> Vec<u8> {
    (first..first + count).flat_map(|sector| content(sector, version)).collect()
}

/// What a sector holds, if it is something that was ever written there.
pub(super) fn version_of(sector: u64, bytes: &[u8]) -> Option<Version> {
    let word = u64::from_le_bytes(bytes.first_chunk().copied()?);
    let version = u32::try_from(word >> 32).ok()?;
    (bytes == content(sector, version)).then_some(version)
}

/// What a request does to its sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Write(Version),
    Zero {
        unmap: bool,
    },
    Discard,
    /// To all that was answered before it was submitted.
    Flush,
}

/// A request. Times are numbers of changes that the files have seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    pub(super) deed: Deed,
    pub(super) first: u64,
    pub(super) count: u64,
    /// When it was submitted.
    pub(super) start: usize,
    /// When it was answered.
    pub(super) end: usize,
    /// With an error: each of its sectors may be as before or as it was to be.
    pub(super) failed: bool,
}

/// All requests, in the order of their submission. No two on the same sector overlap in time.
#[derive(Clone, Debug)]
pub(super) struct History {
    /// The sectors that count, and what each held before the first request.
    pub(super) initial: Vec<(u64, Version)>,
    pub(super) events: Vec<Event>,
}

/// The versions that a sector may hold.
pub(super) type Allowed = SmallVec<[Version; 4]>;

impl History {
    /// What each of the sectors that count may hold after a crash at `time`.
    pub(super) fn allowed(&self, time: usize) -> Vec<Allowed> {
        self.states(time).1
    }

    /// What each of the sectors that count may hold if nothing crashes.
    pub(super) fn settled(&self) -> Vec<Allowed> {
        self.states(usize::MAX).0
    }

    /// Both.
    fn states(&self, time: usize) -> (Vec<Allowed>, Vec<Allowed>) {
        let flushes = self.events.iter().filter(|event| event.deed == Deed::Flush);
        let flushes = flushes.filter(|flush| flush.end <= time && !flush.failed);
        let durable = flushes.map(|flush| flush.start).max();
        let first: Vec<Allowed> =
            self.initial.iter().map(|&(_, version)| Allowed::from_slice(&[version])).collect();
        // What the sectors hold if nothing crashes, and what they may hold.
        let (mut settled, mut allowed) = (first.clone(), first);
        for event in self.events.iter().filter(|event| event.start < time) {
            for (index, (sector, _)) in self.initial.iter().enumerate() {
                if !(event.first..event.first + event.count).contains(sector) {
                    continue;
                }
                let now = &mut settled[index];
                match event.deed {
                    Deed::Flush => continue,
                    Deed::Write(version) if event.failed => now.push(version),
                    Deed::Zero { .. } | Deed::Discard if event.failed => now.push(ZERO),
                    Deed::Write(version) => *now = Allowed::from_slice(&[version]),
                    Deed::Zero { .. } => *now = Allowed::from_slice(&[ZERO]),
                    Deed::Discard => {
                        now.retain(|version| *version != PARENT);
                        now.push(ZERO);
                    }
                }
                now.dedup();
                if durable.is_some_and(|durable| event.end <= durable) {
                    allowed[index].clone_from(now);
                } else {
                    allowed[index].extend_from_slice(now);
                }
            }
        }
        (settled, allowed)
    }
}

#[test]
fn a_flush_settles_what_was_answered_before_it() {
    let event = |deed, start, end| Event { deed, first: 0, count: 1, start, end, failed: false };
    let events = vec![
        event(Deed::Write(7), 0, 2),
        event(Deed::Flush, 2, 4),
        event(Deed::Discard, 4, 5),
        event(Deed::Write(8), 6, 7),
        event(Deed::Flush, 6, 9),
    ];
    let history = History { initial: vec![(0, PARENT), (1, PARENT)], events };
    let allowed = |time| history.allowed(time)[0].to_vec();
    assert_eq!(allowed(0), [PARENT]);
    assert_eq!(allowed(3), [PARENT, 7]);
    assert_eq!(allowed(4), [7]);
    assert_eq!(allowed(6), [7, 7, ZERO]);
    assert_eq!(allowed(7), [7, 7, ZERO, 8]);
    assert_eq!(allowed(9), [7, ZERO, 8], "not answered before the flush was submitted");
    assert_eq!(history.allowed(9)[1].to_vec(), [PARENT]);
    let mut torn = history.clone();
    torn.events[3].failed = true;
    assert_eq!(torn.settled()[0].to_vec(), [7, ZERO, 8], "old or new");
    torn.events[1].failed = true;
    assert_eq!(torn.allowed(4)[0].to_vec(), [PARENT, 7], "nothing was flushed");
    assert_eq!(version_of(3, &content(3, 9)), Some(9));
    assert_eq!(version_of(4, &content(3, 9)), None);
    assert_eq!(version_of(4, &[0; SECTOR_BYTES]), Some(ZERO));
}
