//! What a guest prints arrives, all of it and in order, where it was asked to go.

use std::fs;

use cohort_tests::{Cohort, kvm_is_there};

#[test]
fn without_a_choice_the_console_is_standard_error_and_standard_output_is_free() {
    if !kvm_is_there() {
        return;
    }
    let finished = Cohort::script("print hello; exit 0").finish();
    finished.expect_status(0).expect_message(&["hello"]);
    assert_eq!(finished.stdout, "");
}

#[test]
fn a_console_file_has_every_line_in_order() {
    if !kvm_is_there() {
        return;
    }
    let lines: Vec<String> = (0..50).map(|n| format!("line {n}")).collect();
    let script: Vec<String> = lines.iter().map(|line| format!("print {line}")).collect();
    let run = Cohort::script(&(script.join("; ") + "; exit 0")).args(["--console", "console"]);
    let finished = run.finish();
    finished.expect_status(0);
    let console = fs::read_to_string(finished.folder().join("console")).expect("the console");
    let printed: Vec<&str> = console.lines().filter(|line| line.starts_with("line ")).collect();
    assert_eq!(printed, lines);
}

#[test]
fn the_virtio_console_prints_to_the_same_place() {
    if !kvm_is_there() {
        return;
    }
    let finished = Cohort::script("console.print from hvc; print from serial; exit 0").finish();
    finished.expect_status(0).expect_message(&["from hvc", "from serial"]);
}

#[test]
fn what_a_guest_printed_before_it_crashed_is_kept() {
    if !kvm_is_there() {
        return;
    }
    for end in ["triple-fault", "panic", "reset", "poweroff"] {
        let run = Cohort::script(&format!("print last words; {end}")).args(["--console", "c"]);
        let finished = run.finish();
        let console = fs::read_to_string(finished.folder().join("c")).expect("the console");
        assert!(console.contains("last words"), "before {end}: {console:?}");
    }
}

#[test]
fn a_console_that_cannot_be_written_is_an_error_that_names_it() {
    let finished = Cohort::script("exit 0").args(["--console", "no/such/folder/c"]).finish();
    finished.expect_status(125).expect_message(&["error: ", "no/such/folder/c"]);
}
