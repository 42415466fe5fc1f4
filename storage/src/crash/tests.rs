//! Crashes of disks of every format, as a base and as a child.

use super::history::Deed;
use super::replay::{Tally, replay};
use super::session::{Kind, Session};
use super::{Change, Recorder};
use crate::format::Format;

/// Requests in a session.
const STEPS: usize = 45;
/// Sessions of each kind in memory. On disk there is one: syncs take their time there.
const SEEDS: u64 = 3;

/// States for each crash besides the plain one; `COHORT_CRASH_STATES` asks for more.
fn samples() -> usize {
    let wanted = std::env::var("COHORT_CRASH_STATES").ok();
    wanted.map_or(3, |number| number.parse().expect("COHORT_CRASH_STATES is a number"))
}

/// A folder in memory, where a sync costs nothing and so states are cheap.
const MEMORY: &str = "/dev/shm";
/// A folder on a file system that may know space that is allocated and not written.
const DISK: &str = env!("CARGO_MANIFEST_DIR");

/// Replays the crashes of disks of this kind.
fn survives(format: Format, parent: Option<Format>, place: &'static str) {
    let kind = Kind { format, parent, place };
    let mut total = Tally::default();
    for seed in 0..if place == MEMORY { SEEDS } else { 1 } {
        let session = Session::record(kind, seed, STEPS);
        let Tally { states, checked } =
            replay(&session, samples(), seed).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        total.states += states;
        total.checked += checked;
    }
    println!("{} states, {} of them checked by QEMU", total.states, total.checked);
    assert!(total.states > 100, "{total:?}");
}

#[test]
fn raw_base() {
    survives(Format::Raw, None, MEMORY);
}

#[test]
fn layer_base() {
    survives(Format::Layer, None, MEMORY);
}

#[test]
fn layer_on_raw() {
    survives(Format::Layer, Some(Format::Raw), MEMORY);
}

#[test]
fn layer_on_raw_on_disk() {
    survives(Format::Layer, Some(Format::Raw), DISK);
}

#[test]
fn qcow2_base() {
    survives(Format::Qcow2, None, MEMORY);
}

#[test]
fn qcow2_on_raw() {
    survives(Format::Qcow2, Some(Format::Raw), MEMORY);
}

#[test]
fn vhdx_base() {
    survives(Format::Vhdx, None, MEMORY);
}

#[test]
fn vhdx_on_raw() {
    survives(Format::Vhdx, Some(Format::Raw), MEMORY);
}

/// A session without the changes for which `lost` says so: something without effect takes their
/// place, so that times stay what they are.
fn without(mut session: Session, lost: impl Fn(usize, &Change) -> bool) -> Session {
    let recorder = Recorder::default();
    for (number, (path, change)) in session.recorder.changes().into_iter().enumerate() {
        let nothing = Change::Punch { at: 0, len: 0 };
        recorder.push(&path, if lost(number, &change) { nothing } else { change });
    }
    session.recorder = recorder;
    session
}

/// A disk that never syncs loses what was flushed: this must be seen.
#[test]
fn a_missing_sync_is_found() {
    for format in Format::ALL {
        let kind = Kind { format, parent: None, place: MEMORY };
        let session = Session::record(kind, 1, STEPS);
        let begin = session.begin;
        let session = without(session, |at, change| at >= begin && *change == Change::Sync);
        let found = replay(&session, 8, 1).unwrap_err();
        println!("{format}: {found}");
    }
}

/// A disk that changes under its old identity deceives its children: this must be seen.
#[test]
fn a_missing_renewal_is_found() {
    for format in Format::ALL.into_iter().filter(|&format| format != Format::Raw) {
        let kind = Kind { format, parent: None, place: MEMORY };
        let session = Session::record(kind, 1, STEPS);
        let (begin, changes) = (session.begin, session.recorder.changes());
        // What comes before the first request's own changes is the renewal.
        let first = session.history.events.iter().find(|event| event.start >= begin).unwrap();
        assert_ne!(first.deed, Deed::Flush);
        let renewed = changes[begin..].iter().position(|(_, change)| *change == Change::Sync);
        let last =
            changes[begin..first.end].iter().rposition(|(_, change)| *change == Change::Sync);
        assert!(renewed.is_some() && last.is_some(), "{format}: nothing was synced");
        let end = begin + last.unwrap();
        let session = without(session, |at, _| (begin..end).contains(&at));
        let found = replay(&session, 8, 1).unwrap_err();
        println!("{format}: {found}");
        assert!(found.contains("the identity is still"), "{format}: {found}");
    }
}
