//! Initiators for shared disks: libiscsi's tools, its test of targets, and one of our own.

pub mod initiator;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use crate::cohort::{Cohort, Running};

/// What became of one test of `iscsi-test-cu`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it failed.
    pub failed: bool,
    /// What it left out, if it did.
    pub skipped: bool,
    /// What it said.
    pub said: String,
}

/// Its tests by name, as `Read10.Simple`. Its exit status and its summary do not tell: what is skipped
/// counts as passed there, and failures do not count.
pub fn verdicts(output: &str) -> BTreeMap<String, Verdict> {
    let mut verdicts = BTreeMap::new();
    for suite in output.split("\nSuite: ").skip(1) {
        let mut tests = suite.split("\n  Test: ");
        let suite = tests.next().unwrap_or_default().trim();
        for test in tests {
            let Some((name, said)) = test.split_once(" ...") else { continue };
            // What follows the last suite is a summary.
            let said = said.split("\nRun Summary:").next().unwrap_or_default();
            // Other words may follow on the same line: what its cleaning up met with.
            let words =
                ["passed", "FAILED"].map(|word| said.lines().any(|line| line.starts_with(word)));
            let verdict = Verdict {
                failed: words[1] || !words[0],
                skipped: said.contains("[SKIPPED]"),
                said: said.trim().to_owned(),
            };
            verdicts.insert(format!("{suite}.{}", name.trim()), verdict);
        }
    }
    verdicts
}

/// A server of shared disks at work.
pub struct SharedDisk {
    /// The process.
    pub server: Running,
    /// Where its logical units are.
    pub urls: Vec<String>,
}

impl SharedDisk {
    /// Starts `cohort shared-disk serve` with these arguments on a free port of the loopback
    /// interface, and waits until it is ready.
    pub fn serve(cohort: Cohort) -> SharedDisk {
        let server = cohort.args(["--iscsi", "127.0.0.1:0"]).start();
        server.wait_for("control: ");
        let said = server.said();
        let urls = said.lines().filter(|line| line.starts_with("iscsi://"));
        SharedDisk { urls: urls.map(str::to_owned).collect(), server }
    }

    /// What one of libiscsi's tools says of a logical unit.
    pub fn ask(&self, tool: &str, arguments: &[&str], lun: usize) -> String {
        let output = Command::new(tool)
            .args(arguments)
            .arg(&self.urls[lun])
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("{tool} does not start: {error}"));
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(output.status.success(), "{tool}: {said}");
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_skipped_or_fails_is_not_what_passes() {
        let output = "\nSuite: A\n  Test: One ...passed\n  Test: Two ...    [SKIPPED] no flag\npassed\n  \
            Test: Three ...    [FAILED] but\nFAILED\n    1. a.c:1 - CU_FAIL(\"x\")\nSuite: B\n  Test: \
            Four ...    [FAILED] as wanted\npassed    [FAILED] at the end\npassed\n  Test: Five ...FAILED\n    1. a.c:2\n\nRun Summary: \
            passed\n";
        let found: Vec<_> = verdicts(output)
            .into_iter()
            .map(|(name, verdict)| (name, verdict.failed, verdict.skipped))
            .collect();
        let wanted = [
            ("A.One", false, false),
            ("A.Three", true, false),
            ("A.Two", false, true),
            ("B.Five", true, false),
            ("B.Four", false, false),
        ];
        assert_eq!(found, wanted.map(|(name, failed, skipped)| (name.to_owned(), failed, skipped)));
    }
}
