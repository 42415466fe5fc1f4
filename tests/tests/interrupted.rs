//! A signal stops long work on disks at once; files are as they were, or whole.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use cohort_tests::cohort::Cohort;
use cohort_tests::disks::Disks;
use cohort_tests::processes::Signal;
use cohort_tests::{Running, cohort};

/// Waits until `sign` holds, or the work is done.
fn wait(running: &Running, sign: impl Fn() -> bool) {
    let deadline = Instant::now() + cohort::PATIENCE;
    while !sign() {
        let process = format!("/proc/{}/stat", running.pid());
        let state = fs::read_to_string(process).expect("the process was not waited for");
        assert!(!state.contains(") Z "), "the work was done too soon");
        assert!(Instant::now() < deadline, "it never began");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether the process has made the signals its own that stop it: SIGINT, SIGTERM and, except under
/// `nohup`, SIGHUP.
fn watches(running: &Running) -> bool {
    let status = format!("/proc/{}/status", running.pid());
    let blocked = |last| format!("SigBlk:\t000000000000{last}");
    fs::read_to_string(status)
        .is_ok_and(|text| text.contains(&blocked("4003")) || text.contains(&blocked("4002")))
}

/// A disk that takes far longer to read than anyone waits.
fn huge(disks: &Disks, name: &str) {
    fs::File::create(disks.at(name)).expect("a file").set_len(1 << 43).expect("a hole");
}

#[test]
fn work_under_nohup_outlives_its_terminal() {
    let disks = Disks::new();
    for name in ["huge.raw", "other.raw"] {
        huge(&disks, name);
    }
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" disk compare \"$@\""]).arg(cohort::binary());
    command.args([disks.at("huge.raw"), disks.at("other.raw")]);
    let running = Cohort::from_command(command).start();
    wait(&running, || watches(&running));
    running.signal(Signal::HUP);
    // The lowest of the signals that wait would be taken first.
    running.signal(Signal::TERM);
    running.finish().expect_status(143);
}

#[test]
fn what_only_reads_or_makes_new_files_leaves_everything_as_it_was() {
    let disks = Disks::new();
    for name in ["huge.raw", "other.raw"] {
        huge(&disks, name);
    }
    // All of them look at terabytes of holes, a window at a time; hashing does so bytewise.
    disks.done("create @child.layer --parent @huge.raw");
    let before = disks.layers("child.layer");
    for (line, signal, status) in [
        ("create @new.layer --parent @huge.raw --digest", Signal::INT, 130),
        ("snapshot @huge.raw @new.layer --digest", Signal::TERM, 143),
        ("convert @huge.raw @new.qcow2 --parent @other.raw", Signal::INT, 130),
        ("convert @huge.raw @new.layer --parent @other.raw", Signal::TERM, 143),
        ("compare @huge.raw @other.raw", Signal::INT, 130),
        ("relink @child.layer --parent @other.raw", Signal::TERM, 143),
    ] {
        let running = disks.command(&format!("disk {line}")).start();
        wait(&running, || watches(&running));
        running.signal(signal);
        running.finish().expect_status(status).expect_message(&["interrupted"]);
        assert_eq!(disks.names(), ["child.layer", "huge.raw", "other.raw"], "{line}");
        assert_eq!(disks.layers("child.layer"), before, "{line}");
    }
    disks.done("check @child.layer");
}

#[test]
fn a_merge_that_is_stopped_goes_on_the_next_time() {
    for (format, signal, status) in
        [("layer", Signal::INT, 130), ("qcow2", Signal::TERM, 143), ("vhdx", Signal::INT, 130)]
    {
        let disks = Disks::new();
        disks.raw("base.raw", &[]);
        disks.raw("new.raw", &[(1 << 20, &[7; 15 << 20])]);
        let child = format!("child.{format}");
        disks.done(&format!("convert @new.raw @{child} --parent @base.raw"));
        let times = || {
            let facts = fs::metadata(disks.at("base.raw")).expect("the base");
            facts.modified().expect("a time")
        };
        let before = times();
        let running = disks.command(&format!("disk commit @{child}")).start();
        let deadline = Instant::now() + cohort::PATIENCE;
        while times() == before {
            assert!(Instant::now() < deadline, "the base was never changed");
            std::thread::yield_now();
        }
        running.signal(signal);
        let finished = running.finish();
        if finished.status() != Some(0) {
            finished.expect_status(status).expect_message(&["interrupted"]);
        }
        // The child knows its parent as it is now, and reads as before.
        disks.done(&format!("check @{child}"));
        disks.done(&format!("compare @{child} @new.raw"));
        disks.done(&format!("commit @{child} --delete"));
        disks.done("compare @base.raw @new.raw");
        assert_eq!(disks.names(), ["base.raw", "new.raw"]);
    }
}
