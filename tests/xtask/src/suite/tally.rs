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

    /// Counts one line of what this runner prints.
    pub(crate) fn count(&mut self, runner: Runner, line: &str) {
        let counted = match runner {
            Runner::Libtest => libtest_line(line.trim()),
            Runner::Nextest => nextest_line(line.trim()),
        };
        match counted {
            Some((_, true)) => self.passed += 1,
            Some((name, false)) => self.failed.push(name.to_owned()),
            None => {}
        }
    }
}

/// Who prints the lines to count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Runner {
    /// A test binary, or `cargo test`.
    Libtest,
    /// `cargo nextest`, which also shows what the binaries of failed tests print.
    Nextest,
}

/// Name and verdict in `test NAME ... ok`.
fn libtest_line(line: &str) -> Option<(&str, bool)> {
    let (name, verdict) = line.strip_prefix("test ")?.split_once(" ... ")?;
    match verdict.split(' ').next()? {
        "ok" => Some((name, true)),
        "FAILED" => Some((name, false)),
        _ => None,
    }
}

/// Name and verdict in `PASS [   0.1s] (1/2) NAME`.
fn nextest_line(line: &str) -> Option<(&str, bool)> {
    let (verdict, rest) = line.split_once('[')?;
    let (_, name) = rest.split_once(']')?;
    let name = name.trim();
    let name = match name.strip_prefix('(').and_then(|counter| counter.split_once(')')) {
        Some((_, name)) => name.trim(),
        None => name,
    };
    match verdict.trim() {
        "PASS" | "LEAK" => Some((name, true)),
        "FAIL" | "TIMEOUT" | "ABORT" | "LEAK-FAIL" => Some((name, false)),
        signal if signal.starts_with("SIG") => Some((name, false)),
        _ => None,
    }
}

/// Runs a test runner, its output shown as it comes, and counts its tests. A runner that fails
/// without naming a failed test counts as a failure itself.
pub(crate) fn of_tests(runner: Runner, command: &mut Command) -> Result<Tally> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().context("the test runner did not start")?;
    let streams: [Option<Box<dyn Read + Send>>; 2] = [
        process.stdout.take().map(|stream| Box::new(stream) as Box<_>),
        process.stderr.take().map(|stream| Box::new(stream) as Box<_>),
    ];
    let mut tally = Tally::default();
    thread::scope(|scope| {
        let readers = streams
            .map(|stream| scope.spawn(move || stream.map(|stream| show_and_count(runner, stream))));
        for reader in readers {
            if let Ok(Some(counted)) = reader.join() {
                tally.add(&counted);
            }
        }
    });
    // nextest prints a failure when it happens and again at the end.
    tally.failed.sort();
    tally.failed.dedup();
    let status = process.wait()?;
    if !status.success() && tally.failed.is_empty() {
        tally.failed.push(format!("{} ({status})", crate::tool::line(command)));
    }
    Ok(tally)
}

fn show_and_count(runner: Runner, stream: impl Read) -> Tally {
    let mut tally = Tally::default();
    let mut lines = BufReader::new(stream);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        let text = String::from_utf8_lossy(&line);
        eprint!("{text}");
        tally.count(runner, &text);
        line.clear();
    }
    tally
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{Runner, Tally, of_tests};

    #[test]
    fn verdicts_of_libtest_are_counted() {
        let mut tally = Tally::default();
        for line in [
            "test tests::good ... ok",
            "test src/lib.rs - item (line 3) ... ok",
            "test tests::bad ... FAILED",
            "test tests::left_out ... ignored, needs hardware",
            "test result: FAILED. 2 passed; 1 failed",
            "PASS [   0.010s] what a test printed",
        ] {
            tally.count(Runner::Libtest, line);
        }
        assert_eq!(tally, Tally { passed: 2, failed: vec!["tests::bad".to_owned()] });
    }

    #[test]
    fn verdicts_of_nextest_are_counted_and_what_failed_tests_print_is_not() {
        let mut tally = Tally::default();
        for line in [
            "        PASS [   0.010s] (1/4) storage tests::good",
            "        FAIL [   0.010s] (2/4) storage tests::bad",
            "    test tests::bad ... FAILED",
            "     TIMEOUT [ 120.010s] storage tests::slow",
            "     SIGSEGV [   0.010s] storage tests::wild",
            "     Summary [   0.010s] 4 tests run: 1 passed, 1 failed",
        ] {
            tally.count(Runner::Nextest, line);
        }
        assert_eq!(tally.passed, 1);
        assert_eq!(
            tally.failed,
            ["storage tests::bad", "storage tests::slow", "storage tests::wild"]
        );
    }

    #[test]
    fn a_runner_that_fails_without_a_test_is_a_failure() {
        let tally = of_tests(
            Runner::Libtest,
            Command::new("sh").args(["-c", "echo test a ... ok; exit 101"]),
        );
        let tally = tally.unwrap();
        assert_eq!((tally.passed, tally.failed.len()), (1, 1));
    }
}
