//! Fuzzers of tests/fuzz: libFuzzer, with the compiler's coverage counters, which stable Rust has.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{tool, workspace};

/// The programs: one for each format with metadata, one for chains of them, one for the records
/// that children keep, one for each way in which strangers reach disks that are shared, and one
/// for folders that are shared with a guest.
pub(crate) const TARGETS: [&str; 10] = [
    "layer",
    "qcow2",
    "vhdx",
    "chain",
    "link",
    "scsi",
    "iscsi_target",
    "iscsi_initiator",
    "vhost_user",
    "fuse",
];

/// What makes the compiler count, for libFuzzer, which edges a run takes and what it compares.
const COUNTERS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing";

/// Builds the fuzzers.
pub(crate) fn build() -> Result<()> {
    // With a target named, build scripts and macros are built without counters.
    let mut cargo = workspace::cargo();
    cargo.current_dir(workspace::root().join("tests/fuzz"));
    cargo.args(["build", "--quiet", "--release", "--locked", "--target", &triple()?]);
    cargo.arg("--target-dir").arg(workspace::target()?.join("fuzz")).env("RUSTFLAGS", COUNTERS);
    tool::shown(&mut cargo)
}

/// Runs one of them for so many seconds, beginning with what earlier runs found worth keeping and
/// with images that cohort makes. An input that breaks something is kept, and its path told.
pub(crate) fn run(target: &str, seconds: u64) -> Result<()> {
    let built = workspace::target()?.join("fuzz");
    let folder = |name: &str| -> Result<std::path::PathBuf> {
        let path = built.join(name).join(target);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    };
    let (corpus, seeds, found) = (folder("corpus")?, folder("seeds")?, folder("found")?);
    let binary = built.join(triple()?).join("release").join(target);
    let mut first = Command::new(&binary);
    tool::quiet(first.arg("-runs=0").env("COHORT_FUZZ_SEEDS", &seeds))?;
    if fs::read_dir(&seeds)?.next().is_none() {
        bail!("the fuzzer {target} has no inputs to begin with");
    }
    let mut fuzzer = Command::new(&binary);
    fuzzer
        .arg(format!("-max_total_time={seconds}"))
        .args(["-max_len=32768", "-timeout=30", "-rss_limit_mb=1024", "-print_final_stats=1"])
        .arg(format!("-artifact_prefix={}/", found.display()))
        .args([&corpus, &seeds])
        .stdin(Stdio::null());
    let output = fuzzer.output().with_context(|| format!("{} did not start", binary.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let tail: Vec<&str> = said.lines().rev().take(40).collect();
        bail!(
            "the fuzzer {target} found something:\n{}",
            tail.into_iter().rev().collect::<Vec<_>>().join("\n")
        );
    }
    let runs = executions(&said).context("the fuzzer does not say what it did")?;
    println!("fuzzer {target}: {runs} inputs in {seconds} s");
    Ok(())
}

/// How many inputs were tried.
fn executions(said: &str) -> Option<u64> {
    let line =
        said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?;
    line.trim().parse().ok().filter(|&runs| runs > 0)
}

/// The name of this host's kind, as the compiler has it.
fn triple() -> Result<String> {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let version = tool::output(Command::new(rustc).arg("-vV").current_dir(Path::new("/")))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV names no host")
}

#[cfg(test)]
mod tests {
    use super::executions;

    #[test]
    fn a_run_without_inputs_is_no_run() {
        let said = |runs| format!("Done\nstat::number_of_executed_units: {runs}\nstat::x: 1\n");
        assert_eq!(executions(&said("1234")), Some(1234));
        assert_eq!(executions(&said("0")), None);
        assert_eq!(executions("Done"), None);
    }
}
