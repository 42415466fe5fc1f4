//! Crashes of disks of every format, as a base and as a child.

use super::replay::{Tally, replay};
use super::session::{Kind, Session};
use super::{Change, Recorder};
use crate::format::Format;
use crate::testkit;

/// Requests in a session.
const STEPS: usize = 45;
/// Sessions of each kind.
const SEEDS: u64 = 2;

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
    if !testkit::is_there(format, parent.is_some()) {
        return println!("skipped: there are no layers of the format {format} yet");
    }
    let kind = Kind { format, parent, place };
    let mut total = Tally::default();
    for seed in 0..SEEDS {
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

/// A disk that never syncs loses what was flushed: this must be seen.
#[test]
fn a_missing_sync_is_found() {
    for format in Format::ALL.into_iter().filter(|&format| testkit::is_there(format, false)) {
        let kind = Kind { format, parent: None, place: MEMORY };
        let mut session = Session::record(kind, 1, STEPS);
        let changes = session.recorder.changes();
        let (begin, recorder) = (session.begin, Recorder::default());
        for (number, (path, change)) in changes.iter().enumerate() {
            // In the place of each sync something without effect, so that times stay what they are.
            let synced = number >= begin && *change == Change::Sync;
            let change = if synced { Change::Punch { at: 0, len: 0 } } else { change.clone() };
            recorder.push(path, change);
        }
        session.recorder = recorder;
        let found = replay(&session, 8, 1).unwrap_err();
        println!("{format}: {found}");
    }
}
