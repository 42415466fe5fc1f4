//! `cohort lab run`: one process per guest, an account of each, and nothing left behind.

use std::fs;

use cohort_tests::processes::{Signal, signal};
use cohort_tests::{Cohort, Finished, Running, cohort, kvm_is_there};

/// A lab of this text, run with its results in the folder `results`.
fn lab(text: &str) -> Cohort {
    let run = Cohort::new(["lab", "run", "trial.toml", "--results", "results"]);
    run.file("trial.toml", text);
    run
}

/// How the lab's report says that its guests ended, in the order of the file.
fn outcomes(finished: &Finished) -> Vec<String> {
    let report = finished.json("results/lab.json");
    let guests = report["guests"].as_array().expect("a list of guests");
    guests.iter().map(|guest| guest["outcome"].as_str().expect("a word").to_owned()).collect()
}

/// Starts a lab of three guests that never end, and waits until all of them run.
fn three_that_hang() -> Running {
    let text = "schema = 1\n[vm.node]\ncount = 3\nmemory = \"16M\"\n\
                script = \"print {name} runs; hang\"\n";
    let run = lab(text).arg("-v").start();
    for index in 0..3 {
        run.wait_for(&format!("node-{index} runs"));
    }
    run
}

#[test]
fn guests_run_in_processes_of_their_own() {
    if !kvm_is_there() {
        return;
    }
    let run = three_that_hang();
    assert_eq!(run.descendants().len(), 3);
    run.signal(Signal::TERM);
    run.finish().expect_status(143);
}

#[test]
fn a_lab_whose_guests_end_as_expected_is_a_success() {
    if !kvm_is_there() {
        return;
    }
    let finished = lab("schema = 1\n\
         [vm.a]\nscript = \"exit 3\"\nexpect = { status = 3 }\n\
         [vm.b]\nscript = \"poweroff\"\n\
         [vm.c]\nscript = \"triple-fault\"\nexpect = { outcome = \"crash\" }\n\
         [vm.d]\nscript = \"hang\"\ntimeout = \"300ms\"\nexpect = { outcome = \"timeout\" }\n")
    .finish();
    finished.expect_status(0);
    assert_eq!(outcomes(&finished), ["exited", "poweroff", "crash", "timeout"]);
    for guest in ["a", "b", "c", "d"] {
        assert!(finished.stdout.contains(guest), "no {guest} in:\n{}", finished.stdout);
    }
}

#[test]
fn one_unexpected_end_makes_the_status_1_and_is_explained() {
    if !kvm_is_there() {
        return;
    }
    let finished =
        lab("schema = 1\n[vm.good]\nscript = \"exit 0\"\n[vm.bad]\nscript = \"exit 9\"\n").finish();
    finished.expect_status(1).expect_message(&["error: ", "bad", "9"]);
    assert_eq!(outcomes(&finished), ["exited", "exited"]);
}

#[test]
fn each_console_is_kept_in_its_own_file_and_shown_with_its_guests_name_when_asked() {
    if !kvm_is_there() {
        return;
    }
    let text = "schema = 1\n[vm.node]\ncount = 2\nscript = \"print hello from {name}\"\n";
    let finished = lab(text).arg("-v").finish();
    finished.expect_status(0);
    for name in ["node-0", "node-1"] {
        let console = finished.folder().join(format!("results/{name}.console"));
        let console = fs::read_to_string(console).expect("a console file");
        assert!(console.contains(&format!("hello from {name}")), "{console}");
        let line = finished.stderr.lines().find(|line| line.ends_with(&format!("from {name}")));
        assert!(line.is_some_and(|line| line.starts_with(name)), "{}", finished.stderr);
        let account = finished.json(&format!("results/{name}.json"));
        assert_eq!(account["outcome"], "exited", "{account}");
    }
}

#[test]
fn ctrl_c_stops_every_guest() {
    if !kvm_is_there() {
        return;
    }
    let run = three_that_hang();
    run.signal(Signal::INT);
    let finished = run.finish();
    finished.expect_status(130);
    assert_eq!(outcomes(&finished), ["signaled"; 3]);
}

#[test]
fn the_labs_timeout_stops_every_guest() {
    if !kvm_is_there() {
        return;
    }
    let text = "schema = 1\n[lab]\ntimeout = \"1s\"\n[vm.node]\ncount = 2\nscript = \"hang\"\n";
    let finished = lab(text).finish();
    assert_ne!(finished.status(), Some(0));
    assert_eq!(outcomes(&finished), ["timeout"; 2]);
}

#[test]
fn a_guest_process_that_is_killed_takes_nothing_with_it() {
    if !kvm_is_there() {
        return;
    }
    let run = lab("schema = 1\n\
         [vm.victim]\nscript = \"print victim runs; hang\"\n\
         [vm.other]\nscript = \"print other runs; sleep 3s; exit 0\"\n")
    .arg("-v")
    .start();
    run.wait_for("victim runs");
    // A guest's process is the one that has the guest's console open.
    let victim = run.descendants().into_iter().find(|pid| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).expect("a process that runs");
        let files = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        files.into_iter().any(|file| file.ends_with("results/victim.console"))
    });
    let victim = victim.expect("a process with the victim's console");
    signal(victim, Signal::KILL);
    let finished = run.finish();
    finished.expect_status(125);
    assert_eq!(outcomes(&finished), ["vmm-error", "exited"]);
    let account = finished.json("results/victim.json");
    assert!(account["detail"].as_str().is_some_and(|detail| detail.contains('9')), "{account}");
}

#[test]
fn when_the_supervisor_is_killed_its_guests_end_too() {
    if !kvm_is_there() {
        return;
    }
    let run = three_that_hang();
    assert_eq!(run.descendants().len(), 3);
    signal(run.pid(), Signal::KILL);
    // finish() checks that no process and no file is left.
    assert_eq!(run.finish().status(), None);
}

#[test]
fn with_a_limit_guests_run_one_after_the_other() {
    if !kvm_is_there() {
        return;
    }
    let text = "schema = 1\n[vm.node]\ncount = 4\nscript = \"exit 0\"\n";
    let finished = lab(text).args(["-j", "1"]).finish();
    finished.expect_status(0);
    assert_eq!(outcomes(&finished), ["exited"; 4]);
}

#[test]
fn a_value_laid_over_the_file_counts() {
    if !kvm_is_there() {
        return;
    }
    let text = "schema = 1\n[vm.node]\nscript = \"exit 1\"\n";
    let finished = lab(text).args(["--set", "vm.node.script=exit 0"]).finish();
    finished.expect_status(0);
}

#[test]
fn the_report_can_be_had_as_json() {
    if !kvm_is_there() {
        return;
    }
    let finished = lab("schema = 1\n[vm.node]\nscript = \"exit 0\"\n").arg("--json").finish();
    finished.expect_status(0);
    let report: serde_json::Value = serde_json::from_str(&finished.stdout).expect("JSON");
    assert_eq!(report["status"], 0);
    assert_eq!(report["guests"][0]["name"], "node");
}

#[test]
fn the_quick_start_succeeds() {
    if !kvm_is_there() {
        return;
    }
    let run = Cohort::new(["lab", "run", "--results", "results"]);
    let finished = run.arg(cohort::example_lab("quickstart.toml")).finish();
    finished.expect_status(0);
    assert_eq!(outcomes(&finished).len(), 3);
}
