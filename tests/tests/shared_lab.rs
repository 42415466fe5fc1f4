//! Labs whose guests share disks.

use std::fs;
use std::path::Path;

use cohort_tests::processes::{Signal, signal};
use cohort_tests::shared::{self, Shared};
use cohort_tests::{Cohort, cohort, kvm_is_there};

/// A lab of this text behind the schema, run with its results in the folder `results`.
fn lab(text: &str) -> Cohort {
    let run = Cohort::new(["lab", "run", "trial.toml", "--results", "results", "-v"]);
    run.file("trial.toml", format!("schema = 1\n{text}"));
    run
}

/// A lab with one guest whose disk is shared.
fn one_guest(disk: &str, script: &str) -> String {
    format!(
        "[shared-disk.disk]\n{disk}\n[vm.node]\ndisks = [{{ shared = \"disk\" }}]\n\
         script = \"{script}\"\n"
    )
}

#[test]
fn the_lab_of_a_quorum_succeeds() {
    if !kvm_is_there() {
        return;
    }
    let run = Cohort::new(["lab", "run", "--results", "results"]);
    run.arg(cohort::example_lab("quorum.toml")).finish().expect_status(0);
}

#[test]
fn a_lab_whose_server_dies_ends_and_says_why() {
    if !kvm_is_there() {
        return;
    }
    let run = lab(&one_guest("scratch = \"1M\"", "scsi.write 0 4K; print runs.; hang")).start();
    run.wait_for("runs.");
    let server = run.descendants().into_iter().find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(b"cohort:disk\0")
    });
    signal(server.expect("a server's process"), Signal::KILL);
    let finished = run.finish();
    finished.expect_status(125).expect_message(&["disk", "its server was killed by signal 9"]);
    let report = finished.json("results/lab.json");
    assert_eq!(report["status"], 125, "{report}");
    assert_eq!(report["guests"][0]["outcome"], "vmm-error", "{report}");
}

#[test]
fn a_disk_that_cannot_be_served_ends_the_lab_before_its_guests_start() {
    if !kvm_is_there() {
        return;
    }
    let run = lab(&one_guest("path = \"disk.raw\"", "exit 0"));
    let disk = run.image("disk.raw", 1 << 20);
    let shared = Cohort::new(["shared-disk", "serve"]).arg(&disk);
    let control = run.folder().join("control");
    let server = shared.args(["--iscsi", "127.0.0.1:0", "--control"]).arg(&control).start();
    server.wait_for("control: ");
    run.finish().expect_status(125).expect_message(&["disk.raw", "is locked by"]);
    shared::stop(server);
}

#[test]
fn reservations_outlive_a_lab_unless_they_are_volatile() {
    if !kvm_is_there() {
        return;
    }
    for (kept, holds) in [("persistent", true), ("volatile", false)] {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = format!(
            "path = \"{}\"\nsize = \"2M\"\nreservations = \"{kept}\"",
            folder.path().join("disk.raw").display()
        );
        let script = "scsi.pr register aptpl key=0xa1; scsi.pr reserve key=0xa1 type=we; exit 0";
        lab(&one_guest(&disk, script)).finish().expect_status(0);
        // The file was made, and there is one beside it where that is wanted.
        let len = fs::metadata(folder.path().join("disk.raw")).expect("a disk").len();
        assert_eq!(len, 2 << 20);
        assert_eq!(folder.path().join("disk.raw.reservations").exists(), holds);
        let script = "scsi.pr keys; scsi.pr reservation; scsi.id; exit 0";
        let finished = lab(&one_guest(&disk, script)).finish();
        finished.expect_status(0);
        assert_eq!(finished.stderr.contains("pr: key 0xa1 type we"), holds, "{}", finished.stderr);
        assert!(finished.stderr.contains("2097152 bytes"), "{}", finished.stderr);
    }
}

#[test]
fn a_disk_may_be_a_targets_that_is_there_already() {
    if !kvm_is_there() {
        return;
    }
    let disk = Shared::new(1 << 20);
    let server = disk.serve("--iscsi 127.0.0.1:0");
    let url = format!("url = \"{}\"", shared::urls(&server)[0]);
    let script = "scsi.write 0 64K seed=5; scsi.flush; scsi.verify 0 64K seed=5; exit 0";
    lab(&one_guest(&url, script)).finish().expect_status(0);
    shared::stop(server);
    assert!(disk.bytes()[..64 << 10].iter().any(|byte| *byte != 0));
    // Nobody is there any more.
    let finished = lab(&one_guest(&url, script)).finish();
    finished.expect_status(125).expect_message(&["cannot use iscsi://"]);
}

#[test]
fn ctrl_c_leaves_neither_sockets_nor_servers() {
    if !kvm_is_there() {
        return;
    }
    let run = lab(&one_guest("scratch = \"1M\"", "scsi.write 0 4K; print runs.; hang")).start();
    run.wait_for("runs.");
    let sockets = |folder: &Path| fs::read_dir(folder.join("tmp")).expect("a folder").count();
    assert_eq!((sockets(run.folder()), run.descendants().len()), (1, 2));
    run.signal(Signal::INT);
    // finish() checks that no process and no file is left.
    run.finish().expect_status(130);
}
