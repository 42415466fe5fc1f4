//! Crashes of disks of every format in use, as a base and as a child.

use super::history::Deed;
use super::replay::{Tally, replay};
use super::session::{Kind, Session};
use super::walk::{samples, seeds};
use super::{Change, Recorder};
use crate::format::Format;

/// Requests in a session.
const STEPS: usize = 45;
/// A folder on a file system that may know space that is allocated and not written.
const DISK: &str = env!("CARGO_MANIFEST_DIR");

/// Replays the crashes of disks of this kind, from so many sessions, and tells how many states
/// those were.
fn survives(kind: Kind, sessions: usize) {
    let mut total = Tally::default();
    for seed in seeds(sessions) {
        let session = Session::record(kind, seed, STEPS);
        let tally = replay(&session, samples(), seed);
        total += tally.unwrap_or_else(|what| panic!("{kind:?}, session {seed}: {what}"));
    }
    let Kind { format, parent, sector, .. } = kind;
    let below = parent.map_or_else(String::new, |parent| format!(" on {parent}"));
    println!("{format}{below}, blocks of {sector}: {total}");
    assert!(total.states > 100 && total.second > 0, "{total:?}");
    let known = match format {
        Format::Qcow2 => parent != Some(Format::Layer),
        Format::Vhdx => parent.is_none() && sector == 512,
        _ => false,
    };
    assert_eq!(total.checked > 0, known, "QEMU knows such disks, or does not: {total:?}");
}

#[test]
fn raw_base() {
    survives(Kind::new(Format::Raw, None), 2);
}

#[test]
fn layer_base() {
    survives(Kind::new(Format::Layer, None), 4);
}

#[test]
fn layer_on_raw() {
    survives(Kind::new(Format::Layer, Some(Format::Raw)), 4);
}

#[test]
fn layer_on_raw_on_disk() {
    survives(Kind { place: DISK, ..Kind::new(Format::Layer, Some(Format::Raw)) }, 1);
}

#[test]
fn layer_on_vhdx() {
    survives(Kind::new(Format::Layer, Some(Format::Vhdx)), 2);
}

#[test]
fn layer_of_large_blocks() {
    for parent in [None, Some(Format::Layer)] {
        survives(Kind { sector: 4096, ..Kind::new(Format::Layer, parent) }, 2);
    }
}

#[test]
fn qcow2_base() {
    survives(Kind::new(Format::Qcow2, None), 4);
}

#[test]
fn qcow2_on_raw() {
    survives(Kind::new(Format::Qcow2, Some(Format::Raw)), 4);
}

#[test]
fn qcow2_on_qcow2() {
    survives(Kind::new(Format::Qcow2, Some(Format::Qcow2)), 2);
}

#[test]
fn vhdx_base() {
    survives(Kind::new(Format::Vhdx, None), 4);
}

#[test]
fn vhdx_fixed() {
    survives(Kind { fixed: true, ..Kind::new(Format::Vhdx, None) }, 2);
}

#[test]
fn vhdx_on_raw() {
    survives(Kind::new(Format::Vhdx, Some(Format::Raw)), 3);
}

#[test]
fn vhdx_on_vhdx() {
    survives(Kind::new(Format::Vhdx, Some(Format::Vhdx)), 2);
}

#[test]
fn vhdx_of_large_blocks() {
    for parent in [None, Some(Format::Raw)] {
        survives(Kind { sector: 4096, ..Kind::new(Format::Vhdx, parent) }, 2);
    }
}

/// What a child takes from its parent may be there in part only.
#[test]
fn on_a_parent_that_ends_within_a_block() {
    for format in [Format::Layer, Format::Qcow2, Format::Vhdx] {
        survives(Kind { below: (32 << 20) + 1536, ..Kind::new(format, Some(Format::Raw)) }, 1);
    }
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
        let session = Session::record(Kind::new(format, None), 1, STEPS);
        let begin = session.begin();
        let session = without(session, |at, change| at >= begin && change.is_sync());
        let found = replay(&session, 8, 1).unwrap_err();
        println!("{format}: {found}");
    }
}

/// A disk that changes under its old identity deceives its children: this must be seen.
#[test]
fn a_missing_renewal_is_found() {
    for format in Format::ALL {
        let session = Session::record(Kind::new(format, None), 1, STEPS);
        let (begin, changes) = (session.begin(), session.recorder.changes());
        // What comes before the first request's own changes is the renewal.
        let first = session.history.events.iter().find(|event| event.start >= begin).unwrap();
        assert_ne!(first.deed, Deed::Flush);
        let last = changes[begin..first.end].iter().rposition(|(_, change)| change.is_sync());
        let end = begin + last.unwrap_or_else(|| panic!("{format}: nothing was synced"));
        let session = without(session, |at, change| {
            (begin..end).contains(&at) || at == end && *change == Change::SyncAll
        });
        let found = replay(&session, 8, 1).unwrap_err();
        println!("{format}: {found}");
        assert!(found.contains("the identity is still"), "{format}: {found}");
    }
}
