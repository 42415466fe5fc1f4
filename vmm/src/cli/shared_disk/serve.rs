//! `cohort shared-disk serve`.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use cohort::shared_disk::SocketSpec;
use cohort::shared_disk::serve::{Order, ServeError, Serving};
use cohort::signals::StopSignals;
use cohort::spec::{DiskSource, DiskSpec};
use rustix::event::{PollFd, PollFlags, poll};
use storage::iscsi::IscsiName;

use super::Done;
use crate::cli::failure::Failure;
use crate::cli::{print, print_json, tell};

/// The port that iSCSI has at IANA.
const PORT: u16 = 3260;

/// Serves disks until it is stopped by a signal
///
/// Prints `ready` and where each logical unit is found once it serves.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The disks, LUN 0 first, as for `cohort run --disk`
    #[arg(required = true, value_name = "PATH[,OPTION]...", value_parser = disk)]
    disks: Vec<DiskSpec>,
    /// Serve iSCSI on this address, or on this port of the loopback interface; can be given several
    /// times. Port 0 is any that is free
    #[arg(
        long,
        required_unless_present_any = ["vhost_user_scsi", "vhost_user_blk"],
        value_name = "ADDRESS[:PORT]|PORT",
        value_parser = address
    )]
    iscsi: Vec<SocketAddr>,
    /// Serve a guest on this host by a Unix socket, all disks behind a SCSI host (cohort run --disk
    /// vhost-user=SOCK,kind=scsi); once for each guest. Reservations belong to the initiator, which
    /// is named after the socket unless told otherwise
    #[arg(long, value_name = "SOCK[,initiator=NAME]")]
    vhost_user_scsi: Vec<SocketSpec>,
    /// Serve a guest on this host by a Unix socket, one disk as a block device (cohort run --disk
    /// vhost-user=SOCK,kind=blk) [default: lun=0]
    #[arg(long, value_name = "SOCK[,lun=N][,initiator=NAME]")]
    vhost_user_blk: Vec<SocketSpec>,
    /// The target's name [default: iqn.2026-11.cohort: and the first disk's name]
    #[arg(long, value_name = "NAME", value_parser = name)]
    iqn: Option<IscsiName>,
    /// Let only initiators in that know a secret (CHAP). Lines of the file are `name:secret`; the
    /// line of the target's own name is what it proves itself with
    #[arg(long, value_name = "FILE")]
    chap: Option<PathBuf>,
    /// Where reservations are kept that survive the server [default: beside the first disk,
    /// PATH.reservations]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// The control socket, for `status` and `clear` [default: one of this user's]
    #[arg(long, value_name = "SOCKET")]
    control: Option<PathBuf>,
    /// Print what is ready as JSON
    #[arg(long)]
    json: bool,
}

fn disk(text: &str) -> Result<DiskSpec, String> {
    let disk: DiskSpec = text.parse().map_err(|error| format!("{error}"))?;
    match disk.source {
        DiskSource::VhostUser { .. } => Err("a vhost-user back end shares its disks itself".into()),
        _ => Ok(disk),
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let ip = || text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT));
    // Nobody else reaches this host's disks unless an address says so.
    let port = || text.parse::<u16>().map(|port| (Ipv4Addr::LOCALHOST, port).into());
    text.parse().or_else(|_| ip()).or_else(|_| port()).map_err(|_: std::num::ParseIntError| {
        "an IP address and port, as in 127.0.0.1:3260 or [::1]:3260, is wanted, or a port, which is \
         one of the loopback interface"
            .to_owned()
    })
}

fn name(text: &str) -> Result<IscsiName, String> {
    IscsiName::new(text).map_err(|error| error.to_string())
}

pub(super) fn main(args: Args) -> Done {
    let signals = StopSignals::block().map_err(Failure::host)?;
    let Args { disks, iscsi, vhost_user_scsi, vhost_user_blk, iqn, chap, state, control, json } =
        args;
    for address in iscsi.iter().filter(|address| !address.ip().is_loopback()) {
        let everyone = match chap {
            Some(_) => "who knows a secret",
            None => "(--chap lets only those in who know a secret)",
        };
        tell(&format!(
            "warning: everyone who can reach {address} can use the disks {everyone}; iSCSI is not \
             encrypted\n"
        ));
    }
    let (scsi, blk) = (vhost_user_scsi, vhost_user_blk);
    let order = Order { disks, iscsi, scsi, blk, iqn, chap, state, control };
    let serving = Serving::start(&order).map_err(failed)?;
    if json {
        let control = serving.control().display().to_string();
        let sockets: Vec<_> = serving.sockets().map(|path| path.display().to_string()).collect();
        print_json(&serde_json::json!({
            "urls": serving.urls(), "sockets": sockets, "control": control
        }))?;
    } else {
        let mut text = "ready\n".to_owned();
        for url in serving.urls() {
            let _ = writeln!(text, "{url}");
        }
        for socket in serving.sockets() {
            let _ = writeln!(text, "vhost-user: {}", socket.display());
        }
        let _ = writeln!(text, "control: {}", serving.control().display());
        print(&text)?;
    }
    let signal = wait(&signals)?;
    serving.stop().map_err(failed)?;
    Ok(128u8.saturating_add(signal))
}

/// Waits for the signal to stop.
pub(super) fn wait(signals: &StopSignals) -> Result<u8, Failure> {
    loop {
        match poll(&mut [PollFd::new(signals, PollFlags::IN)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Failure::host(std::io::Error::from(error))),
        }
        if let Some(signal) = signals.take() {
            return Ok(signal);
        }
        // A descriptor that is readable and has nothing to say.
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn failed(error: ServeError) -> Failure {
    let status = match &error {
        ServeError::Disk { source, .. } => source.chain().map_or(2, storage::ChainError::status),
        ServeError::Store(_) | ServeError::Secrets(_) | ServeError::Name(_) => 2,
        ServeError::Server(_) | ServeError::Target(_) | ServeError::Control(_) => 2,
        ServeError::Socket(_) => 2,
        _ => 125,
    };
    let help = error.help();
    Failure::host(error).help(help).with_status(status)
}
