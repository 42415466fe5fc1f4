//! `cohort disk`: makes, shows, checks, copies and merges disks while no guest uses them.

mod check;
mod commit;
mod copy;
mod create;
mod info;
mod map;
mod relink;
mod watch;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use cohort::units::{parse_disk_size, show_size};
use storage::Format;
use storage::tools::{DiskName, ToolError};

use self::watch::Watch;
use super::failure::Failure;
use super::{Done, print, print_json, shown, tell};

const STATUSES: &str = "\
Exit statuses:
  0    done; check: all is well; compare: the contents are equal
  1    compare: the contents differ; check: the disk cannot be checked
  2    the command line is wrong, or what it asks for cannot be; check: the disk is damaged;
       compare: a disk cannot be read
  3    check: space is lost or something is out of date, no content is wrong
  40   a parent has changed since its child was made
  41   a child does not record its parent's identity
  42   a parent is missing
  43   a layer is its own ancestor
  44   a chain has too many layers
  45   a parent is in use
  125  cohort or the host failed
  128+N  stopped by signal N";

const FORMATS: &str = "raw|layer|qcow2|vhdx";

/// Makes, shows, checks, copies and merges disks, and the chains of layers that they are made of
///
/// A layer holds what differs from its parent, and records where the parent is and what it was:
/// whoever changes a parent damages its children, so a chain whose parent has changed is not
/// opened. Formats: raw, layer (cohort's own), qcow2, vhdx. A format is never guessed from
/// content: the name's extension tells it, or the command line.
#[derive(Debug, clap::Args)]
#[command(after_help = STATUSES)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(create::Args),
    Snapshot(create::SnapshotArgs),
    Info(info::Args),
    Check(check::Args),
    Map(map::Args),
    Convert(copy::ConvertArgs),
    Compare(copy::CompareArgs),
    Commit(commit::Args),
    Relink(relink::Args),
}

pub(super) fn main(args: Args) -> Done {
    match args.command {
        Command::Create(args) => create::main(args),
        Command::Snapshot(args) => create::snapshot(args),
        Command::Info(args) => info::main(&args),
        Command::Check(args) => check::main(&args),
        Command::Map(args) => map::main(&args),
        Command::Convert(args) => copy::convert(args),
        Command::Compare(args) => copy::compare(args),
        Command::Commit(args) => commit::main(args),
        Command::Relink(args) => relink::main(args),
    }
}

/// A tool's error as users see it; `other` is the status of what has none of its own.
fn failed_with(error: ToolError, watch: Option<&Watch>, other: u8) -> Failure {
    let signal = watch.and_then(Watch::signal);
    let status = match (&error, signal) {
        (ToolError::Interrupted, Some(signal)) => 128u8.saturating_add(signal),
        _ if error.is_usage() => 2,
        _ => error.chain().map_or(other, storage::ChainError::status),
    };
    let help = error.help();
    Failure::host(error).help(help).with_status(status)
}

/// The same, cohort's own status for what has no other.
fn failed(error: ToolError, watch: Option<&Watch>) -> Failure {
    failed_with(error, watch, 125)
}

/// Prints text with names and paths in it, which images made by others can hold too.
fn print_shown(text: &str) -> Result<(), Failure> {
    print(&shown(text))
}

/// Text that is to stay within one line, such as a name.
fn in_line(text: impl std::fmt::Display) -> String {
    shown(&text.to_string()).replace('\n', "\u{fffd}")
}

/// A file's name in one line.
fn name(path: &Path) -> String {
    in_line(path.display())
}

fn named(path: PathBuf, format: Option<Format>) -> DiskName {
    DiskName { path, format, allow_mismatch: false }
}

fn format(text: &str) -> Result<Format, String> {
    text.parse().map_err(|error: storage::UnknownFormat| error.to_string())
}

fn size(text: &str) -> Result<u64, String> {
    parse_disk_size(text).map_err(|error| format!("{error}: {}", error.help()))
}

/// A size for people: exact, and in short where that is shorter.
fn both_sizes(bytes: u64) -> String {
    match show_size(bytes) {
        short if short.ends_with('B') => format!("{bytes} bytes"),
        short => format!("{short} ({bytes} bytes)"),
    }
}

/// Warns of a child that other programs would take for a disk without a parent.
fn warn_only_cohort(path: &Path, only_cohort_follows: bool) {
    if only_cohort_follows {
        tell(&format!(
            "warning: only cohort follows {} to its parent: other programs that know its format \
             would not find one\n",
            name(path)
        ));
    }
}
