//! `cohort shared-disk connect`.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use cohort::shared_disk::SocketSpec;
use cohort::shared_disk::connect::{Order, PresentError, Presenting};
use cohort::signals::StopSignals;
use cohort::units::parse_duration;
use storage::iscsi::IscsiUrl;

use super::{Done, serve};
use crate::cli::failure::Failure;
use crate::cli::{print, print_json};

/// Presents a disk of an iSCSI target to guests on this host, until it is stopped by a signal
///
/// Each guest has a session of its own with the target, in its own name. A session that is lost is
/// replaced by another: commands that were answered are not sent another time, those that change
/// nothing or were not sent yet are sent then, and of others the guest is told that nobody knows.
/// Prints `ready` once guests can connect.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The disk: any target's logical unit
    #[arg(value_name = "iscsi://HOST[:PORT]/IQN/LUN")]
    url: IscsiUrl,
    /// Serve a guest on this host by a Unix socket (cohort run --disk vhost-user=SOCK,kind=scsi);
    /// once for each guest. The initiator's name is made of the socket's unless told otherwise
    #[arg(long, required = true, value_name = "SOCK[,initiator=NAME]")]
    vhost_user_scsi: Vec<SocketSpec>,
    /// Prove to the target who we are (CHAP). The file's line is `name:secret`; a second one, with
    /// the target's name, has the secret that the target must know
    #[arg(long, value_name = "FILE")]
    chap: Option<PathBuf>,
    /// Ask the target for digests (CRC32C) of headers and data
    #[arg(long)]
    digests: bool,
    /// How long a guest's command waits for a lost session before it fails
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    patience: Duration,
    /// The control socket, for `status` [default: one of this user's]
    #[arg(long, value_name = "SOCKET")]
    control: Option<PathBuf>,
    /// Print what is ready as JSON
    #[arg(long)]
    json: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| format!("{error}: {}", error.help()))
}

pub(super) fn main(args: Args) -> Done {
    let signals = StopSignals::block().map_err(Failure::host)?;
    let Args { url, vhost_user_scsi, chap, digests, patience, control, json } = args;
    let order = Order { url, scsi: vhost_user_scsi, chap, digests, patience, control };
    let presenting = Presenting::start(&order).map_err(failed)?;
    let control = presenting.control().display().to_string();
    let sockets: Vec<_> = presenting.sockets().map(|path| path.display().to_string()).collect();
    if json {
        print_json(&serde_json::json!({ "sockets": sockets, "control": control }))?;
    } else {
        let mut text = "ready\n".to_owned();
        for socket in sockets {
            let _ = writeln!(text, "vhost-user: {socket}");
        }
        let _ = writeln!(text, "control: {control}");
        print(&text)?;
    }
    let signal = serve::wait(&signals)?;
    drop(presenting);
    Ok(128u8.saturating_add(signal))
}

fn failed(error: PresentError) -> Failure {
    let help = error.help();
    Failure::host(error).help(help).with_status(2)
}
