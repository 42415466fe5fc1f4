//! `cargo xtask test`: every check there is, and a last line with the totals.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use cohort_tests::linux;

use crate::cache::Cache;
use crate::debian::Kernel;
use crate::oracles::Oracles;
use crate::{fuzz, guest_files, lint, setup, tool, workspace};

mod batch;
mod tally;

use tally::{Runner, Tally};

/// How long each fuzzer runs.
const FUZZ_SECONDS: u64 = 20;

/// What to leave out.
#[derive(Args)]
pub(crate) struct Options {
    /// Leave out the tests on nested hardware KVM.
    #[arg(long)]
    skip_nested: bool,
    /// Leave out the fuzzers.
    #[arg(long)]
    skip_fuzz: bool,
    /// Leave out formatting, lints and documentation.
    #[arg(long)]
    skip_checks: bool,
    /// Leave out everything but these binaries of the tests on nested hardware KVM.
    #[arg(long, value_name = "BINARY", value_parser = batch::BINARIES)]
    nested: Vec<String>,
}

/// Runs everything, going on after failures, and ends with `N passed, N failed`.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let mut suite = Suite { total: Tally::default(), times: Vec::new() };
    suite.check("setup", setup::run);
    if !options.nested.is_empty() {
        suite.tests("nested tests", || batch::run(&options.nested));
        return Ok(suite.finish());
    }
    let mut oracles = None;
    suite.check("second opinions", || {
        oracles = Some(Oracles::fetch(&Cache::open()?)?);
        Ok(())
    });
    let mut guests = None;
    suite.check("guest files", || {
        let cache = Cache::open()?;
        let files = guest_files::prepare(&cache, &Kernel::fetch(&cache)?)?;
        guests = Some(files.folder(&cache)?);
        Ok(())
    });
    if !options.skip_checks {
        suite.check("format", || tool::shown(workspace::cargo().args(["fmt", "--all", "--check"])));
        suite.check("source rules", source_rules);
        suite.check("clippy", || {
            let mut clippy = workspace::cargo();
            clippy.args(["clippy", "--quiet", "--workspace", "--all-targets", "--"]);
            tool::shown(clippy.args(["-D", "warnings"]))
        });
        suite.check("documentation", || {
            let mut doc = workspace::cargo();
            doc.args(["doc", "--quiet", "--workspace", "--no-deps"]);
            tool::shown(doc.env("RUSTDOCFLAGS", "-Dwarnings"))
        });
    }
    let mut build = workspace::cargo();
    build.args(["build", "--quiet", "--package", "cohort"]);
    if suite.check("build", || tool::shown(&mut build)) {
        let binary = workspace::target()?.join("debug/cohort");
        suite.tests("unit and integration tests", || {
            let (runner, mut command) = test_runner();
            oracles.iter().try_for_each(|oracles| oracles.tell(&mut command))?;
            if let Some(folder) = &guests {
                command.env(linux::FILES, folder);
            }
            tally::of_tests(runner, command.env("COHORT_BIN", &binary))
        });
        suite.tests("documentation tests", || {
            let mut doc_tests = workspace::cargo();
            doc_tests.args(["test", "--workspace", "--doc"]);
            tally::of_tests(Runner::Libtest, &mut doc_tests)
        });
        if !options.skip_fuzz && suite.check("fuzzers", fuzz::build) {
            for target in fuzz::TARGETS {
                suite.check(target, || fuzz::run(target, FUZZ_SECONDS));
            }
        }
        if !options.skip_nested {
            suite.tests("nested tests", || batch::run(&[]));
        }
    }
    Ok(suite.finish())
}

/// cargo-nextest where it is installed: each test has its own process and time limit.
fn test_runner() -> (Runner, Command) {
    let nextest = tool::quiet(workspace::cargo().args(["nextest", "--version"])).is_ok();
    let mut command = workspace::cargo();
    if nextest {
        command.args(["nextest", "run", "--workspace", "--color=never"]);
        (Runner::Nextest, command)
    } else {
        command.args(["test", "--workspace", "--all-targets", "--no-fail-fast"]);
        (Runner::Libtest, command)
    }
}

fn source_rules() -> Result<()> {
    let findings = lint::check(&workspace::root())?;
    findings.iter().for_each(|finding| eprintln!("{finding}"));
    if !lint::passes(&findings) {
        bail!("source rules are broken");
    }
    Ok(())
}

struct Suite {
    total: Tally,
    times: Vec<(&'static str, Duration, Tally)>,
}

impl Suite {
    /// Runs a step that counts as one check; says whether it passed.
    fn check(&mut self, name: &'static str, step: impl FnOnce() -> Result<()>) -> bool {
        self.tests(name, || step().map(|()| Tally::one_passed()))
    }

    /// Runs a step that counts its own tests; says whether all passed.
    fn tests(&mut self, name: &'static str, step: impl FnOnce() -> Result<Tally>) -> bool {
        eprintln!("== {name}");
        let start = Instant::now();
        let tally = step().unwrap_or_else(|error| {
            eprintln!("{name}: {error:#}");
            Tally::one_failed(name)
        });
        let passed = tally.failed.is_empty();
        self.total.add(&tally);
        self.times.push((name, start.elapsed(), tally));
        passed
    }

    fn finish(self) -> ExitCode {
        println!();
        for (name, time, tally) in &self.times {
            let failed = tally.failed.len();
            let seconds = time.as_secs_f64();
            println!("{name:<28} {:>5} passed {failed:>4} failed {seconds:>8.1} s", tally.passed);
        }
        if !Path::new("/dev/kvm").exists() {
            println!("there is no /dev/kvm: integration tests that need it did nothing");
        }
        for failure in &self.total.failed {
            println!("failed: {failure}");
        }
        println!("{} passed, {} failed", self.total.passed, self.total.failed.len());
        if self.total.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
