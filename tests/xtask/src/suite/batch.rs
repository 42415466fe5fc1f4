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
use crate::outer::{self, Errand};
use crate::stage::Stage;
use crate::tool::quote;
use crate::{guest_files, nested, tool, workspace};

/// The test binaries that run there: those of the built-in guest, whose outcomes must be the same
/// on every KVM, and those of Linux guests, which need hardware.
const BINARIES: &[&str] = &["outcomes", "console", "hostile_guest", "linux"];
/// Where the files of Linux guests are in the outer machine.
const DEBIAN: &str = "/debian";
/// Tests skip where there is no KVM. Here there has to be one.
const WITHOUT_KVM: &str =
    "[ -c /dev/kvm ] || { echo 'test the_outer_machine_offers_kvm ... FAILED'; exit 1; }";
/// Enough for an outer machine on a slow host; the batch takes a few minutes.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// Runs the batch and counts its tests.
pub(super) fn run() -> Result<Tally> {
    let cohort = workspace::release_binary()?;
    let binaries = test_binaries()?;
    let cache = Cache::open()?;
    let kernel = Kernel::fetch(&cache)?;
    let files = guest_files::prepare(&cache, &kernel)?;

    let mut stage = Stage::new(&cache)?;
    stage.program(&cohort, Path::new(nested::COHORT))?;
    let labs = workspace::root().join("resources/labs");
    nested::carry_folder(&mut stage, &labs)?;
    files.stage_beside_labs(&mut stage, &labs)?;
    files.stage_in(&mut stage, Path::new(DEBIAN))?;
    let mut command = format!(
        "export HOME=/ PATH=/usr/bin:/bin COHORT_BIN={} COHORT_DEBIAN={DEBIAN}\n\
         status=0\n{WITHOUT_KVM}\n",
        nested::COHORT
    );
    for (name, binary) in &binaries {
        let there = format!("/tests/{name}");
        stage.program(binary, Path::new(&there))?;
        command += &format!(
            "echo '# {name}'\n{} --include-ignored --test-threads=2 || status=1\n",
            quote(&there)
        );
    }
    command += "exit $status\n";

    let transcript = Transcript::default();
    let errand = Errand { stage, command, limit: LIMIT };
    let status = outer::run(&cache, &kernel, errand, transcript.clone(), io::stderr());
    let mut tally = transcript.tally();
    match status {
        Ok(0) => {}
        Ok(_) if !tally.failed.is_empty() => {}
        Ok(status) => tally.failed.push(format!("a nested test binary (status {status})")),
        Err(error) => {
            eprintln!("{error:#}");
            tally.failed.push("the outer machine".to_owned());
        }
    }
    Ok(tally)
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
    fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        if let Ok(bytes) = self.0.lock() {
            String::from_utf8_lossy(&bytes)
                .lines()
                .for_each(|line| tally.count(Runner::Libtest, line));
        }
        tally.failed.iter_mut().for_each(|name| name.insert_str(0, "nested: "));
        tally
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
    use super::executable;

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
