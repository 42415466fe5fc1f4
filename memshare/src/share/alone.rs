//! Tests that need a process of their own: they use up, or measure, what all of a process share.

use std::process::{Child, Command, Stdio};

const WHICH: &str = "MEMSHARE_TEST_ALONE";

/// Whether this process was started by [`again`] for `test`.
pub(super) fn is_again(test: &str) -> bool {
    std::env::var_os(WHICH).is_some_and(|which| which == test)
}

/// Starts this binary again for one test, by its whole name.
pub(super) fn again(test: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(WHICH, test)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs a test's `body` in a process of its own.
pub(super) fn alone(test: &str, body: impl FnOnce()) {
    if is_again(test) {
        body();
        return;
    }
    let output = again(test).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    // A name that is none runs nothing, and succeeds.
    assert!(said.contains("1 passed"), "{said}");
}
