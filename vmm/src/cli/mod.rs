//! The command line: one file for each subcommand.

mod bench;
mod disk;
mod doctor;
mod failure;
mod lab;
mod logging;
mod mem;
mod run;
mod shared_disk;
mod terminal;
mod vm;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::failure::Failure;

const STATUSES: &str = "\
Exit statuses:
  0    the guest powered off; every guest of the lab ended as expected
  N    the guest's program exited with N
  1    a guest of the lab did not end as expected; this host cannot run guests (doctor);
       the memory of a guest may not be read (mem)
  2    the command line or the lab file is wrong; nothing was started
  32   the guest asked for a reset
  33   the guest crashed (triple fault, internal error)
  34   the guest's kernel panicked
  40   a disk's parent has changed since its child was made
  41   a disk does not record its parent's identity
  42   a disk's parent is missing
  43   a disk is its own ancestor
  44   a disk's chain has too many layers
  45   a disk's parent is in use
  124  the guest ran longer than its timeout
  125  cohort or the host failed
  128+N  cohort was stopped by signal N

The outcome in --outcome FILE, and in a lab's results, tells apart what shares a status.
Set COHORT_LOG for a log on stderr, as in COHORT_LOG=debug or COHORT_LOG=cohort::machine=trace.";

/// Runs virtual machines: one, or several that belong together
#[derive(Debug, Parser)]
#[command(name = "cohort", version, after_help = STATUSES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::Args>),
    Lab(lab::Args),
    Disk(disk::Args),
    #[command(name = "shared-disk")]
    SharedDisk(shared_disk::Args),
    Mem(mem::Args),
    Bench(bench::Args),
    Doctor(doctor::Args),
    #[command(hide = true)]
    Vm(vm::Args),
}

/// Does what the command line says.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    logging::start();
    cohort::signals::survive_file_size_limits();
    let done = match cli.command {
        Command::Run(args) => run::main(*args),
        Command::Lab(args) => lab::main(args),
        Command::Disk(args) => disk::main(args),
        Command::SharedDisk(args) => shared_disk::main(args),
        Command::Mem(args) => mem::main(&args),
        Command::Bench(args) => bench::main(&args),
        Command::Doctor(args) => doctor::main(&args),
        Command::Vm(args) => vm::main(&args),
    };
    let status = done.unwrap_or_else(|failure| {
        failure.print();
        failure.status()
    });
    ExitCode::from(status)
}

/// What every subcommand returns: its exit status.
type Done = Result<u8, Failure>;

/// Writes to stdout; a reader that has gone is no failure.
fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::host(anyhow::Error::new(error).context("cannot write to standard output")))
        }
        _ => Ok(()),
    }
}

/// Writes JSON to stdout.
fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(Failure::host)?;
    print(&format!("{text}\n"))
}

/// An amount of memory; a dash for none.
fn mebibytes(kib: u64) -> String {
    match kib {
        0 => "-".into(),
        _ => format!("{}.{} MiB", kib / 1024, kib % 1024 * 10 / 1024),
    }
}

/// Writes a message to stderr. Where that takes none (a full device, a reader that has gone),
/// the exit status still says how things went, which `eprint!` would panic away.
fn tell(text: &str) {
    let _ = io::stderr().write_all(shown(text).as_bytes());
}

/// A message without what a terminal obeys: names and paths in it can hold anything.
fn shown(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' | '\t' => c,
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(shown).collect()
}
