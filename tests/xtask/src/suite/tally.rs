//! Counts passed and failed tests from what test runners print.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result};

/// Tests counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tally {
    /// How many passed.
    pub(crate) passed: usize,
    /// The names of those that did not.
    pub(crate) failed: Vec<String>,
}

impl Tally {
    pub(crate) fn one_passed() -> Tally {
        Tally { passed: 1, failed: Vec::new() }
    }

    pub(crate) fn one_failed(name: &str) -> Tally {
        Tally { passed: 0, failed: vec![name.to_owned()] }
    }

    pub(crate) fn add(&mut self, other: &Tally) {
        self.passed += other.passed;
        self.failed.extend_from_slice(&other.failed);
    }

    /// Counts one line of a runner's output: libtest's `test NAME ... ok` and, where it prints
    /// dots instead, its totals; or nextest's `PASS [   0.1s] NAME`.
    pub(crate) fn count(&mut self, line: &str) {
        let line = line.trim();
        if let Some((name, verdict)) =
            line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "))
        {
            match verdict.split(' ').next() {
                Some("ok") => self.passed += 1,
                Some("FAILED") => self.failed.push(name.to_owned()),
                _ => {}
            }
            return;
        }
        let Some((verdict, name)) = line.split_once('[') else { return };
        let name = name.split_once(']').map_or("", |(_, name)| name.trim());
        match verdict.split_whitespace().next() {
            Some("PASS" | "LEAK") => self.passed += 1,
            Some(
                "FAIL" | "TIMEOUT" | "ABORT" | "SIGABRT" | "SIGSEGV" | "SIGKILL" | "LEAK-FAIL",
            ) => {
                self.failed.push(name.to_owned());
            }
            _ => {}
        }
    }
}

/// Runs a test runner, its output shown as it comes, and counts its tests. A runner that fails
/// without naming a failed test counts as a failure itself.
pub(crate) fn of_tests(command: &mut Command) -> Result<Tally> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut runner = command.spawn().context("the test runner did not start")?;
    let streams: [Option<Box<dyn Read + Send>>; 2] = [
        runner.stdout.take().map(|stream| Box::new(stream) as Box<_>),
        runner.stderr.take().map(|stream| Box::new(stream) as Box<_>),
    ];
    let mut tally = Tally::default();
    thread::scope(|scope| {
        let readers = streams.map(|stream| scope.spawn(move || stream.map(show_and_count)));
        for reader in readers {
            if let Ok(Some(counted)) = reader.join() {
                tally.add(&counted);
            }
        }
    });
    // nextest prints a failure when it happens and again at the end.
    tally.failed.sort();
    tally.failed.dedup();
    let status = runner.wait()?;
    if !status.success() && tally.failed.is_empty() {
        tally.failed.push(format!("{} ({status})", crate::tool::line(command)));
    }
    Ok(tally)
}

fn show_and_count(stream: impl Read) -> Tally {
    let mut tally = Tally::default();
    let mut lines = BufReader::new(stream);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        let text = String::from_utf8_lossy(&line);
        eprint!("{text}");
        tally.count(&text);
        line.clear();
    }
    tally
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{Tally, of_tests};

    #[test]
    fn lines_of_both_runners_are_counted() {
        let mut tally = Tally::default();
        for line in [
            "test tests::good ... ok",
            "test src/lib.rs - item (line 3) ... ok",
            "test tests::bad ... FAILED",
            "test tests::left_out ... ignored, needs hardware",
            "        PASS [   0.010s] (1/2) storage tests::good",
            "        FAIL [   0.010s] (2/2) storage tests::worse",
            "     TIMEOUT [ 120.010s] storage tests::slow",
            "     Summary [   0.010s] 2 tests run: 1 passed, 1 failed",
            "test result: FAILED. 2 passed; 1 failed",
        ] {
            tally.count(line);
        }
        assert_eq!(tally.passed, 3);
        assert_eq!(
            tally.failed,
            ["tests::bad", "(2/2) storage tests::worse", "storage tests::slow"]
        );
    }

    #[test]
    fn a_runner_that_fails_without_a_test_is_a_failure() {
        let tally = of_tests(Command::new("sh").args(["-c", "echo test a ... ok; exit 101"]));
        let tally = tally.unwrap();
        assert_eq!((tally.passed, tally.failed.len()), (1, 1));
    }
}
