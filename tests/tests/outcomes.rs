//! How a guest ends is what `cohort run` says: in its exit status and in the `--outcome` file.
//! The same on every KVM: the suite runs these tests on the host and on nested hardware KVM.

use cohort_tests::processes::{Signal, signal};
use cohort_tests::{Cohort, kvm_is_there};

/// Runs a script and checks both accounts of its end.
#[track_caller]
fn ends(script: &str, status: i32, outcome: &str) {
    if !kvm_is_there() {
        return;
    }
    let finished = Cohort::script(script).args(["--outcome", "outcome.json"]).finish();
    finished.expect_status(status);
    let account = finished.json("outcome.json");
    assert_eq!(account["outcome"], outcome, "{account}");
}

#[test]
fn the_status_of_the_guests_program_is_the_exit_status() {
    for status in [0, 1, 7, 255] {
        ends(&format!("exit {status}"), status, "exited");
    }
}

#[test]
fn a_script_that_ends_has_status_0() {
    ends("print done", 0, "exited");
}

#[test]
fn poweroff_is_success() {
    ends("poweroff", 0, "poweroff");
}

#[test]
fn reset_is_32_and_not_a_restart() {
    ends("reset", 32, "reset");
}

#[test]
fn a_triple_fault_is_a_crash_33() {
    ends("triple-fault", 33, "crash");
}

#[test]
fn a_panic_of_the_guests_kernel_is_34() {
    ends("panic", 34, "panic");
}

#[test]
fn a_guest_that_hangs_ends_by_its_timeout_with_124() {
    if !kvm_is_there() {
        return;
    }
    let run = Cohort::script("hang").args(["--timeout", "300ms", "--outcome", "outcome.json"]);
    let finished = run.finish();
    finished.expect_status(124);
    assert_eq!(finished.json("outcome.json")["outcome"], "timeout");
}

#[test]
fn a_mistake_in_a_script_has_its_own_status_and_says_where() {
    if !kvm_is_there() {
        return;
    }
    let finished = Cohort::script("print a; frobnicate 3").finish();
    finished.expect_status(120);
    let said = finished.stdout + &finished.stderr;
    assert!(said.contains("frobnicate") && said.contains("command 2"), "{said}");
}

/// Starts a guest that would run for ever, and stops it by a signal to cohort.
#[track_caller]
fn ends_by(number: Signal, status: i32) {
    if !kvm_is_there() {
        return;
    }
    let run = Cohort::script("print running; hang").args(["--outcome", "outcome.json"]);
    let run = run.start();
    run.wait_for("running");
    run.signal(number);
    let finished = run.finish();
    finished.expect_status(status);
    let account = finished.json("outcome.json");
    assert_eq!(account["outcome"], "signaled", "{account}");
    assert_eq!(account["signal"], status - 128, "{account}");
}

#[test]
fn ctrl_c_stops_the_guest_with_130() {
    ends_by(Signal::INT, 130);
}

#[test]
fn sigterm_stops_the_guest_with_143() {
    ends_by(Signal::TERM, 143);
}

#[test]
fn a_guest_whose_cohort_is_killed_leaves_no_process() {
    if !kvm_is_there() {
        return;
    }
    let run = Cohort::script("print running; hang").start();
    run.wait_for("running");
    signal(run.pid(), Signal::KILL);
    // finish() checks that nothing is left.
    assert_eq!(run.finish().status(), None);
}

#[test]
fn the_outcome_file_tells_name_times_and_memory() {
    if !kvm_is_there() {
        return;
    }
    let finished =
        Cohort::script("exit 3").args(["--outcome", "outcome.json", "-m", "64M"]).finish();
    finished.expect_status(3);
    let account = finished.json("outcome.json");
    assert_eq!(account["status"], 3);
    assert!(account["name"].as_str().is_some_and(|name| !name.is_empty()), "{account}");
    assert!(account["wall_ms"].is_u64() && account["cpu_ms"].is_u64(), "{account}");
    assert!(account["memory"]["peak_rss_kib"].as_u64().is_some_and(|kib| kib > 0), "{account}");
}

#[test]
fn every_number_of_processors_ends_the_same() {
    if !kvm_is_there() {
        return;
    }
    for cpus in ["1", "2", "4", "64"] {
        let run = Cohort::script("print up; poweroff").args(["--cpus", cpus]);
        run.finish().expect_status(0);
    }
}
