//! `cohort shared-disk`: disks that several guests use at once.

mod clear;
mod connect;
mod serve;
mod status;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use cohort::shared_disk::control::{self, ControlError, Request};

use super::Done;
use super::failure::Failure;

const STATUSES: &str = "\
Exit statuses:
  0    done
  2    the command line is wrong; serve, connect: a disk, file, socket or address that it names
       cannot be used; clear: there is no such logical unit
  40 to 45  serve: what is wrong with a disk's chain (see cohort disk)
  125  cohort or the host failed; there is no such server
  128+N  serve, connect: stopped by signal N, after all sessions were ended and disks closed";

/// Serves disks that several guests use at once, as a SAN does
///
/// A server owns the disks. It offers each as a SCSI logical unit with persistent reservations,
/// by which guests keep each other out (fencing): to guests on this host by vhost-user sockets, to
/// any initiator over iSCSI. `connect` presents what a server on another host has, whoever made it,
/// to guests on this one. A reservation belongs to the initiator that made it, whichever connection
/// it comes over, and survives the server where the initiator asked for that (APTPL).
#[derive(Debug, clap::Args)]
#[command(after_help = STATUSES)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Connect(connect::Args),
    Status(status::Args),
    Clear(clear::Args),
}

pub(super) fn main(args: Args) -> Done {
    match args.command {
        Command::Serve(args) => serve::main(args),
        Command::Connect(args) => connect::main(args),
        Command::Status(args) => status::main(&args),
        Command::Clear(args) => clear::main(&args),
    }
}

/// The control socket that was named, or that of the only server of this user.
fn server(named: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(path) = named {
        return Ok(path.to_owned());
    }
    let mut servers = control::servers().map_err(Failure::host)?;
    match (servers.pop(), servers.len()) {
        (Some(only), 0) => Ok(only),
        (None, _) => Err(Failure::host(anyhow::anyhow!("no server of this user is running")).help(
            "start one with `cohort shared-disk serve`, or name its control socket".to_owned(),
        )),
        (Some(last), _) => {
            let names = servers.iter().chain([&last]).map(|path| path.display().to_string());
            let names = names.collect::<Vec<_>>().join(", ");
            Err(Failure::usage(anyhow::anyhow!("several servers are running: {names}"))
                .help("name the control socket of one".to_owned()))
        }
    }
}

fn ask(path: &Path, request: Request) -> Result<serde_json::Value, Failure> {
    control::ask(path, request).map_err(|error| match error {
        ControlError::Refused(_) => Failure::usage(error),
        ControlError::Nobody { .. } => {
            Failure::host(error).help("`serve` prints where its control socket is".to_owned())
        }
        ControlError::Nonsense { .. } | ControlError::Listen { .. } => Failure::host(error),
    })
}
