//! `cargo xtask`: everything a contributor runs beside `cargo` itself.
//!
//! ```text
//! cargo xtask setup                    install and fetch what tests and nested runs need
//! cargo xtask nested -- COHORT-ARGS    run cohort on hardware KVM inside QEMU's TCG
//! cargo xtask test                     formatting, lints, documentation, every test
//! cargo xtask fuzz                     hostile images, chains and records, for some seconds each
//! cargo xtask lint                     the project's own rules about its sources
//! ```
//!
//! What is fetched or made lives in `$XDG_CACHE_HOME/cohort-xtask` (or `~/.cache/cohort-xtask`),
//! keyed by version or content; it may be deleted at any time.

mod archive;
mod cache;
mod debian;
mod debian_packages;
mod fuzz;
mod guest_files;
mod lint;
mod nested;
mod oracles;
mod outer;
mod setup;
mod stage;
mod suite;
mod tool;
mod tree;
mod workspace;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Tasks of the cohort workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install the Debian packages that tests and nested runs need, or print the command, fetch
    /// what tests of disk formats compare with, and make what guests boot from. Prints the variable
    /// with which `cargo test` runs those guests that need no KVM.
    Setup,
    /// Run cohort in a machine of its own that has hardware KVM, emulated by QEMU's TCG.
    Nested {
        /// Give up after this many minutes.
        #[arg(long, default_value_t = 10)]
        minutes: u64,
        /// Arguments of cohort; host files that they name are carried into the machine.
        #[arg(last = true, required = true)]
        arguments: Vec<String>,
    },
    /// Check formatting, lints and documentation and run every test; ends with the totals.
    Test(suite::Options),
    /// Run the fuzzers of tests/fuzz.
    Fuzz {
        /// How long each runs.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// The fuzzers to run; all by default.
        #[arg(value_parser = fuzz::TARGETS)]
        targets: Vec<String>,
    },
    /// Check the project's own rules about its sources.
    Lint,
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  cause: {cause}");
            }
            ExitCode::from(125)
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup => {
            setup::run()?;
            let cache = cache::Cache::open()?;
            oracles::Oracles::fetch(&cache)?;
            let files = guest_files::prepare(&cache, &debian::Kernel::fetch(&cache)?)?;
            let folder = files.folder(&cache)?;
            println!("{}={}", cohort_tests::linux::FILES, tool::quote(&folder.to_string_lossy()));
            Ok(ExitCode::SUCCESS)
        }
        Task::Nested { minutes, arguments } => {
            setup::run()?;
            let limit = Duration::from_secs(minutes.saturating_mul(60));
            nested::run(&arguments, limit).map(ExitCode::from)
        }
        Task::Test(options) => suite::run(&options),
        Task::Fuzz { seconds, targets } => {
            fuzz::build()?;
            let all = fuzz::TARGETS.into_iter();
            for target in all.filter(|name| targets.is_empty() || targets.iter().any(|t| t == name))
            {
                fuzz::run(target, seconds)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Task::Lint => {
            let findings = lint::check(&workspace::root())?;
            findings.iter().for_each(|finding| eprintln!("{finding}"));
            Ok(if lint::passes(&findings) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}
