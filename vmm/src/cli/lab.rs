//! `cohort lab`: several guests from one file.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use clap::Subcommand;
use cohort::lab::report::{GuestReport, Report};
use cohort::lab::results::{Results, ResultsError, default_dir};
use cohort::lab::sink::Sink;
use cohort::lab::supervisor::{self, GuestCommand, Options};
use cohort::lab::{Lab, LabError};
use cohort::mem::registry::Registry;
use cohort::signals::StopSignals;
use comfy_table::{CellAlignment, Table, TableComponent, presets};
use serde_json::json;

use super::failure::{Failure, error_text, print_error};
use super::mem::held_line;
use super::{Done, STATUSES, mebibytes, print, print_json, tell};

/// Runs the guests of a lab file together, or checks the file
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(RunArgs),
    Validate(FileArgs),
}

/// Checks a lab file and starts nothing; every mistake is shown with its place in the file
#[derive(Debug, clap::Args)]
struct FileArgs {
    /// The lab file
    #[arg(value_name = "LAB.toml")]
    file: PathBuf,
    /// Lay a value over the file, as in vm.node.memory=128M; can be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Starts every guest of a lab file, each in a process of its own, and waits for all of them
///
/// Ends with a table of the guests, how they ended, and what each held of the host's memory when
/// it held most. Consoles (NAME.console), outcomes (NAME.json), the report (lab.json) and the
/// memory over time (memory.csv, memory.json, memory.svg) are kept in the results folder; the next
/// run replaces them. Ctrl-C stops every guest.
#[derive(Debug, clap::Args)]
#[command(after_help = STATUSES)]
struct RunArgs {
    #[command(flatten)]
    lab: FileArgs,
    /// Run at most N guests at a time [default: all]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    jobs: Option<u32>,
    /// Folder for the results [default: $XDG_STATE_HOME/cohort/labs/NAME]
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
    /// Show what the guests print on stderr, each line after its guest's name
    #[arg(short, long)]
    verbose: bool,
}

pub(super) fn main(args: Args) -> Done {
    match args.command {
        Command::Run(args) => run(&args),
        Command::Validate(args) => validate(&args),
    }
}

fn validate(args: &FileArgs) -> Done {
    let lab = match read(args)? {
        Ok(lab) => lab,
        Err(status) => return Ok(status),
    };
    let names: Vec<&str> = lab.guests.iter().map(|guest| guest.spec.name.as_str()).collect();
    if args.json {
        print_json(&json!({ "lab": lab.name, "guests": names, "mistakes": [] }))?;
    } else {
        let file = args.file.display();
        print(&format!("{file}: no mistakes; {} guests: {}\n", names.len(), names.join(", ")))?;
    }
    Ok(0)
}

fn run(args: &RunArgs) -> Done {
    let lab = match read(&args.lab)? {
        Ok(lab) => lab,
        Err(status) => return Ok(status),
    };
    // Not before: reading can wait for a pipe, and nothing runs yet that would have to be stopped.
    let signals = StopSignals::block().map_err(Failure::host)?;
    let dir = match &args.results {
        Some(dir) => dir.clone(),
        None => default_dir(&lab.name).map_err(refused)?,
    };
    let results = Results::open(&dir).map_err(refused)?;
    raise_descriptor_limit();
    let options = Options {
        jobs: args.jobs.and_then(|jobs| usize::try_from(jobs).ok()),
        echo: args.verbose,
        command: GuestCommand::this_program(&lab.name),
    };
    let deadline = lab.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut messages = Sink::new(io::stderr(), &signals, deadline);
    let report = supervisor::run(&lab, &options, &results, &signals, &mut messages)
        .context("the lab could not be run to its end")
        .map_err(Failure::host)?;
    // What guests that were killed have left.
    Registry::of_user().sweep();
    if args.lab.json {
        print_json(&report)?;
    } else {
        print(&format!("{}\n", table(&report).trim_fmt()))?;
        print(&memory(&report))?;
    }
    for disk in &report.lost_shared_disks {
        let lost = error_text(&format!("shared disk {}: {}", disk.name, disk.detail), None);
        let _ = messages.write_all(lost.as_bytes());
    }
    for guest in report.guests.iter().filter(|guest| !guest.as_expected) {
        let _ = messages.write_all(complaint(guest).as_bytes());
    }
    Ok(report.status)
}

/// The lab, or the exit status when the file has mistakes, which are then told.
fn read(args: &FileArgs) -> Result<Result<Lab, u8>, Failure> {
    let mistakes = match Lab::read(&args.file, &args.sets) {
        Ok(lab) => return Ok(Ok(lab)),
        Err(LabError::Mistakes(mistakes)) => mistakes,
        Err(error @ LabError::Read { .. }) => return Err(Failure::usage(error)),
    };
    if args.json {
        print_json(&json!({ "mistakes": mistakes.mistakes }))?;
    } else {
        for mistake in &mistakes.mistakes {
            tell(&format!("{mistake}\n"));
        }
    }
    print_error(&mistakes.to_string(), None);
    Ok(Err(2))
}

fn refused(error: ResultsError) -> Failure {
    let help = error.help();
    Failure::host(error).help(help)
}

/// Four descriptors for each guest can be more than the soft limit of 1024.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

fn table(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_style(TableComponent::HeaderLines, '─');
    table.set_style(TableComponent::MiddleHeaderIntersections, '─');
    table.set_header([
        "guest", "outcome", "status", "expected", "wall", "cpu", "pss", "private", "shared", "peak",
    ]);
    for guest in &report.guests {
        let outcome = &guest.outcome;
        // One that was never looked at while it ran has told what it held at its end.
        let at_end = &outcome.memory;
        let (pss, private, shared) = match &guest.memory_peak {
            Some(most) => (most.pss_kib, most.private_kib, most.shared_kib),
            None => (at_end.pss_kib, at_end.private_kib, at_end.shared_kib),
        };
        let expected =
            if guest.as_expected { "yes".into() } else { format!("no, {}", guest.expected) };
        table.add_row([
            outcome.name.clone(),
            outcome.ending.word().into(),
            guest.exit_status.to_string(),
            expected,
            seconds(outcome.wall_ms),
            seconds(outcome.cpu_ms),
            mebibytes(pss),
            mebibytes(private),
            mebibytes(shared),
            mebibytes(outcome.memory.peak_rss_kib),
        ]);
    }
    for column in [2, 4, 5, 6, 7, 8, 9] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// What the guests held together when that was most; nothing of a lab that was over too soon.
fn memory(report: &Report) -> String {
    let peak = report.memory.as_ref().and_then(|memory| memory.peak);
    peak.map_or_else(String::new, |peak| {
        let held = held_line(peak.guests, peak.held_kib, peak.unshared_kib);
        format!("memory after {}: {held}\n", seconds(peak.at_ms))
    })
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03} s", ms / 1000, ms % 1000)
}

/// Says why a guest's end was not the expected one.
fn complaint(guest: &GuestReport) -> String {
    let outcome = &guest.outcome;
    let mut text = format!(
        "{}: {} (status {}), expected {}",
        outcome.name,
        outcome.ending.word(),
        guest.exit_status,
        guest.expected
    );
    if let Some(detail) = &outcome.detail {
        text.push_str(": ");
        text.push_str(detail);
    }
    let console = format!("its console is in {}", show(&guest.console));
    error_text(&text, Some(outcome.help.as_deref().unwrap_or(&console)))
}

fn show(path: &Path) -> String {
    path.display().to_string()
}
