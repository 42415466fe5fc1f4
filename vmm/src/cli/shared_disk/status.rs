//! `cohort shared-disk status`.

use std::fmt::Write;
use std::path::PathBuf;

use cohort::shared_disk::control::Request;
use serde_json::Value;

use super::{Done, ask, server};
use crate::cli::{print, print_json, shown};

/// Shows the disks of a server, who is connected, and who holds which reservation
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The server's control socket [default: that of this user's only server]
    socket: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: &Args) -> Done {
    let status = ask(&server(args.socket.as_deref())?, Request::Status)?;
    if args.json {
        print_json(&status)?;
    } else {
        print(&shown(&text(&status)))?;
    }
    Ok(0)
}

/// The names of the types of persistent reservations (SPC-4 table 175).
fn kind(code: u64) -> &'static str {
    match code {
        1 => "write exclusive",
        3 => "exclusive access",
        5 => "write exclusive, registrants only",
        6 => "exclusive access, registrants only",
        7 => "write exclusive, all registrants",
        8 => "exclusive access, all registrants",
        _ => "unknown",
    }
}

fn text(status: &Value) -> String {
    let mut text = String::new();
    for remote in array(&status["remotes"]) {
        let _ = writeln!(text, "{}", word(&remote["url"]));
    }
    if let Some(iqn) = status["iqn"].as_str() {
        let _ = writeln!(text, "{iqn}");
    }
    let mut line = |depth: usize, what: &str| {
        let _ = writeln!(text, "{}{}", "  ".repeat(depth), what.replace('\n', "\u{fffd}"));
    };
    for unit in array(&status["target"]["units"]) {
        line(1, &format!("LUN {}  {}  {} bytes", unit["lun"], word(&unit["path"]), unit["size"]));
        let traffic = |what: &str, bytes: &str| format!("{} in {} bytes", unit[what], unit[bytes]);
        let (reads, writes) = (traffic("reads", "read_bytes"), traffic("writes", "written_bytes"));
        line(2, &format!("reads {reads}, writes {writes}"));
        let holders: Vec<&str> = array(&unit["holders"]).map(word).collect();
        match unit["kind"].as_u64() {
            Some(code) => {
                line(2, &format!("reservation: {}, held by {}", kind(code), holders.join(", ")));
            }
            None => line(2, "reservation: none"),
        }
        let kept = if unit["aptpl"] == true { ", kept over restarts" } else { "" };
        line(2, &format!("generation {}{kept}", unit["generation"]));
        for registration in array(&unit["registrations"]) {
            let key = registration["key"].as_u64().unwrap_or_default();
            line(3, &format!("key {key:#018x}  {}", word(&registration["port"])));
        }
    }
    for remote in array(&status["remotes"]) {
        let state = if remote["connected"] == true { "connected" } else { "lost" };
        let mut about = format!(
            "session with {}: {state} for {} s, {} reconnects, {} commands, {} bytes received, {} sent",
            word(&remote["peer"]),
            remote["seconds"],
            remote["reconnects"],
            remote["commands"],
            remote["received"],
            remote["sent"],
        );
        if let Some(error) = remote["last_error"].as_str() {
            about += &format!("; last failure: {error}");
        }
        line(1, &about);
    }
    for socket in array(&status["sockets"]) {
        let used = match socket["pid"].as_u64() {
            _ if socket["connected"] != true => "not connected".to_owned(),
            Some(pid) => format!("process {pid} is connected"),
            None => "connected".to_owned(),
        };
        let what = match socket["lun"].as_u64() {
            Some(lun) => format!("block device on LUN {lun}"),
            None => "SCSI host".to_owned(),
        };
        let (path, initiator) = (word(&socket["path"]), word(&socket["initiator"]));
        line(1, &format!("{path}: {what} of {initiator}, {used}"));
    }
    for session in array(&status["sessions"]) {
        let kind = if session["discovery"] == true { "discovery " } else { "" };
        line(
            1,
            &format!(
                "{kind}session of {} from {}: {} s, {} commands under way, {} bytes received, {} sent",
                word(&session["initiator"]),
                word(&session["peer"]),
                session["seconds"],
                session["commands"],
                session["received"],
                session["sent"],
            ),
        );
    }
    text
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
