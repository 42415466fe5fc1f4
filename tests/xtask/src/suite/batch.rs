//! The tests that run on nested hardware KVM: integration test binaries, carried into the outer
//! machine, many for one boot.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};

use super::tally::{Runner, Tally};
use crate::cache::Cache;
use crate::debian::Kernel;
use crate::outer::{self, Answer, Errand};
use crate::stage::Stage;
use crate::tool::quote;
use crate::{guest_files, nested, tool, workspace};

/// The test binaries that run there: those of the built-in guest, whose outcomes must be the same
/// on every KVM, and those of Linux guests, which need hardware.
pub(super) const BINARIES: [&str; 7] = [
    "outcomes",
    "console",
    "hostile_guest",
    "linux",
    "linux_pmem",
    "linux_share",
    "linux_shared_disk",
];
/// Where the files of Linux guests are in the outer machine.
const DEBIAN: &str = "/debian";
/// Stands before the name of a binary, ahead of what it prints.
const HEADING: &str = "# tests of ";
/// Tests skip where there is no KVM. Here there has to be one.
const WITHOUT_KVM: &str =
    "[ -c /dev/kvm ] || { echo 'test the_outer_machine_offers_kvm ... FAILED'; exit 1; }";
/// Outer machines that are started at most.
const OUTER_MACHINES: u32 = 4;
/// Enough for an outer machine on a slow host; the batch takes a few minutes.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// Runs these binaries of the batch, or all where none is named, and counts their tests.
///
/// What failed gets a second boot, and counts as passed if it passes there. TCG's emulation of
/// AMD-V stops a guest now and then in its first second, whoever runs it: of 48 Debian guests on
/// QEMU's own KVM in this outer machine, 3 did not get through their start. Such tests are named.
/// Where the outer machine itself goes, which happens too, that boot does not count.
pub(super) fn run(only: &[String]) -> Result<Tally> {
    let batch = Batch::prepare()?;
    let mut left: Vec<Selection> = test_binaries()?
        .into_iter()
        .filter(|(name, _)| only.is_empty() || only.iter().any(|wanted| wanted == name))
        .map(|(name, binary)| Selection { name, binary, only: Vec::new() })
        .collect();
    let (mut passed, mut failed_before) = (0, Vec::new());
    let (mut machines, mut chances) = (OUTER_MACHINES, 2);
    loop {
        let boot = batch.boot(&left)?;
        machines -= 1;
        if boot.broken && machines > 0 {
            eprintln!("== another boot for all of it: {} failed", boot.names().join(", "));
            continue;
        }
        chances -= 1;
        passed += boot.passed;
        for name in failed_before.iter().filter(|name| !boot.names().contains(name)) {
            println!("passed on the second boot only: {name}");
        }
        if boot.failed.is_empty() || chances == 0 || machines == 0 {
            return Ok(Tally { passed, ..boot.tally() });
        }
        failed_before = boot.names();
        eprintln!("== a second boot for: {}", failed_before.join(", "));
        left = left
            .into_iter()
            .map(|selection| Selection { only: boot.failed_of(selection.name), ..selection })
            .filter(|selection| !selection.only.is_empty())
            .collect();
    }
}

/// What every boot needs.
struct Batch {
    cohort: PathBuf,
    cache: Cache,
    kernel: Kernel,
    files: guest_files::GuestFiles,
}

/// Tests to run of one binary: those with these names, or all where there are none.
struct Selection {
    name: &'static str,
    binary: PathBuf,
    only: Vec<String>,
}

impl Batch {
    fn prepare() -> Result<Batch> {
        let cohort = workspace::release_binary()?;
        let cache = Cache::open()?;
        let kernel = Kernel::fetch(&cache)?;
        let files = guest_files::prepare(&cache, &kernel)?;
        Ok(Batch { cohort, cache, kernel, files })
    }

    /// Boots the outer machine and runs tests in it.
    fn boot(&self, selections: &[Selection]) -> Result<Boot> {
        let mut stage = Stage::new(&self.cache)?;
        stage.program(&self.cohort, Path::new(nested::COHORT))?;
        let labs = workspace::root().join("resources/labs");
        nested::carry_folder(&mut stage, &labs)?;
        self.files.stage_beside_labs(&mut stage, &labs)?;
        self.files.stage_in(&mut stage, Path::new(DEBIAN))?;
        let mut command = format!(
            "export HOME=/ PATH=/usr/bin:/bin COHORT_BIN={} COHORT_DEBIAN={DEBIAN}\n\
             status=0\n{WITHOUT_KVM}\n",
            nested::COHORT
        );
        for Selection { name, binary, only } in selections {
            let there = format!("/tests/{name}");
            stage.program(binary, Path::new(&there))?;
            let mut only: String = only.iter().map(|test| format!(" {}", quote(test))).collect();
            if !only.is_empty() {
                only.insert_str(0, " --exact");
            }
            command += &format!(
                "echo '{HEADING}{name}'\n\
                 {there} --include-ignored --show-output --test-threads=2{only} || status=1\n"
            );
        }
        command += "exit $status\n";

        let transcript = Transcript::default();
        let errand = Errand { stage, command, limit: LIMIT };
        let output = transcript.clone();
        let answer = outer::run(&self.cache, &self.kernel, errand, output, io::stderr())?;
        let mut boot = Boot::read(&transcript.text());
        let broken = match answer {
            Answer::Status(0) => None,
            Answer::Status(_) if !boot.failed.is_empty() => None,
            Answer::Status(status) => {
                Some(format!("a test binary, without naming a test (status {status})"))
            }
            Answer::Died(report) => {
                eprintln!("{report}");
                Some("the outer machine".to_owned())
            }
        };
        if let Some(what) = broken {
            boot.broken = true;
            boot.failed.push((String::new(), what));
        }
        Ok(boot)
    }
}

/// What became of the tests of one boot.
#[derive(Debug, Default, PartialEq)]
struct Boot {
    passed: usize,
    /// Binary and test.
    failed: Vec<(String, String)>,
    /// Something other than a test failed, so that tests may be missing.
    broken: bool,
}

impl Boot {
    /// Reads what the binaries printed, each behind its heading.
    fn read(transcript: &str) -> Boot {
        let mut boot = Boot::default();
        let mut binary = "";
        for line in transcript.lines() {
            if let Some(name) = line.strip_prefix(HEADING) {
                binary = name;
            }
            let mut tally = Tally::default();
            tally.count(Runner::Libtest, line);
            boot.passed += tally.passed;
            // Ahead of the first binary it is the machine itself that fails.
            boot.broken |= binary.is_empty() && !tally.failed.is_empty();
            boot.failed.extend(tally.failed.into_iter().map(|test| (binary.to_owned(), test)));
        }
        boot
    }

    fn failed_of(&self, binary: &str) -> Vec<String> {
        let of_it = self.failed.iter().filter(|(name, _)| name == binary);
        of_it.map(|(_, test)| test.clone()).collect()
    }

    fn names(&self) -> Vec<String> {
        self.failed.iter().map(|(binary, test)| format!("nested {binary} {test}")).collect()
    }

    fn tally(&self) -> Tally {
        Tally { passed: self.passed, failed: self.names() }
    }
}

/// Builds the integration tests and returns the binaries of the batch, by name.
fn test_binaries() -> Result<Vec<(&'static str, PathBuf)>> {
    let messages = tool::output(workspace::cargo().args([
        "test",
        "--quiet",
        "--no-run",
        "--package=cohort-tests",
        "--message-format=json",
    ]))?;
    BINARIES
        .iter()
        .map(|name| {
            let path = messages.lines().find_map(|line| executable(line, name));
            Ok((*name, path.with_context(|| format!("cargo built no test binary {name}"))?))
        })
        .collect()
}

/// The executable of the integration test with this name, if a message of cargo is about it.
fn executable(message: &str, name: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let target = &message["target"];
    let wanted = target["name"] == name && target["kind"][0] == "test";
    message["executable"].as_str().filter(|_| wanted).map(PathBuf::from)
}

/// Shows what is written and keeps it.
#[derive(Clone, Default)]
struct Transcript(Arc<Mutex<Vec<u8>>>);

impl Transcript {
    fn text(&self) -> String {
        let kept = self.0.lock().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        kept.unwrap_or_default()
    }
}

impl Write for Transcript {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(bytes)?;
        if let Ok(mut kept) = self.0.lock() {
            kept.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::{Boot, executable};

    #[test]
    fn failed_tests_are_known_by_their_binary() {
        let boot = Boot::read(
            "# tests of linux\ntest boots ... ok\ntest stops ... FAILED\n\
             # tests of outcomes\ntest stops ... FAILED\ntest poweroff ... ok\n",
        );
        assert_eq!((boot.passed, boot.broken), (2, false));
        assert_eq!(boot.failed_of("linux"), ["stops"]);
        assert_eq!(boot.names(), ["nested linux stops", "nested outcomes stops"]);
        assert!(boot.failed_of("console").is_empty());
        assert!(Boot::read("test the_machine ... FAILED\n").broken);
    }

    #[test]
    fn the_executable_of_an_integration_test_is_found_among_cargos_messages() {
        let of = |kind: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["{kind}"],"name":"linux"}},"executable":"/t/linux-1"}}"#
            )
        };
        assert_eq!(executable(&of("test"), "linux").unwrap().to_str(), Some("/t/linux-1"));
        assert!(executable(&of("bin"), "linux").is_none());
        assert!(executable(&of("test"), "outcomes").is_none());
        assert!(executable("not json", "linux").is_none());
    }
}
