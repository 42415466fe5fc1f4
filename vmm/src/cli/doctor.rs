//! `cohort doctor`: what this host can do, and the command that mends each lack.

mod io_uring;
mod kvm;
mod limits;

use serde::Serialize;

use super::{Done, Failure};

/// Reports what this host can do; each lack with the one command that mends it
///
/// Exits with 0 when guests can run here, 1 when they cannot.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    /// As it should be.
    Ok,
    /// Guests run, but something is slower, smaller or missing.
    Limited,
    /// No guest can run.
    Missing,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    found: String,
    /// The command that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Check {
        Check { name, state: State::Ok, found: found.into(), mend: None }
    }

    fn limited(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Check {
        let mend = Some(mend.into()).filter(|mend: &String| !mend.is_empty());
        Check { name, state: State::Limited, found: found.into(), mend }
    }

    fn missing(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Check {
        Check { state: State::Missing, ..Check::limited(name, found, mend) }
    }
}

#[derive(Serialize)]
struct Report {
    can_run_guests: bool,
    checks: Vec<Check>,
}

pub(super) fn main(args: &Args) -> Done {
    let mut checks = kvm::checks();
    checks.push(io_uring::check());
    checks.extend(limits::checks());
    let can_run_guests = checks.iter().all(|check| check.state != State::Missing);
    let report = Report { can_run_guests, checks };
    let text = if args.json {
        let json = serde_json::to_string_pretty(&report).map_err(Failure::host)?;
        format!("{json}\n")
    } else {
        render(&report)
    };
    super::print(&text)?;
    Ok(if can_run_guests { 0 } else { 1 })
}

fn render(report: &Report) -> String {
    let width = report.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for check in &report.checks {
        let state = match check.state {
            State::Ok => "ok     ",
            State::Limited => "limited",
            State::Missing => "MISSING",
        };
        text.push_str(&format!("{state}  {:width$}  {}\n", check.name, check.found));
        if let Some(mend) = &check.mend {
            text.push_str(&format!("         {:width$}  mend: {mend}\n", ""));
        }
    }
    text.push_str(if report.can_run_guests {
        "guests can run on this host\n"
    } else {
        "guests cannot run on this host\n"
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_is_shown_with_what_mends_it() {
        let checks = vec![
            Check::ok("cpus", "2"),
            Check::missing("kvm", "no /dev/kvm", "modprobe kvm_intel"),
        ];
        let text = render(&Report { can_run_guests: false, checks });
        assert_eq!(
            text,
            "ok       cpus  2\n\
             MISSING  kvm   no /dev/kvm\n         \x20     mend: modprobe kvm_intel\n\
             guests cannot run on this host\n"
        );
    }
}
