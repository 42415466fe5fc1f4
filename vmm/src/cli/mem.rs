//! `cohort mem`: what running guests hold of the host's memory, and what they share.

mod select;
mod text;

use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::Duration;

use cohort::mem::registry::Registry;
use cohort::mem::{Account, Guest};
use serde::Serialize;

use self::select::Selection;
pub(super) use self::text::held_line;
use super::failure::Failure;
use super::{Done, print_json, shown, tell};

/// Shows what running guests hold of the host's memory, where it comes from and who shares it
///
/// All figures are the host kernel's own, from /proc/PID/smaps. Of a page that n processes map,
/// PSS counts an n-th for each. Without LAB, VM or PID: all labs and guests of this user, one line
/// each.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A lab, a guest, or a guest's process
    #[arg(value_name = "LAB|VM|PID")]
    what: Option<String>,
    /// Print the result as JSON; with --watch, one line for each time
    #[arg(long)]
    json: bool,
    /// Look again each second, or every SECONDS, until none of these guests runs any more
    #[arg(
        long, value_name = "SECONDS", num_args = 0..=1, require_equals = true,
        default_missing_value = "1", value_parser = clap::value_parser!(u32).range(1..=86400)
    )]
    watch: Option<u32>,
    /// Also count the host's page frames that guests share, and show some numbers (root alone)
    #[arg(long)]
    frames: bool,
}

/// Guests that belong together.
#[derive(Debug, Serialize)]
struct Group {
    /// The lab; none for guests of `cohort run`.
    lab: Option<String>,
    /// Its supervisor.
    #[serde(skip_serializing_if = "Option::is_none")]
    supervisor: Option<u32>,
    #[serde(flatten)]
    account: Account,
}

pub(super) fn main(args: &Args) -> Done {
    let mut first = true;
    loop {
        let guests = Registry::of_user().guests().map_err(|error| {
            let help = error.help();
            Failure::host(error).help(help)
        })?;
        let selection = Selection::of(args.what.as_deref(), &guests);
        if selection.guests.is_empty() {
            match &args.what {
                // It was there, and has ended.
                _ if !first && args.what.is_some() => return Ok(0),
                Some(what) => return Err(selection.nothing(what)),
                None => {}
            }
        }
        let groups = groups(&selection.guests, &guests, args.frames);
        if !show(args, &groups, first)? {
            return Ok(0);
        }
        let Some(seconds) = args.watch else { return Ok(status(&groups)) };
        first = false;
        thread::sleep(Duration::from_secs(seconds.into()));
    }
}

/// One account for each lab, and one for all guests without. Of all guests, they say which ones
/// share something with those that are `selected`.
fn groups(selected: &[Guest], all: &[Guest], frames: bool) -> Vec<Group> {
    let account = Account::of(all, frames);
    // In the order of labs and their supervisors.
    let groups = selected.chunk_by(|a, b| a.lab == b.lab);
    let group = |guests: &[Guest]| {
        let lab = guests.first().and_then(|guest| guest.lab.as_ref());
        Group {
            lab: lab.map(|lab| lab.name.clone()),
            supervisor: lab.map(|lab| lab.supervisor),
            account: account.only(|pid| guests.iter().any(|guest| guest.process.pid == pid)),
        }
    };
    groups.map(group).collect()
}

/// Prints what there is; says whether somebody still reads it.
fn show(args: &Args, groups: &[Group], first: bool) -> Result<bool, Failure> {
    match (args.json, args.watch) {
        (true, None) => print_json(&groups).map(|()| true),
        (true, Some(_)) => {
            let line = serde_json::to_string(groups).map_err(Failure::host)?;
            write(&format!("{line}\n"))
        }
        (false, watch) => {
            let detailed = args.what.is_some() || args.frames;
            let text = shown(&text::of(groups, detailed));
            complain(groups);
            // A terminal shows the last state alone, anything else all of them.
            let clear = match watch {
                Some(_) if io::stdout().is_terminal() => "\x1b[H\x1b[2J",
                Some(_) if !first => "\n",
                _ => "",
            };
            write(&format!("{clear}{text}"))
        }
    }
}

/// Writes to stdout at once; a reader that has gone wants no more.
fn write(text: &str) -> Result<bool, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => {
            Err(Failure::host(anyhow::Error::new(error).context("cannot write to standard output")))
        }
    }
}

/// Says of which guests nothing is known, one line each.
fn complain(groups: &[Group]) {
    for account in groups.iter().map(|group| &group.account) {
        for unknown in &account.unknown {
            let help = unknown.help.map(|help| format!(" ({help})")).unwrap_or_default();
            tell(&format!("warning: {}{help}\n", unknown.why));
        }
        if let Some(why) = &account.no_frames {
            tell(&format!("warning: no page frames: {why}\n"));
        }
    }
}

/// 1 when something that was asked for could not be told.
fn status(groups: &[Group]) -> u8 {
    u8::from(groups.iter().any(|group| !group.account.unknown.is_empty()))
}
