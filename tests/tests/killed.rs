//! A guest's process that is killed while it writes to a chain: what its guest was told to be
//! flushed is there afterwards, in every format.

use std::fs;
use std::path::Path;

use cohort_tests::processes::Signal;
use cohort_tests::{Cohort, kvm_is_there};

/// Writes of one guest, each flushed.
const WRITES: u32 = 48;
/// Bytes of each: 4 KiB blocks and sectors, several clusters of no format, and not aligned to any.
const LEN: &str = "65K";

/// A guest that writes, flushes and says so, again and again, on top of what `round` is about.
fn writer(disk: &Path, round: u32) -> Cohort {
    let mut script = String::new();
    for write in 0..WRITES {
        let seed = seed(round, write);
        script += &format!(
            "blk.write {}K {LEN} seed={seed} qd=4; blk.flush; print flushed {write}.; ",
            place(write)
        );
    }
    Cohort::script(&format!("{script}hang")).arg("--disk").arg(disk)
}

/// A guest that verifies the first `writes` of `round`.
fn verifier(disk: &Path, round: u32, writes: u32) -> Cohort {
    let mut script = String::new();
    for write in 0..writes {
        let seed = seed(round, write);
        script += &format!("blk.verify {}K {LEN} seed={seed}; ", place(write));
    }
    Cohort::script(&format!("{script}exit 0")).arg("--disk").arg(disk)
}

fn seed(round: u32, write: u32) -> u32 {
    round * WRITES + write
}

/// Where a write goes, in KiB: all over the disk, no two on each other.
fn place(write: u32) -> u32 {
    (write * 29 % WRITES) * 67
}

/// Kills guests of a `format` child of a raw base, each after another number of flushes, and
/// verifies after each what it was told.
fn nothing_flushed_is_lost(format: &str, rounds: u32) {
    if !kvm_is_there() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let base = folder.path().join("base.raw");
    fs::write(&base, vec![0x42; 4 << 20]).expect("room for a base");
    let disk = folder.path().join(format!("child.{format}"));
    let create = Cohort::new(["disk", "create"]).arg(&disk).arg("--parent").arg(&base);
    create.finish().expect_status(0);
    for round in 0..rounds {
        let flushed = (round * 7) % WRITES;
        let writing = writer(&disk, round).start();
        writing.wait_for(&format!("flushed {flushed}."));
        writing.signal(Signal::KILL);
        writing.finish();
        verifier(&disk, round, flushed + 1).finish().expect_status(0);
    }
    let check = Cohort::new(["disk", "check"]).arg(&disk).finish();
    // Space may be lost.
    assert!(matches!(check.status(), Some(0 | 3)), "{}{}", check.stdout, check.stderr);
    assert!(fs::read(&base).expect("the base").iter().all(|byte| *byte == 0x42));
}

#[test]
fn a_killed_guest_loses_nothing_that_it_flushed_to_a_runtime_layer() {
    nothing_flushed_is_lost("layer", 60);
}

#[test]
fn a_killed_guest_loses_nothing_that_it_flushed_to_a_vhdx() {
    nothing_flushed_is_lost("vhdx", 20);
}

#[test]
fn a_killed_guest_loses_nothing_that_it_flushed_to_a_qcow2() {
    nothing_flushed_is_lost("qcow2", 20);
}
