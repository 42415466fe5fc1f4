//! `cohort shared-disk`: what initiators that others made find, and what operators see.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use cohort_tests::Cohort;
use cohort_tests::iscsi::initiator::{GOOD, Initiator, RESERVATION_CONFLICT};
use cohort_tests::iscsi::{SharedDisk, verdicts};
use cohort_tests::processes::Signal;
use serde_json::Value;

/// SIGTERM's number.
const TERM: i32 = 15;

fn serve(arguments: &[&str]) -> SharedDisk {
    SharedDisk::serve(Cohort::new(["shared-disk", "serve"]).args(arguments))
}

/// Where a server's control socket is.
fn control_of(shared: &SharedDisk) -> String {
    let said = shared.server.said();
    let control = said.lines().find_map(|line| line.strip_prefix("control: "));
    control.expect("a server says where its control socket is").to_owned()
}

/// What `status` says of a server.
fn status(shared: &SharedDisk) -> Value {
    let control = control_of(shared);
    let finished = Cohort::new(["shared-disk", "status", "--json", &control]).finish();
    finished.expect_status(0);
    serde_json::from_str(&finished.stdout).expect("JSON")
}

/// Stops a server by a signal, of which nothing may be left then.
fn stop(shared: SharedDisk) {
    shared.server.signal(Signal::TERM);
    shared.server.finish().expect_status(128 + TERM);
}

#[test]
fn initiators_find_the_disks_by_number_and_the_same_names_whenever_they_are_served() {
    let cohort = Cohort::new(["shared-disk", "serve"]);
    let (one, two) = (cohort.image("one.raw", 8 << 20), cohort.image("two.raw", 16 << 20));
    let shared = SharedDisk::serve(cohort.arg(&one).arg(format!("{},ro", two.display())));
    assert_eq!(shared.urls.len(), 2, "{:?}", shared.urls);
    assert!(shared.urls[0].ends_with("/iqn.2026-11.cohort:one/0"), "{:?}", shared.urls);
    assert!(shared.ask("iscsi-readcapacity16", &[], 0).contains("Total size:8388608"));
    assert!(shared.ask("iscsi-readcapacity16", &[], 1).contains("Total size:16777216"));
    let names = |lun| shared.ask("iscsi-inq", &["-e", "1", "-c", "131"], lun);
    assert_ne!(names(0), names(1));
    assert_eq!(names(0), names(0));
    let seen = status(&shared);
    assert_eq!(seen["iqn"], "iqn.2026-11.cohort:one");
    assert_eq!(seen["target"]["units"][1]["read_only"], true);
    let cleared = |lun: &str| {
        let control = control_of(&shared);
        Cohort::new(["shared-disk", "clear", "--lun", lun, &control]).finish()
    };
    cleared("1").expect_status(0);
    cleared("2").expect_status(2).expect_message(&["no logical unit 2"]);
    // What is served cannot be used by others at the same time.
    let other = Cohort::new(["run", "--disk"]).arg(&one).args(["--script", "poweroff"]).finish();
    other.expect_status(125).expect_message(&["one.raw", "is locked by"]);
    stop(shared);
}

#[test]
fn what_cannot_be_served_is_told_and_nothing_is_left() {
    let refused = |arguments: &[&str], parts: &[&str]| {
        let finished = Cohort::new(["shared-disk", "serve"]).args(arguments).finish();
        finished.expect_status(2).expect_message(parts);
    };
    refused(&["gone.raw", "--iscsi", "127.0.0.1:0"], &["LUN 0", "gone.raw does not exist"]);
    refused(&["scratch=1M"], &["--iscsi"]);
    refused(&["scratch=1M", "--iscsi", "localhost"], &["127.0.0.1:3260"]);
    refused(&["scratch=1M", "--iscsi", "127.0.0.1:0", "--iqn", "disk"], &["iqn."]);
    refused(&["scratch=1M", "--iscsi", "127.0.0.1:0", "--chap", "gone"], &["gone"]);
    let cohort = Cohort::new(["shared-disk", "serve", "scratch=1M", "--iscsi", "127.0.0.1:0"]);
    let secrets = cohort.file("secrets", "iqn.a:sixteen letters!\n");
    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o644)).unwrap();
    let finished = cohort.arg("--chap").arg(&secrets).finish();
    finished.expect_status(2).expect_message(&["others than its owner", "help: ", "chmod 600"]);
    let cohort = Cohort::new(["shared-disk", "serve", "scratch=1M", "--iscsi", "127.0.0.1:0"]);
    let state = cohort.file("state", "anything else, which must not be lost");
    let finished = cohort.arg("--state").arg(&state).finish();
    finished.expect_status(2).expect_message(&["state"]);
    assert_eq!(fs::read(finished.folder().join("state")).unwrap().len(), 37);
    let none = Cohort::new(["shared-disk", "status"]).finish();
    none.expect_status(125).expect_message(&["no server of this user", "help: "]);
}

#[test]
fn who_is_reachable_by_others_is_warned() {
    let shared = SharedDisk::serve(Cohort::new([
        "shared-disk",
        "serve",
        "scratch=1M",
        "--iscsi",
        "0.0.0.0:0",
    ]));
    shared.server.signal(Signal::TERM);
    let finished = shared.server.finish();
    finished.expect_message(&["warning: everyone who can reach 0.0.0.0:0", "--chap"]);
}

/// Service actions of PERSISTENT RESERVE OUT (SPC-4 table 170), and a type of reservation.
const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const PREEMPT_AND_ABORT: u8 = 5;
const WRITE_EXCLUSIVE_REGISTRANTS_ONLY: u8 = 5;

#[test]
fn a_killed_server_remembers_who_asked_to_be_remembered() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = folder.path().join("disk.raw");
    fs::File::create(&disk).and_then(|file| file.set_len(8 << 20)).expect("a disk");
    let start = |run: usize| {
        // Where what is left of a killed server is looked for by nobody.
        let control = folder.path().join(format!("{run}.sock"));
        let server = Cohort::new(["shared-disk", "serve"]).arg(&disk).arg("--control").arg(control);
        SharedDisk::serve(server)
    };
    let kill = |shared: SharedDisk| {
        shared.server.signal(Signal::KILL);
        assert_eq!(shared.server.finish().status(), None);
    };
    let kind = WRITE_EXCLUSIVE_REGISTRANTS_ONLY;

    let shared = start(0);
    let (mut one, mut other) =
        (Initiator::log_in(&shared.urls[0], 1), Initiator::log_in(&shared.urls[0], 2));
    assert_eq!(one.reserve_out(REGISTER, 0, (0, 0xa1), true), GOOD);
    assert_eq!(one.reserve_out(RESERVE, kind, (0xa1, 0), false), GOOD);
    assert_eq!((one.write(0, 1), other.write(0, 2)), (GOOD, RESERVATION_CONFLICT));
    kill(shared);

    // Who comes back is who they were, over another connection to another process.
    let shared = start(1);
    let (mut other, mut one) =
        (Initiator::log_in(&shared.urls[0], 2), Initiator::log_in(&shared.urls[0], 1));
    assert_eq!(other.keys(), [0xa1]);
    assert_eq!((other.write(1, 2), one.write(1, 1)), (RESERVATION_CONFLICT, GOOD));
    // The other one takes over, without asking to be remembered.
    assert_eq!(other.reserve_out(REGISTER, 0, (0, 0xb2), false), GOOD);
    assert_eq!(other.reserve_out(PREEMPT_AND_ABORT, kind, (0xb2, 0xa1), false), GOOD);
    assert_eq!(other.keys(), [0xb2]);
    assert_eq!(other.write(2, 2), GOOD);
    kill(shared);

    let shared = start(2);
    let mut one = Initiator::log_in(&shared.urls[0], 1);
    assert_eq!(one.keys(), [0; 0]);
    assert_eq!(one.write(3, 1), GOOD);
    stop(shared);
    let written = fs::read(&disk).expect("the disk");
    assert_eq!([0, 1, 2, 3].map(|block| written[block * 512]), [1, 1, 2, 1]);
}

/// Runs the tests of these families of `iscsi-test-cu` on a disk of its own, over so many paths to it.
/// None may fail; the names of those that it skips.
fn conforms_but_for(families: &[&str], paths: usize) -> Vec<String> {
    let shared = serve(&["scratch=100M"]);
    let mut found = BTreeMap::new();
    for family in families {
        let test = format!("--test=ALL.{family}");
        let mut arguments = vec!["--dataloss", "--verbose", &test];
        arguments.extend(vec![shared.urls[0].as_str(); paths - 1]);
        found.extend(verdicts(&shared.ask("iscsi-test-cu", &arguments, 0)));
    }
    stop(shared);
    for family in families {
        assert!(found.keys().any(|name| name.starts_with(&format!("{family}."))), "no {family}");
    }
    let failed: Vec<_> = found.iter().filter(|(_, verdict)| verdict.failed).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    found.into_iter().filter(|(_, verdict)| verdict.skipped).map(|(name, _)| name).collect()
}

fn conforms(families: &[&str]) {
    assert_eq!(conforms_but_for(families, 1), [""; 0]);
}

#[test]
fn persistent_reservations_are_as_libiscsi_wants_them() {
    conforms(&["PrinReadKeys", "PrinServiceactionRange", "PrinReportCapabilities"]);
    conforms(&["ProutRegister", "ProutReserve", "ProutClear", "ProutPreempt", "Reserve6"]);
}

#[test]
fn atomic_and_thin_commands_are_as_libiscsi_wants_them() {
    conforms(&["CompareAndWrite", "Unmap", "WriteSame10", "WriteSame16", "OrWrite"]);
}

#[test]
fn reads_and_writes_are_as_libiscsi_wants_them() {
    conforms(&["Read6", "Read10", "Read12", "Read16", "Write10", "Write12", "Write16"]);
    conforms(&["WriteVerify10", "WriteVerify12", "WriteVerify16"]);
    conforms(&["Verify10", "Verify12", "Verify16", "Prefetch10", "Prefetch16"]);
}

#[test]
fn what_a_target_says_of_itself_is_as_libiscsi_wants_it() {
    conforms(&[
        "Inquiry",
        "Mandatory",
        "ModeSense6",
        "NoMedia",
        "ReadCapacity10",
        "ReadCapacity16",
    ]);
    conforms(&["ReadDefectData10", "ReadDefectData12", "ReportSupportedOpcodes", "TestUnitReady"]);
}

#[test]
fn sessions_and_several_paths_are_as_libiscsi_wants_them() {
    conforms(&["iSCSIcmdsn", "iSCSIdatasn", "iSCSIResiduals", "iSCSITMF"]);
    assert_eq!(conforms_but_for(&["MultipathIO"], 2), [""; 0]);
}

/// Commands that the target does not offer, and what only applies to media that can be taken out or
/// not be written to: refused as the standard says.
#[test]
fn what_a_target_does_not_offer_is_refused_as_libiscsi_wants_it() {
    let families =
        ["ExtendedCopy", "ReceiveCopyResults", "GetLBAStatus", "Sanitize", "WriteAtomic16"];
    conforms_but_for(&families, 1);
    conforms_but_for(&["PreventAllow", "ReadOnly", "StartStopUnit"], 1);
}
